"""What latency predictors see of an architecture: the ten averages of 2020, and what averages lose."""

from statistics import fmean

from hat.arch.config import Arch

FEATURE_NAMES = (
    "encoder_embed_dim",
    "encoder_layer_num",
    "encoder_ffn_embed_dim_avg",
    "encoder_self_attention_heads_avg",
    "decoder_embed_dim",
    "decoder_layer_num",
    "decoder_ffn_embed_dim_avg",
    "decoder_self_attention_heads_avg",
    "decoder_ende_attention_heads_avg",
    "decoder_arbitrary_ende_attn_avg",
)

LAYER_FEATURE_NAMES = (
    *FEATURE_NAMES,
    "encoder_ffn_embed_dim_square_avg",
    "encoder_self_attention_heads_square_avg",
    "decoder_ffn_embed_dim_square_avg",
    "decoder_self_attention_heads_square_avg",
    "decoder_ende_attention_heads_square_avg",
    "decoder_arbitrary_ende_attn_square_avg",
    "decoder_ende_attention_heads_times_arbitrary_avg",
)


def features(arch: Arch) -> list[float]:
    """Return the ten features in the order of FEATURE_NAMES; the last one is the mean span, 1 to 3."""
    enc, dec = arch.encoder, arch.decoder
    return [
        float(enc.embed_dim),
        float(enc.num_layers),
        fmean(enc.ffn_dims),
        fmean(enc.self_heads),
        float(dec.embed_dim),
        float(dec.num_layers),
        fmean(dec.ffn_dims),
        fmean(dec.self_heads),
        fmean(dec.cross_heads),
        fmean(dec.cross_span),
    ]


def layer_features(arch: Arch) -> list[float]:
    """Return the features in the order of LAYER_FEATURE_NAMES: the ten, then means over layers of a layer's
    squares and of its heads times its span.

    Squares tell layers of 512 and 1536 from two of 1024, so a sum over layers can follow a cost per layer
    that is not a straight line in its sizes; where a choice has two values they add nothing.
    """
    enc, dec = arch.encoder, arch.decoder
    per_layer = (enc.ffn_dims, enc.self_heads, dec.ffn_dims, dec.self_heads, dec.cross_heads, dec.cross_span)
    squares = [fmean(value * value for value in values) for values in per_layer]
    products = [heads * span for heads, span in zip(dec.cross_heads, dec.cross_span, strict=True)]
    return [*features(arch), *squares, fmean(products)]
