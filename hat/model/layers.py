"""The blocks of a Transformer and its two kinds of layers; each layer reads its sizes off the architecture.

B batch, T target length, S source length, H heads, d head width, D width, Q total width of all heads
(qkv-dim, the same for every head count), F feed-forward width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.config import Options, option
from hat.model.cpu import SHORT
from hat.model.elastic import Dropout, ElasticLayerNorm, ElasticLinear
from hat.space import Arch, DecoderArch, EncoderArch, SearchSpace

MAX_POSITIONS = 1 << 16  # no weight proves the number in a file, and the table takes memory for each
PAD, EOS = 1, 2  # ids fixed by the dictionary format


@dataclass(frozen=True)
class ModelConfig(Options):
    """Model"""

    dropout: float = option(0.1, low=0, below=1)
    """dropout on embeddings and residual branches, at the super width; narrower slices use less"""
    attention_dropout: float = option(0.0, low=0, below=1)
    """dropout on attention weights"""
    activation_dropout: float = option(0.0, low=0, below=1)
    """dropout after the ReLU, at the super width"""
    share_all_embeddings: bool = False
    """one matrix for source embedding, target embedding and output (needs a joint dictionary)"""
    share_decoder_input_output_embed: bool = False
    """one matrix for target embedding and output"""
    encoder_normalize_before: bool = False
    """normalise before each encoder block instead of after it"""
    decoder_normalize_before: bool = False
    """normalise before each decoder block instead of after it"""
    vocab_original_scaling: bool = False
    """scale embeddings by the root of the super width instead of the sampled one"""
    max_source_positions: int = option(1024, low=2, high=MAX_POSITIONS)
    """longest source sentence in tokens"""
    max_target_positions: int = option(1024, low=2, high=MAX_POSITIONS)
    """longest target sentence in tokens"""

    @property
    def structure(self) -> dict[str, bool]:
        """What weights depend on, by its key; sharing all embeddings shares those of the decoder."""
        return {
            "share-all-embeddings": self.share_all_embeddings,
            "share-decoder-input-output-embed": self.share_all_embeddings
            or self.share_decoder_input_output_embed,
            "encoder-normalize-before": self.encoder_normalize_before,
            "decoder-normalize-before": self.decoder_normalize_before,
            "vocab-original-scaling": self.vocab_original_scaling,
        }


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
    """Return the position of each token [B, T], counting from PAD + 1 without pads; pads have PAD."""
    real = ids_BT.ne(PAD)
    return real.cumsum(1) * real + PAD


def padding_mask(padding_BS: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return what to add to scores [B, H, T, S] so that pads are never attended to; None without pads."""
    if not bool(padding_BS.any()):
        return None
    zeros = torch.zeros(padding_BS.shape, dtype=dtype, device=padding_BS.device)
    return zeros.masked_fill_(padding_BS, -math.inf)[:, None, None]


def causal_mask(length: int, like: Tensor) -> Tensor:
    """Return what to add to scores [.., T, T] so that no token sees a later one."""
    return torch.full((length, length), -math.inf, dtype=like.dtype, device=like.device).triu_(1)


