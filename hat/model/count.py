"""Parameters and multiply-accumulates of an architecture, in closed form."""

from collections.abc import Iterator

from hat.model.layers import ModelConfig
from hat.space import Arch, EncoderArch, SearchSpace


def profile_length(family: str) -> int:
    """Return the tokens of source and target at which models of a family are profiled (HAT 2020)."""
    return 23 if "iwslt" in family else 30


def _layers(arch: Arch, space: SearchSpace) -> Iterator[tuple[EncoderArch, int, list[tuple[int, int, int]]]]:
    """Yield of each layer its stack, its index, and of its attentions: width of the keys, span, qkv-dim."""
    enc, dec = arch.encoder, arch.decoder
    for index in range(enc.num_layers):
        yield enc, index, [(enc.embed_dim, 1, space.qkv_dim)]
    for index, span in enumerate(dec.cross_span):
        qkv = space.decoder_qkv_dim
        yield dec, index, [(dec.embed_dim, 1, qkv), (enc.embed_dim, span, qkv)]


def count_params(arch: Arch, space: SearchSpace) -> int:
    """Return the parameters of the layers: no embeddings, no output matrix, full qkv biases (HAT 2020)."""
    total = 0
    for stack, index, attentions in _layers(arch, space):
        dim, ffn = stack.embed_dim, stack.ffn_dims[index]
        total += sum((dim + 2 * source + 3) * qkv + (qkv + 1) * dim for source, _, qkv in attentions)
        total += 2 * dim * ffn + ffn + dim
        total += 2 * dim * (len(attentions) + 1)  # a normalisation of each block
    return total


def count_macs(arch: Arch, space: SearchSpace, length: int, cfg: ModelConfig | None = None) -> int:
    """Return the multiply-accumulates of one forward pass, batch 1, `length` source and target tokens.
    Teacher forcing, without the output matrix. Counted as torchprofile 0.1 counts the plain float32 pass:
    matrix products, normalisations with scale, and element-wise products (embedding scale and query scale).
    With the options of a model also the two products of integers a position is computed with, and the
    normalisation behind the last layer if layers begin with theirs: torchprofile's number to the last digit.
    """
    n = length
    total = n * (arch.encoder.embed_dim + arch.decoder.embed_dim)  # embeddings times their scale
    for stack, index, attentions in _layers(arch, space):
        dim = stack.embed_dim
        for source, span, qkv in attentions:
            keys = span * n
            total += 2 * n * dim * qkv + 2 * keys * source * qkv  # projections
            total += 2 * n * keys * qkv + n * qkv  # both products, and the scaled queries
        total += 2 * n * dim * stack.ffn_dims[index]
        total += n * dim * (len(attentions) + 1)  # a normalisation of each block
    if cfg:
        total += n * (2 + arch.encoder.embed_dim * cfg.encoder_normalize_before)
        total += n * arch.decoder.embed_dim * cfg.decoder_normalize_before
    return total
