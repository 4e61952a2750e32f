"""The bare matrix products of a training step or of decoding: what remains when all else costs nothing.

M rows, K inner width, N columns, G independent products (sentences times heads).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hat.bench.device import CPU
from hat.space import Arch, SearchSpace


@dataclass(frozen=True)
class Product:
    """`groups` products [m, k] x [k, n]; products of one name and shape share their right side (a weight)."""

    name: str
    m: int
    k: int
    n: int
    groups: int = 1
    attention: bool = False

    @property
    def flops(self) -> int:
        """Return two operations for each multiply-accumulate."""
        return 2 * self.groups * self.m * self.k * self.n


@dataclass(frozen=True)
class Lengths:
    """Sentences of a batch, hypotheses of each, source and target tokens."""

    sentences: int
    source: int
    target: int
    beam: int = 1


def encoder_products(arch: Arch, space: SearchSpace, size: Lengths) -> list[Product]:
    """Return the products of one pass of the encoder."""
    enc, qkv = arch.encoder, space.qkv_dim
    rows = size.sentences * size.source
    found = []
    for layer, (ffn, heads) in enumerate(zip(enc.ffn_dims, enc.self_heads, strict=True)):
        name = f"encoder.{layer}"
        found += [
            Product(f"{name}.qkv", rows, enc.embed_dim, 3 * qkv),
            *_attention(f"{name}.self", size.sentences, heads, size.source, size.source, qkv),
            Product(f"{name}.out", rows, qkv, enc.embed_dim),
            *_feed_forward(name, rows, enc.embed_dim, ffn),
        ]
    return found


def memory_products(arch: Arch, space: SearchSpace, size: Lengths) -> list[Product]:
    """Return the products that make keys and values of the encoder outputs, once for each decoder layer."""
    return [
        Product(
            f"decoder.{layer}.kv",
            size.sentences * size.source * span,
            arch.encoder.embed_dim,
            2 * space.decoder_qkv_dim,
        )
        for layer, span in enumerate(arch.decoder.cross_span)
    ]


def decoder_products(
    arch: Arch, space: SearchSpace, vocab_size: int, size: Lengths, *, new: int, seen: int
) -> list[Product]:
    """Return the products of a decoder pass over `new` tokens of each hypothesis that sees `seen` tokens.

    The output matrix is included. All hypotheses of a sentence are queries of one attention to its memory.
    """
    dec, qkv = arch.decoder, space.decoder_qkv_dim
    hypotheses = size.sentences * size.beam
    rows = hypotheses * new
    found = []
    for layer, (ffn, heads, cross_heads, span) in enumerate(
        zip(dec.ffn_dims, dec.self_heads, dec.cross_heads, dec.cross_span, strict=True)
    ):
        name = f"decoder.{layer}"
        found += [
            Product(f"{name}.qkv", rows, dec.embed_dim, 3 * qkv),
            *_attention(f"{name}.self", hypotheses, heads, new, seen, qkv),
            Product(f"{name}.out", rows, qkv, dec.embed_dim),
            Product(f"{name}.q", rows, dec.embed_dim, qkv),
            *_attention(
                f"{name}.cross", size.sentences, cross_heads, size.beam * new, span * size.source, qkv
            ),
            Product(f"{name}.cross_out", rows, qkv, dec.embed_dim),
            *_feed_forward(name, rows, dec.embed_dim, ffn),
        ]
    return [*found, Product("output", rows, dec.embed_dim, vocab_size)]


def training_products(arch: Arch, space: SearchSpace, vocab_size: int, size: Lengths) -> list[Product]:
    """Return the products of a forward pass under teacher forcing."""
    return [
        *encoder_products(arch, space, size),
        *memory_products(arch, space, size),
        *decoder_products(arch, space, vocab_size, size, new=size.target, seen=size.target),
    ]


def decoding_products(arch: Arch, space: SearchSpace, vocab_size: int, size: Lengths) -> list[Product]:
    """Return the products of the encoder and of `size.target` decoder steps with a cache."""
    steps = [
        product
        for step in range(size.target)
        for product in decoder_products(arch, space, vocab_size, size, new=1, seen=step + 1)
    ]
    return [*encoder_products(arch, space, size), *memory_products(arch, space, size), *steps]


def _attention(name: str, groups: int, heads: int, queries: int, keys: int, qkv: int) -> list[Product]:
    return [
        Product(f"{name}.scores", queries, qkv // heads, keys, groups * heads, True),
        Product(f"{name}.values", queries, keys, qkv // heads, groups * heads, True),
    ]


def _feed_forward(name: str, rows: int, dim: int, ffn: int) -> list[Product]:
    return [Product(f"{name}.up", rows, dim, ffn), Product(f"{name}.down", rows, ffn, dim)]


class BareProducts:
    """Runs products on operands that lie ready, into results that lie ready.

    `operands` are (left, right, result) of each product.
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
        self._backward: list[tuple[Tensor, Tensor, Tensor]] = []

        def make(*shape: int) -> Tensor:
            values = torch.empty(shape[1:] if shape[0] == 1 else shape, device=device)
            return values.normal_(0, 0.05, generator=noise).to(dtype)

        for p in products:
            key = (p.name, p.k, p.n)
            if key not in rights:
                rights[key] = make(p.groups, p.n, p.k)  # a weight lies as [out, in]
            left, right = make(p.groups, p.m, p.k), rights[key]
            result = make(p.groups, p.m, p.n)
            self.operands.append((left, right.mT, result))
            if backward:
                self._backward.append((result, right, torch.empty_like(left)))
                self._backward.append((result.mT, left, torch.empty_like(right)))
        self._backward.reverse()

    def forward(self) -> None:
        """Run every product once."""
        _run(self.operands)

    def step(self) -> None:
        """Run every product and the two of its backward pass: gradients of the left and of the right side."""
        _run(self.operands)
        _run(self._backward)


def _run(products: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    for left, right, result in products:
        if left.dim() == 2:
            torch.mm(left, right, out=result)
        else:
            torch.bmm(left, right, out=result)


def linear_only(products: Sequence[Product]) -> list[Product]:
    """Return the products with weights, without those of attention."""
    return [product for product in products if not product.attention]
