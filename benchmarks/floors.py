"""The bare matrix products of a training step or of decoding: the floor of any implementation."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import hat
from benchmarks.timing import CPU


class Product(NamedTuple):
    """`groups` products [m, k] x [k, n]; products of one name and shape share their right side (a weight)."""

    name: str
    m: int
    k: int
    n: int
    groups: int = 1

    @property
    def flops(self) -> int:
        """Return two operations for each multiply-accumulate."""
        return 2 * self.groups * self.m * self.k * self.n


class Lengths(NamedTuple):
    """Sentences of a batch, hypotheses of each, source and target tokens."""

    sentences: int
    source: int
    target: int
    beam: int = 1


def encoder_products(arch: hat.Arch, space: hat.SearchSpace, size: Lengths) -> list[Product]:
    """Return the products of one pass of the encoder, and those that make keys and values of its outputs."""
    enc, qkv, rows = arch.encoder, space.qkv_dim, size.sentences * size.source
    found = []
    for layer, (ffn, heads) in enumerate(zip(enc.ffn_dims, enc.self_heads, strict=True)):
        attention = (size.sentences, heads, size.source, size.source)
        found += _layer(f"encoder.{layer}", rows, enc.embed_dim, qkv, ffn, attention)
    for layer, span in enumerate(arch.decoder.cross_span):  # once for each decoder layer
        found.append(Product(f"decoder.{layer}.kv", rows * span, enc.embed_dim, 2 * space.decoder_qkv_dim))
    return found


def decoder_products(
    arch: hat.Arch, space: hat.SearchSpace, vocab_size: int, size: Lengths, *, new: int, seen: int
) -> list[Product]:
    """Return the products of a decoder pass over `new` tokens of each hypothesis that sees `seen` tokens. The
    output matrix is included. All hypotheses of a sentence are queries of one attention to the source.
    """
    dec, qkv = arch.decoder, space.decoder_qkv_dim
    hypotheses = size.sentences * size.beam
    rows, queries = hypotheses * new, size.beam * new
    found = []
    for layer, (ffn, heads, cross_heads, span) in enumerate(
        zip(dec.ffn_dims, dec.self_heads, dec.cross_heads, dec.cross_span, strict=True)
    ):
        name, cross = f"decoder.{layer}", f"decoder.{layer}.cross"
        found += [
            *_layer(name, rows, dec.embed_dim, qkv, ffn, (hypotheses, heads, new, seen)),
            Product(f"{cross}.q", rows, dec.embed_dim, qkv),
            *_attention(cross, size.sentences, cross_heads, queries, span * size.source, qkv),
            Product(f"{cross}.out", rows, qkv, dec.embed_dim),
        ]
    return [*found, Product("output", rows, dec.embed_dim, vocab_size)]


def training_products(
    arch: hat.Arch, space: hat.SearchSpace, vocab_size: int, size: Lengths
) -> list[Product]:
    """Return the products of a forward pass under teacher forcing."""
    decoder = decoder_products(arch, space, vocab_size, size, new=size.target, seen=size.target)
    return encoder_products(arch, space, size) + decoder


def decoding_products(
    arch: hat.Arch, space: hat.SearchSpace, vocab_size: int, size: Lengths
) -> list[Product]:
    """Return the products of the encoder and of `size.target` decoder steps with a cache."""
    found = encoder_products(arch, space, size)
    for step in range(size.target):
        found += decoder_products(arch, space, vocab_size, size, new=1, seen=step + 1)
    return found


def _attention(name: str, groups: int, heads: int, queries: int, keys: int, qkv: int) -> list[Product]:
    return [
        Product(f"{name}.scores", queries, qkv // heads, keys, groups * heads),
        Product(f"{name}.values", queries, keys, qkv // heads, groups * heads),
    ]


def _layer(name: str, rows: int, dim: int, qkv: int, ffn: int, heads: tuple[int, ...]) -> list[Product]:
    return [
        Product(f"{name}.qkv", rows, dim, 3 * qkv),
        *_attention(name, *heads, qkv),
        Product(f"{name}.out", rows, qkv, dim),
        Product(f"{name}.up", rows, dim, ffn),
        Product(f"{name}.down", rows, ffn, dim),
    ]


class BareProducts:
    """Runs products on operands and into results that lie ready: (left, right, result) of each product, and
    `backward` of the two of its backward pass.
    """

    def __init__(
        self,
        products: Sequence[Product],
        dtype: torch.dtype,
        *,
        backward: bool = False,
        device: torch.device = CPU,
    ) -> None:
        noise = torch.Generator(device).manual_seed(1)
        rights: dict[tuple[str, int, int], Tensor] = {}
        self.operands: list[tuple[Tensor, Tensor, Tensor]] = []
        self.backward: list[tuple[Tensor, Tensor, Tensor]] = []

        def make(*shape: int) -> Tensor:
            values = torch.empty(shape[1:] if shape[0] == 1 else shape, device=device)
            return values.normal_(0, 0.05, generator=noise).to(dtype)

        for p in products:
            key = (p.name, p.k, p.n)
            if key not in rights:
                rights[key] = make(p.groups, p.n, p.k)  # a weight lies as [out, in]
            left, right, result = make(p.groups, p.m, p.k), rights[key], make(p.groups, p.m, p.n)
            self.operands.append((left, right.mT, result))
            if backward:
                self.backward.append((result, right, torch.empty_like(left)))
                self.backward.append((result.mT, left, torch.empty_like(right)))
        self.backward.reverse()

    def run(self, times: int = 1) -> None:
        """Run every product, and those of the backward pass if they were asked for."""
        for _ in range(times):
            for left, right, result in (*self.operands, *self.backward):
                product = torch.mm if left.dim() == 2 else torch.bmm
                product(left, right, out=result)
