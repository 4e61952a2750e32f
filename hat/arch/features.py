"""The ten numbers the 2020 latency predictor sees of an architecture."""

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
