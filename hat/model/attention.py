"""Multi-head attention with elastic projections, and the sinusoidal positions.

B batch, N hypotheses (batch times beam), T target length, S source length, H heads, d head width, D width,
Q total width of all heads (qkv-dim, the same for every head count).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from hat.model.config import PAD
from hat.model.dropout import Dropout
from hat.model.elastic import ElasticLinear

MANY, LONG = 16, 512  # sentences and keys: where plain products beat the fused kernel while translating
SHORT = 64  # up to this many keys two plain matrix products beat the fused kernel on CPUs


def attend(
    q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, mask: Tensor | None, drop: Dropout, rate: float
) -> Tensor:
    """Return attention output [B, T, H*d]; `mask` is added to the scores.

    Short sequences, and weights that are dropped, take two plain matrix products; long ones the fused kernel.
    """
    scale = q_BHTd.size(-1) ** -0.5
    if not drop.active:  # published FLOPs count this product, so a pass that is profiled makes it
        q_BHTd, scale = q_BHTd * scale, 1.0
    if k_BHSd.size(2) <= SHORT or (drop.active and rate > 0):
        scores_BHTS = q_BHTd @ k_BHSd.transpose(2, 3)
        if mask is not None:
            scores_BHTS = torch.add(mask, scores_BHTS, alpha=scale)
        elif scale != 1:
            scores_BHTS = scores_BHTS * scale  # while training: short sequences have few scores
        out_BHTd = drop(scores_BHTS.softmax(-1), rate) @ v_BHSd
    else:
        out_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=mask, scale=scale)
    return merge_heads(out_BHTd)


def attend_fixed(q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention output [B * T, H * d] without dropout and gradient.

    The fused kernel is the faster one for few sentences, plain products for many short ones.
    """
    if q_BHTd.size(0) < MANY or k_BHSd.size(2) > LONG:
        out_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=mask)
    else:
        scores_BHTS = (q_BHTd * q_BHTd.size(-1) ** -0.5) @ k_BHSd.transpose(2, 3)
        if mask is not None:
            scores_BHTS = scores_BHTS.add_(mask)
        out_BHTd = scores_BHTS.softmax(-1) @ v_BHSd
    return out_BHTd.transpose(1, 2).flatten(2).flatten(0, 1)


def split_heads(x_BTQ: Tensor, heads: int, parts: int = 1) -> tuple[Tensor, ...]:
    """Return `parts` times [B, H, T, d]: the columns of each part, side by side, are `heads` groups of d."""
    return _SplitHeads.apply(x_BTQ, heads, parts)


def merge_heads(x_BHTd: Tensor) -> Tensor:
    """Return [B, T, H * d], the columns of the heads side by side."""
    return _MergeHeads.apply(x_BHTd)


class _SplitHeads(torch.autograd.Function):
    """Columns in memory as the products of attention read them, and their gradients side by side again.

    Each way copies once, where views would be copied for every product and joined once more.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x_BTQ: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
        x_PBHTd = x_BTQ.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        return x_PBHTd.unbind()

    @staticmethod
    def backward(ctx: FunctionCtx, *grads_BHTd: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        batch, heads, length, width = grads_BHTd[0].shape
        grad_BTPHd = grads_BHTd[0].new_empty(batch, length, len(grads_BHTd), heads, width)
        for part, grad in enumerate(grads_BHTd):
            grad_BTPHd[:, :, part] = grad.transpose(1, 2)
        return grad_BTPHd.flatten(2), None, None


class _MergeHeads(torch.autograd.Function):
    """The same the other way round: both products that take the gradient read one copy of it."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_BHTd: Tensor) -> Tensor:
        ctx.heads = x_BHTd.size(1)  # type: ignore[attr-defined]
        return x_BHTd.transpose(1, 2).flatten(2)

    @staticmethod
    def backward(ctx: FunctionCtx, grad_BTQ: Tensor) -> Tensor:  # type: ignore[override]
        heads = ctx.heads  # type: ignore[attr-defined]
        return grad_BTQ.unflatten(-1, (heads, -1)).transpose(1, 2).contiguous()


