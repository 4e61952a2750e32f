"""Parameters and multiply-accumulates of an architecture, in closed form and by torchprofile."""

import warnings

import torch
from torch import nn

from hat.model.transformer import SubTransformer
from hat.space import Arch, EncoderArch, SearchSpace


def profile_length(family: str) -> int:
    """Return the tokens of source and target at which models of a family are profiled (HAT 2020)."""
    return 23 if "iwslt" in family else 30


def count_params(arch: Arch, space: SearchSpace) -> int:
    """Return the parameters of the layers: no embeddings, no output matrix, full qkv biases (HAT 2020)."""
    enc, dec = arch.encoder, arch.decoder

    def attention(dim: int, source_dim: int, qkv: int) -> int:
        return (dim + 2 * source_dim + 3) * qkv + (qkv + 1) * dim

    def feed_forward(stack: EncoderArch, layer: int) -> int:
        return 2 * stack.embed_dim * stack.ffn_dims[layer] + stack.ffn_dims[layer] + stack.embed_dim

    total = 0
    for layer in range(enc.num_layers):
        total += attention(enc.embed_dim, enc.embed_dim, space.qkv_dim)
        total += feed_forward(enc, layer) + 4 * enc.embed_dim  # two normalisations
    for layer in range(dec.num_layers):
        total += attention(dec.embed_dim, dec.embed_dim, space.decoder_qkv_dim)
        total += attention(dec.embed_dim, enc.embed_dim, space.decoder_qkv_dim)
        total += feed_forward(dec, layer) + 6 * dec.embed_dim  # three normalisations
    return total


def count_macs(arch: Arch, space: SearchSpace, length: int) -> int:
    """Return the multiply-accumulates of one forward pass, batch 1, `length` source and target tokens.

    Teacher forcing, without the output matrix. Counted as torchprofile 0.1 counts the plain float32 pass:
    matrix products, normalisations with scale, and element-wise products (embedding scale and query
    scale; not the two products of integers a position is computed with).
    """
    enc, dec, n = arch.encoder, arch.decoder, length

    def attention(dim: int, source_dim: int, keys: int, qkv: int) -> int:
        projections = 2 * n * dim * qkv + 2 * keys * source_dim * qkv
        return projections + 2 * n * keys * qkv + n * qkv  # both products, and the scaled queries

    def feed_forward(stack: EncoderArch, layer: int) -> int:
        return 2 * n * stack.embed_dim * stack.ffn_dims[layer]

    total = n * (enc.embed_dim + dec.embed_dim)  # embeddings times their scale
    for layer in range(enc.num_layers):
        total += attention(enc.embed_dim, enc.embed_dim, n, space.qkv_dim)
        total += feed_forward(enc, layer) + 2 * n * enc.embed_dim
    for layer in range(dec.num_layers):
        total += attention(dec.embed_dim, dec.embed_dim, n, space.decoder_qkv_dim)
        total += attention(dec.embed_dim, enc.embed_dim, dec.cross_span[layer] * n, space.decoder_qkv_dim)
        total += feed_forward(dec, layer) + 3 * n * dec.embed_dim
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