def attend(
    q_BTQ: Tensor, kv_BSQ: tuple[Tensor, Tensor], heads: int, mask: Tensor | None, drop: Dropout, rate: float
) -> Tensor:
    """Return drop(softmax(q @ k^T / sqrt(d) + mask)) @ v, in `heads` groups of d columns each [B, T, Q].

    Short sequences, and weights that are dropped, take two plain matrix products; long ones the fused kernel.
    """
    q_BHTd, k_BHSd, v_BHSd = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q_BTQ, *kv_BSQ))
    scale = q_BHTd.size(-1) ** -0.5
    if not drop.active:  # published FLOPs count this product, so a pass that is profiled makes it
        q_BHTd, scale = q_BHTd * scale, 1.0
    if k_BHSd.size(2) > SHORT and not (drop.active and rate > 0):
        out_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=mask, scale=scale)
    else:
        scores_BHTS = q_BHTd @ k_BHSd.transpose(2, 3)
        if mask is not None:
            scores_BHTS = torch.add(mask, scores_BHTS, alpha=scale)
        elif scale != 1:
            scores_BHTS = scores_BHTS * scale
        out_BHTd = drop(scores_BHTS.softmax(-1), rate) @ v_BHSd
    return out_BHTd.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Attention of a sequence to itself; only the embedding side of the projections is cut."""

    def __init__(self, dim: int, qkv_dim: int) -> None:
        super().__init__()
        self.qkv_dim = qkv_dim
        self.qkv = ElasticLinear(dim, 3 * qkv_dim)
        self.out = ElasticLinear(qkv_dim, dim)

    def forward(self, x_BTD: Tensor, heads: int, mask: Tensor | None, drop: Dropout, rate: float) -> Tensor:
        """Return [B, T, D]."""
        q, k, v = self.qkv(x_BTD, 3 * self.qkv_dim).chunk(3, -1)
        return self.out(attend(q, (k, v), heads, mask, drop, rate), x_BTD.size(-1))


class CrossAttention(nn.Module):
    """Attention of the decoder to encoder outputs; queries and keys may come from different widths."""

    def __init__(self, dim: int, source_dim: int, qkv_dim: int) -> None:
        super().__init__()
        self.qkv_dim = qkv_dim
        # parity with HAT 2020: with equal widths both are parts of one matrix, whose fan counts
        fan_out = 3 * qkv_dim if dim == source_dim else qkv_dim
        self.q = ElasticLinear(dim, qkv_dim, fan_out)
        self.kv = ElasticLinear(source_dim, 2 * qkv_dim, fan_out)
        self.out = ElasticLinear(qkv_dim, dim)

    def forward(
        self, x_BTD: Tensor, source_BSD: Tensor, heads: int, mask: Tensor | None, drop: Dropout, rate: float
    ) -> Tensor:
        """Return [B, T, D]."""
        k, v = self.kv(source_BSD, 2 * self.qkv_dim).chunk(2, -1)
        q = self.q(x_BTD, self.qkv_dim)
        return self.out(attend(q, (k, v), heads, mask, drop, rate), x_BTD.size(-1))


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.up = ElasticLinear(dim, ffn_dim)
        self.down = ElasticLinear(ffn_dim, dim)

    def forward(self, x_BTD: Tensor, ffn_dim: int, drop: Dropout, rate: float) -> Tensor:
        """Return [B, T, D]."""
        h_BTF = F.relu(self.up(x_BTD, ffn_dim))
        return self.down(drop(h_BTF, rate), x_BTD.size(-1))


class _Layer(nn.Module):
    """What both layers share: rates scaled with the sampled width, and norms before or after each block."""

    def __init__(self, cfg: ModelConfig, super_dim: int, pre_norm: bool) -> None:
        super().__init__()
        self.cfg, self.super_dim, self.pre_norm = cfg, super_dim, pre_norm

    def _scaled(self, rate: float, x: Tensor) -> float:
        return rate * x.size(-1) / self.super_dim

    def _residual(
        self, x: Tensor, norm: ElasticLayerNorm, block: Callable[[Tensor], Tensor], drop: Dropout, rate: float
    ) -> Tensor:
        if self.pre_norm:
            return x + drop(block(norm(x)), rate)
        return norm(x + drop(block(x), rate))

    def _feed_forward(self, x: Tensor, stack: EncoderArch, index: int, drop: Dropout) -> Tensor:
        def block(h: Tensor) -> Tensor:
            return self.ffn(h, stack.ffn_dims[index], drop, self._scaled(self.cfg.activation_dropout, x))

        return self._residual(x, self.ffn_norm, block, drop, self._scaled(self.cfg.dropout, x))


class EncoderLayer(_Layer):
    """Self-attention and feed-forward, each with a residual branch, as large as layer `index` of `shape`."""

    def __init__(self, cfg: ModelConfig, space: SearchSpace, shape: Arch, index: int) -> None:
        super().__init__(cfg, space.encoder.super_embed_dim, cfg.encoder_normalize_before)
        enc = shape.encoder
        self.self_attn = SelfAttention(enc.embed_dim, space.qkv_dim)
        self.self_norm = ElasticLayerNorm(enc.embed_dim)
        self.ffn = FeedForward(enc.embed_dim, enc.ffn_dims[index])
        self.ffn_norm = ElasticLayerNorm(enc.embed_dim)

    def forward(
        self, x_BSD: Tensor, enc: EncoderArch, index: int, mask: Tensor | None, drop: Dropout
    ) -> Tensor:
        """Return [B, S, D], computed as layer `index` of `enc`."""

        def attention(h: Tensor) -> Tensor:
            return self.self_attn(h, enc.self_heads[index], mask, drop, self.cfg.attention_dropout)

        # parity with HAT 2020: encoder self-attention dropout is not scaled by width
        x_BSD = self._residual(x_BSD, self.self_norm, attention, drop, self.cfg.dropout)
        return self._feed_forward(x_BSD, enc, index, drop)


class DecoderLayer(_Layer):
    """Self-attention, attention to the encoder and feed-forward, as large as layer `index` of `shape`."""

    def __init__(self, cfg: ModelConfig, space: SearchSpace, shape: Arch, index: int) -> None:
        super().__init__(cfg, space.decoder.super_embed_dim, cfg.decoder_normalize_before)
        dec, qkv_dim = shape.decoder, space.decoder_qkv_dim
        self.self_attn = SelfAttention(dec.embed_dim, qkv_dim)
        self.self_norm = ElasticLayerNorm(dec.embed_dim)
        self.cross_attn = CrossAttention(dec.embed_dim, shape.encoder.embed_dim, qkv_dim)
        self.cross_norm = ElasticLayerNorm(dec.embed_dim)
        self.ffn = FeedForward(dec.embed_dim, dec.ffn_dims[index])
        self.ffn_norm = ElasticLayerNorm(dec.embed_dim)

    def forward(
        self,
        x_BTD: Tensor,
        source_BSD: Tensor,
        dec: DecoderArch,
        index: int,
        causal: Tensor,
        source_mask: Tensor | None,
        drop: Dropout,
    ) -> Tensor:
        """Return [B, T, D], computed as layer `index` of `dec`."""
        attention_rate, rate = self.cfg.attention_dropout, self._scaled(self.cfg.dropout, x_BTD)

        def attention(h: Tensor) -> Tensor:
            return self.self_attn(h, dec.self_heads[index], causal, drop, attention_rate)

        def to_source(h: Tensor) -> Tensor:
            heads = dec.cross_heads[index]
            return self.cross_attn(h, source_BSD, heads, source_mask, drop, attention_rate)

        x_BTD = self._residual(x_BTD, self.self_norm, attention, drop, rate)
        x_BTD = self._residual(x_BTD, self.cross_norm, to_source, drop, rate)
        return self._feed_forward(x_BTD, dec, index, drop)
