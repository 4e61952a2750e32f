"""Layers that slice their weights at each call (a view: nothing is stored or goes stale), and dropout."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.model.cpu import RandomBits, dropout_mask, random_bits


class ElasticLinear(nn.Module):
    """A linear map by the front `[out, in]` block of its weight (HAT 2020, 3.1), a part of `fan_out` rows."""

    def __init__(self, in_dim: int, out_dim: int, fan_out: int | None = None) -> None:
        super().__init__()
        self.fan_out = fan_out or out_dim
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim))
        self.bias = nn.Parameter(torch.empty(out_dim))

    def init(self, generator: torch.Generator) -> None:
        """Xavier-uniform weight, zero bias."""
        bound = math.sqrt(6 / (self.fan_out + self.weight.size(1)))
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, out_dim: int) -> Tensor:
        """Map x [..., in] to [..., out_dim]; `in` is read off x, so it cannot disagree."""
        return F.linear(x, self.weight[:out_dim, : x.size(-1)], self.bias[:out_dim])

    def relu(self, x: Tensor, out_dim: int) -> Tensor:
        """Return the positive part of the product."""
        return F.relu(self(x, out_dim))

    def plus(self, x: Tensor, residual: Tensor, drop: "Dropout", rate: float) -> Tensor:
        """Return `residual` and the product, of which a fraction `rate` is dropped, added."""
        return residual + drop(self(x, residual.size(-1)), rate)


class ElasticLayerNorm(nn.LayerNorm):
    """LayerNorm over the width of its input, with the front part of scale and shift; eps 1e-5."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., dim] over its last dimension."""
        dim = x.size(-1)
        return F.layer_norm(x, (dim,), self.weight[:dim], self.bias[:dim], self.eps)


class ElasticEmbedding(nn.Module):
    """Token embedding by front columns; also the output matrix. A row `pad` is zero, without gradient."""

    def __init__(self, vocab_size: int, dim: int, pad: int | None = None) -> None:
        super().__init__()
        self.pad = pad
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))

    def init(self, generator: torch.Generator) -> None:
        """Normal with deviation dim^-0.5."""
        nn.init.normal_(self.weight, 0, self.weight.size(1) ** -0.5, generator=generator)
        if self.pad is not None:
            nn.init.zeros_(self.weight[self.pad])

    def columns(self, dim: int) -> Tensor:
        """Return the table cut to `dim` columns, [vocab, dim]."""
        return self.weight[:, :dim]

    def forward(self, ids: Tensor, dim: int) -> Tensor:
        """Look up ids [...] as [..., dim]."""
        return _Lookup.apply(ids, self.columns(dim), self.pad)


class _Lookup(torch.autograd.Function):
    """Embedding whose gradient is summed in float32; bfloat16 loses the small terms of frequent words."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor, pad: int) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.dtype, ctx.pad = table.shape, table.dtype, pad
        return table[ids]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (ids,) = ctx.saved_tensors
        wide = torch.promote_types(ctx.dtype, torch.float32)
        total = torch.zeros(ctx.shape, dtype=wide, device=grad.device)
        total.index_add_(0, ids.flatten(), grad.flatten(0, -2).to(wide))
        total[ctx.pad] = 0
        return None, total.to(ctx.dtype), None


class Dropout:
    """Drops by masks that follow from a seed, nothing without one; one object serves one forward pass."""

    def __init__(self, seed: int | None = None) -> None:
        self.seed, self.active = seed, seed is not None  # active: drops at rates above 0
        self._bits: RandomBits | None = None

    def __call__(self, x: Tensor, rate: float) -> Tensor:
        """Return `x` with a fraction `rate` of its elements zero and the others scaled by 1 / (1 - rate)."""
        if self.seed is None or rate == 0:
            return x
        self._bits = self._bits or random_bits(self.seed, x.device)
        return x * dropout_mask(x, rate, self._bits)


EVAL = Dropout()
