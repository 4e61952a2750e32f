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
from hat.space import Arch, EncoderArch, SearchSpace

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
    q_BTQ: Tensor, k_BSQ: Tensor, v_BSQ: Tensor, heads: int, mask: Tensor | None, drop: Dropout, rate: float
) -> Tensor:
    """Return drop(softmax(q @ k^T / sqrt(d) + mask)) @ v, in `heads` groups of d columns each [B, T, Q].

    Short sequences, and weights that are dropped, take two plain matrix products; long ones the fused kernel.
    """
    q_BHTd, k_BHSd, v_BHSd = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q_BTQ, k_BSQ, v_BSQ))
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
        return self.out(attend(q, k, v, heads, mask, drop, rate), x_BTD.size(-1))


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
        self, x_BTD: Tensor, source_BSD: Tensor, mask: Tensor | None, heads: int, drop: Dropout, rate: float
    ) -> Tensor:
        """Return [B, T, D]."""
        k, v = self.kv(source_BSD, 2 * self.qkv_dim).chunk(2, -1)
        q = self.q(x_BTD, self.qkv_dim)
        return self.out(attend(q, k, v, heads, mask, drop, rate), x_BTD.size(-1))


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


class Layer(nn.Module):
    """Self-attention, in a decoder attention to the encoder, and feed-forward, each with a residual branch.

    As large as layer `index` of one side of `shape`.
    """

    def __init__(self, cfg: ModelConfig, space: SearchSpace, shape: Arch, side: str, index: int) -> None:
        super().__init__()
        stack: EncoderArch = getattr(shape, side)
        dim, qkv_dim = stack.embed_dim, space.qkv_dim if side == "encoder" else space.decoder_qkv_dim
        self.cfg, self.super_dim = cfg, getattr(space, side).super_embed_dim
        self.pre_norm = getattr(cfg, f"{side}_normalize_before")
        self.self_attn = SelfAttention(dim, qkv_dim)
        self.self_norm = ElasticLayerNorm(dim)
        if side == "decoder":
            self.cross_attn = CrossAttention(dim, shape.encoder.embed_dim, qkv_dim)
            self.cross_norm = ElasticLayerNorm(dim)
        self.ffn = FeedForward(dim, stack.ffn_dims[index])
        self.ffn_norm = ElasticLayerNorm(dim)

    def _residual(
        self, x: Tensor, norm: ElasticLayerNorm, block: Callable[[Tensor], Tensor], drop: Dropout, rate: float
    ) -> Tensor:
        if self.pre_norm:
            return x + drop(block(norm(x)), rate)
        return norm(x + drop(block(x), rate))

    def forward(
        self,
        x_BTD: Tensor,
        stack: EncoderArch,
        index: int,
        mask: Tensor | None,
        drop: Dropout,
        source: tuple[Tensor, Tensor | None] | None = None,
    ) -> Tensor:
        """Return [B, T, D], computed as layer `index` of `stack`; in a decoder of a source and its mask."""
        cfg, width = self.cfg, x_BTD.size(-1)
        rate = cfg.dropout * width / self.super_dim

        def attention(h_BTD: Tensor) -> Tensor:
            return self.self_attn(h_BTD, stack.self_heads[index], mask, drop, cfg.attention_dropout)

        def feed_forward(h_BTD: Tensor) -> Tensor:
            relu_rate = cfg.activation_dropout * width / self.super_dim
            return self.ffn(h_BTD, stack.ffn_dims[index], drop, relu_rate)

        # parity with HAT 2020: dropout after an encoder's self-attention is not scaled by width
        x_BTD = self._residual(x_BTD, self.self_norm, attention, drop, rate if source else cfg.dropout)
        if source:
            heads = stack.cross_heads[index]

            def to_source(h_BTD: Tensor) -> Tensor:
                return self.cross_attn(h_BTD, *source, heads, drop, cfg.attention_dropout)

            x_BTD = self._residual(x_BTD, self.cross_norm, to_source, drop, rate)
        return self._residual(x_BTD, self.ffn_norm, feed_forward, drop, rate)
