"""Layers whose weights are sliced at each call, and dropout.

A slice is a view, so nothing is stored and nothing goes stale.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from hat.model.cpu import RandomBits, affine, dropout_mask, random_bits


class ElasticLinear(nn.Module):
    """A linear map that uses the front `[out, in]` block of its weight (HAT 2020, section 3.1)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim))
        self.bias = nn.Parameter(torch.empty(out_dim))

    def init(self, generator: torch.Generator, fan_out: int | None = None) -> None:
        """Xavier-uniform weight, zero bias; `fan_out` stands for a larger matrix this one is part of."""
        rows, columns = self.weight.shape
        bound = math.sqrt(6 / ((fan_out or rows) + columns))
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, out_dim: int, *, relu: bool = False) -> Tensor:
        """Map x [..., in] to [..., out_dim], with `relu` its positive part; `in` is read off x, so it cannot
        disagree.
        """
        return affine(x, self.weight[:out_dim, : x.size(-1)], self.bias[:out_dim], relu)


class ElasticLayerNorm(nn.Module):
    """LayerNorm over the width of its input, with the front part of scale and shift; eps 1e-5."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.eps = 1e-5
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))

    def init(self) -> None:
        """Scale one, shift zero."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., dim] over its last dimension."""
        dim = x.size(-1)
        return F.layer_norm(x, (dim,), self.weight[:dim], self.bias[:dim], self.eps)


class ElasticEmbedding(nn.Module):
    """Token embedding that uses the front columns of its table; also serves as the output matrix."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))

    def init(self, generator: torch.Generator, pad: int | None) -> None:
        """Normal with deviation dim^-0.5; the row of `pad` is zero."""
        nn.init.normal_(self.weight, 0, self.weight.size(1) ** -0.5, generator=generator)
        if pad is not None:
            nn.init.zeros_(self.weight[pad])

    def columns(self, dim: int) -> Tensor:
        """Return the table cut to `dim` columns, [vocab, dim]."""
        return self.weight[:, :dim]

    def forward(self, ids: Tensor, dim: int, pad: int) -> Tensor:
        """Look up ids [...] as [..., dim]; the row of `pad` receives no gradient."""
        return _Lookup.apply(ids, self.columns(dim), pad)


class _Lookup(torch.autograd.Function):
    """Embedding whose gradient is summed in float32.

    A bfloat16 sum loses the small terms of frequent words.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, ids: Tensor, table: Tensor, pad: int) -> Tensor:
        ctx.save_for_backward(ids)  # type: ignore[attr-defined]
        ctx.shape, ctx.dtype, ctx.pad = table.shape, table.dtype, pad  # type: ignore[attr-defined]
        return table[ids]

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        (ids,) = ctx.saved_tensors  # type: ignore[attr-defined]
        total = torch.zeros(
            ctx.shape,
            dtype=torch.float64 if ctx.dtype == torch.float64 else torch.float32,
            device=grad.device,
        )  # type: ignore[attr-defined]
        total.index_add_(0, ids.flatten(), grad.flatten(0, -2).to(total.dtype))
        total[ctx.pad] = 0  # type: ignore[attr-defined]
        return None, total.to(ctx.dtype), None  # type: ignore[attr-defined]


class Dropout:
    """Drops elements with masks that follow from a seed; without a seed (evaluation) it changes nothing.

    One object serves one forward pass, along which it is passed. Two passes with one seed drop the same
    elements, so a resumed run repeats the uninterrupted one whatever other random numbers were drawn.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._bits: RandomBits | None = None

    @property
    def active(self) -> bool:
        """Whether anything is dropped at rates above 0."""
        return self.seed is not None

    def __call__(self, x: Tensor, rate: float) -> Tensor:
        """Return `x` with a fraction `rate` of its elements zero and the others scaled by 1 / (1 - rate)."""
        return x * self._mask(x, rate) if self.active and rate > 0 else x

    def plus(self, residual: Tensor, x: Tensor, rate: float) -> Tensor:
        """Return residual + self(x, rate)."""
        if self.active and rate > 0:
            return torch.addcmul(residual, x, self._mask(x, rate))
        return residual + x

    def _mask(self, x: Tensor, rate: float) -> Tensor:
        assert self.seed is not None
        self._bits = self._bits or random_bits(self.seed, x.device)
        return dropout_mask(x, rate, self._bits)


EVAL = Dropout()
