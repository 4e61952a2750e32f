"""One encoder layer and one decoder layer.

B batch, T target length, S source length, D width, F feed-forward width.
"""

import torch
from torch import Tensor, nn

from hat.model.attention import CrossAttention, SelfAttention
from hat.model.config import ModelConfig
from hat.model.dropout import Dropout
from hat.model.elastic import ElasticLayerNorm, ElasticLinear


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.up = ElasticLinear(dim, ffn_dim)
        self.down = ElasticLinear(ffn_dim, dim)

    def init(self, generator: torch.Generator) -> None:
        """Xavier-uniform weights, zero biases."""
        self.up.init(generator)
        self.down.init(generator)

    def forward(self, x_BTD: Tensor, ffn_dim: int, drop: Dropout, rate: float) -> Tensor:
        """Return [B, T, D]."""
        h_BTF = self.up(x_BTD, ffn_dim, relu=True)
        return self.down(drop(h_BTF, rate), x_BTD.size(-1))


class _Layer(nn.Module):
    """What both layers share: rates scaled with the sampled width, and norms before or after each block."""

    def __init__(self, cfg: ModelConfig, super_dim: int, pre_norm: bool) -> None:
        super().__init__()
        self.cfg = cfg
        self.super_dim = super_dim
        self.pre_norm = pre_norm

    def _scaled(self, rate: float, x: Tensor) -> float:
        return rate * x.size(-1) / self.super_dim

    def _before(self, norm: ElasticLayerNorm, x: Tensor) -> Tensor:
        return norm(x) if self.pre_norm else x

    def _after(self, norm: ElasticLayerNorm, x: Tensor) -> Tensor:
        return x if self.pre_norm else norm(x)

    def _feed_forward(
        self, ffn: FeedForward, norm: ElasticLayerNorm, x: Tensor, ffn_dim: int, drop: Dropout
    ) -> Tensor:
        h = ffn(self._before(norm, x), ffn_dim, drop, self._scaled(self.cfg.activation_dropout, x))
        return self._after(norm, drop.plus(x, h, self._scaled(self.cfg.dropout, x)))


class EncoderLayer(_Layer):
    """Self-attention and feed-forward, each with a residual branch."""

    def __init__(self, cfg: ModelConfig, dim: int, ffn_dim: int, qkv_dim: int, super_dim: int) -> None:
        super().__init__(cfg, super_dim, cfg.encoder_normalize_before)
        self.self_attn = SelfAttention(dim, qkv_dim)
        self.self_norm = ElasticLayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim)
        self.ffn_norm = ElasticLayerNorm(dim)

    def forward(self, x_BSD: Tensor, ffn_dim: int, heads: int, mask: Tensor | None, drop: Dropout) -> Tensor:
        """Return [B, S, D]."""
        h = self._before(self.self_norm, x_BSD)
        h = self.self_attn(h, heads, mask, drop, self.cfg.attention_dropout)
        # parity with HAT 2020: encoder self-attention dropout is not scaled by width
        x_BSD = self._after(self.self_norm, drop.plus(x_BSD, h, self.cfg.dropout))
        return self._feed_forward(self.ffn, self.ffn_norm, x_BSD, ffn_dim, drop)


class DecoderLayer(_Layer):
    """Self-attention, attention to the encoder and feed-forward, each with a residual branch."""

    def __init__(
        self, cfg: ModelConfig, dim: int, ffn_dim: int, qkv_dim: int, memory_dim: int, super_dim: int
    ) -> None:
        super().__init__(cfg, super_dim, cfg.decoder_normalize_before)
        self.self_attn = SelfAttention(dim, qkv_dim)
        self.self_norm = ElasticLayerNorm(dim)
        self.cross_attn = CrossAttention(dim, memory_dim, qkv_dim)
        self.cross_norm = ElasticLayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim)
        self.ffn_norm = ElasticLayerNorm(dim)

    def forward(
        self,
        x_BTD: Tensor,
        memory_BSD: Tensor,
        ffn_dim: int,
        self_heads: int,
        cross_heads: int,
        causal: Tensor,
        memory_mask: Tensor | None,
        drop: Dropout,
    ) -> Tensor:
        """Return [B, T, D]."""
        cfg, rate = self.cfg, self._scaled(self.cfg.dropout, x_BTD)
        h = self._before(self.self_norm, x_BTD)
        h = self.self_attn(h, self_heads, causal, drop, cfg.attention_dropout)
        x_BTD = self._after(self.self_norm, drop.plus(x_BTD, h, rate))
        h = self._before(self.cross_norm, x_BTD)
        h = self.cross_attn(h, memory_BSD, cross_heads, memory_mask, drop, cfg.attention_dropout)
        x_BTD = self._after(self.cross_norm, drop.plus(x_BTD, h, rate))
        return self._feed_forward(self.ffn, self.ffn_norm, x_BTD, ffn_dim, drop)
