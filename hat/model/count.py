"""Parameters and multiply-accumulates of an architecture, in closed form and by torchprofile."""

import warnings
from collections.abc import Iterator

import torch
from torch import nn

from hat.model.transformer import SubTransformer
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


def count_macs(arch: Arch, space: SearchSpace, length: int) -> int:
    """Return the multiply-accumulates of one forward pass, batch 1, `length` source and target tokens.

    Teacher forcing, without the output matrix. Counted as torchprofile 0.1 counts the plain float32 pass:
    matrix products, normalisations with scale, and element-wise products (embedding scale and query
    scale; not the two products of integers a position is computed with).
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
    return total


class _States(nn.Module):
    """The traced pass: everything but the output matrix."""

    def __init__(self, model: SubTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.model.decode(target, self.model.encode(source))


def profile_macs(model: SubTransformer, length: int) -> int:
    """Return what torchprofile counts in the same pass of a float32 model on the CPU."""
    from torchprofile import profile_macs as torchprofile_macs

    ids = torch.full((1, length), 4)  # any real token
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # unknown operators count 0; none of them multiplies
        return int(torchprofile_macs(_States(model.eval()), (ids, ids)))