class SelfAttention(nn.Module):
    """Attention of a sequence to itself; only the embedding side of the projections is cut."""

    def __init__(self, dim: int, qkv_dim: int) -> None:
        super().__init__()
        self.qkv_dim = qkv_dim
        self.qkv = ElasticLinear(dim, 3 * qkv_dim)
        self.out = ElasticLinear(qkv_dim, dim)

    def init(self, generator: torch.Generator) -> None:
        """Xavier with the fan of the fused [3*qkv, dim] matrix."""
        self.qkv.init(generator)
        self.out.init(generator)

    def forward(self, x_BTD: Tensor, heads: int, mask: Tensor | None, drop: Dropout, rate: float) -> Tensor:
        """Return [B, T, D]."""
        q, k, v = split_heads(self.qkv(x_BTD, 3 * self.qkv_dim), heads, 3)
        return self.out(attend(q, k, v, mask, drop, rate), x_BTD.size(-1))


class CrossAttention(nn.Module):
    """Attention of the decoder to encoder outputs; queries and keys may come from different widths."""

    def __init__(self, dim: int, memory_dim: int, qkv_dim: int) -> None:
        super().__init__()
        self.qkv_dim = qkv_dim
        self.q = ElasticLinear(dim, qkv_dim)
        self.kv = ElasticLinear(memory_dim, 2 * qkv_dim)
        self.out = ElasticLinear(qkv_dim, dim)

    def init(self, generator: torch.Generator) -> None:
        """Xavier; the fan is that of the fused matrix where both widths are equal, else of each [qkv,
        dim].
        """
        fused = self.q.weight.size(1) == self.kv.weight.size(1)
        fan_out = (3 if fused else 1) * self.qkv_dim
        self.q.init(generator, fan_out)
        self.kv.init(generator, fan_out)
        self.out.init(generator)

    def forward(
        self, x_BTD: Tensor, memory_BSD: Tensor, heads: int, mask: Tensor | None, drop: Dropout, rate: float
    ) -> Tensor:
        """Return [B, T, D]."""
        (q,) = split_heads(self.q(x_BTD, self.qkv_dim), heads)
        k, v = split_heads(self.kv(memory_BSD, 2 * self.qkv_dim), heads, 2)
        return self.out(attend(q, k, v, mask, drop, rate), x_BTD.size(-1))


def sinusoids(num_positions: int, dim: int) -> Tensor:
    """Return the position table [num_positions, dim]: sines in the front half, cosines behind, zero at PAD.

    Frequencies are exp(-i * ln(10000) / (half - 1)), at the *super* width; a SubTransformer takes front
    columns.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float) * -(math.log(10000) / max(half - 1, 1)))
    angles = torch.arange(num_positions, dtype=torch.float)[:, None] * frequencies[None]
    table = torch.cat([angles.sin(), angles.cos(), torch.zeros(num_positions, dim - 2 * half)], dim=1)
    table[PAD] = 0
    return table


def positions(ids_BT: Tensor) -> Tensor:
    """Return the position of each token [B, T], counting non-pad tokens from PAD + 1.

    Pads have position PAD.
    """
    real = ids_BT.ne(PAD)
    return real.cumsum(1) * real + PAD


def padding_mask(padding_BS: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return what to add to scores [B, H, T, S] so that pads are never attended to; None without pads."""
    if not bool(padding_BS.any()):
        return None
    return torch.zeros(padding_BS.shape, dtype=dtype, device=padding_BS.device).masked_fill_(
        padding_BS, -math.inf
    )[:, None, None]


def causal_mask(length: int, like: Tensor) -> Tensor:
    """Return what to add to scores [.., T, T] so that no token sees a later one."""
    return torch.full((length, length), -math.inf, dtype=like.dtype, device=like.device).triu_(1)
