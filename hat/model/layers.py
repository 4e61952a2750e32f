"""The layers of a Transformer; each reads its sizes off the architecture. B batch, T target length, S source
length, H heads, d head width, D width, Q width of all heads (qkv-dim), F feed-forward width.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.config import Options, option
from hat.model.cpu import SHORT
from hat.model.elastic import Dropout, ElasticLayerNorm, ElasticLinear
from hat.space import Arch, EncoderArch, SearchSpace

MAX_POSITIONS = 1 << 16  # no weight proves the number in a file, and the table takes memory for each
PAD, EOS = 1, 2  # ids fixed by the dictionary format
Block = Callable[[Tensor], Tensor]
Mask = Tensor | None  # what to add to attention scores
Source = tuple[Tensor, Mask] | None  # outputs of the encoder and their mask


@dataclass(frozen=True)
class ModelConfig(Options):
    """Model"""

    dropout: float = option(0.1, "of embeddings and residual branches, at the super width", low=0, below=1)
    attention_dropout: float = option(0.0, "dropout on attention weights", low=0, below=1)
    activation_dropout: float = option(0.0, "dropout after the ReLU, at the super width", low=0, below=1)
    share_all_embeddings: bool = option(False, "one matrix for embeddings and output; joint dictionary only")
    share_decoder_input_output_embed: bool = option(False, "one matrix for target embedding and output")
    encoder_normalize_before: bool = option(False, "normalise before each encoder block instead of after it")
    decoder_normalize_before: bool = option(False, "normalise before each decoder block instead of after it")
    vocab_original_scaling: bool = option(False, "scale embeddings by the root of the super width")
    max_source_positions: int = option(1024, "longest source sentence in tokens", low=2, high=MAX_POSITIONS)
    max_target_positions: int = option(1024, "longest target sentence in tokens", low=2, high=MAX_POSITIONS)

    @property
    def structure(self) -> dict[str, bool]:
        """What weights depend on, by its key; sharing all embeddings shares those of the decoder."""
        found = {each.name.replace("_", "-"): getattr(self, each.name) for each in fields(self)}
        shares = found["share-all-embeddings"] or found["share-decoder-input-output-embed"]
        found["share-decoder-input-output-embed"] = shares
        return {key: value for key, value in found.items() if isinstance(value, bool)}


def sinusoids(num_positions: int, dim: int) -> Tensor:
    """Return the position table [num_positions, dim]: sines in the front half, cosines behind, zero at PAD;
    frequencies exp(-i * ln(10000) / (half - 1)) at the *super* width, of which slices take front columns.
    """
    half = dim // 2
    with torch.device("cpu"):  # on the meta device, torch would import 2 s of Python for these few operations
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


class Layer(nn.Module):
    """The blocks of layer `index` of one side of `shape`; only the embedding side of projections is cut."""

    def __init__(self, cfg: ModelConfig, space: SearchSpace, shape: Arch, side: str, index: int) -> None:
        super().__init__()
        stack: EncoderArch = getattr(shape, side)
        dim, source_dim, linear = stack.embed_dim, shape.encoder.embed_dim, ElasticLinear
        self.qkv_dim = qkv_dim = space.qkv_dim if side == "encoder" else space.decoder_qkv_dim
        self.cfg, self.super_dim = cfg, getattr(space, side).super_embed_dim
        self.pre_norm = getattr(cfg, f"{side}_normalize_before")
        self.self_attn = nn.ModuleDict({"qkv": linear(dim, 3 * qkv_dim), "out": linear(qkv_dim, dim)})
        self.self_norm = ElasticLayerNorm(dim)
        if side == "decoder":
            # parity with HAT 2020: with equal widths both are parts of one matrix, whose fan counts
            fan_out = 3 * qkv_dim if dim == source_dim else qkv_dim
            maps = {"q": linear(dim, qkv_dim, fan_out), "kv": linear(source_dim, 2 * qkv_dim, fan_out)}
            self.cross_attn = nn.ModuleDict({**maps, "out": linear(qkv_dim, dim)})
            self.cross_norm = ElasticLayerNorm(dim)
        ffn_dim = stack.ffn_dims[index]
        self.ffn = nn.ModuleDict({"up": linear(dim, ffn_dim), "down": linear(ffn_dim, dim)})
        self.ffn_norm = ElasticLayerNorm(dim)

    def forward(
        self, x: Tensor, stack: EncoderArch, index: int, mask: Mask, drop: Dropout, source: Source = None
    ) -> Tensor:
        """Return [B, T, D], computed as layer `index` of `stack`; in a decoder of a source and its mask."""
        rate = self.cfg.attention_dropout

        def to_itself(h_BTD: Tensor) -> Tensor:
            q, k, v = self.self_attn.qkv(h_BTD, 3 * self.qkv_dim).chunk(3, -1)
            return attend(q, k, v, stack.self_heads[index], mask, drop, rate)

        def to_source(h_BTD: Tensor) -> Tensor:
            k, v = self.cross_attn.kv(source[0], 2 * self.qkv_dim).chunk(2, -1)
            q = self.cross_attn.q(h_BTD, self.qkv_dim)
            return attend(q, k, v, stack.cross_heads[index], source[1], drop, rate)

        return self.blocks(x, stack, index, to_itself, to_source if source else None, drop)

    def blocks(
        self, x: Tensor, stack: EncoderArch, index: int, to_itself: Block, to_source: Any, drop: Dropout
    ) -> Tensor:
        """Return [.., D]; `to_itself` and `to_source`, if any, compute the heads of attentions, [.., Q]."""
        cfg, width = self.cfg, x.size(-1)
        rate = cfg.dropout * width / self.super_dim

        def feed_forward(h: Tensor) -> Tensor:
            relu_rate = cfg.activation_dropout * width / self.super_dim
            return drop(self.ffn.up.relu(h, stack.ffn_dims[index]), relu_rate)

        # parity with HAT 2020: dropout after an encoder's self-attention is not scaled by width
        own_rate = rate if to_source else cfg.dropout
        x = self.residual(x, self.self_norm, to_itself, self.self_attn.out, drop, own_rate)
        if to_source:
            x = self.residual(x, self.cross_norm, to_source, self.cross_attn.out, drop, rate)
        return self.residual(x, self.ffn_norm, feed_forward, self.ffn.down, drop, rate)

    def residual(
        self, x: Tensor, norm: nn.Module, block: Block, out: ElasticLinear, drop: Dropout, rate: float
    ) -> Tensor:
        """Return x + drop(out(block(x))), normalised before or after."""
        if self.pre_norm:
            return out.plus(block(norm(x)), x, drop, rate)
        return norm(out.plus(block(x), x, drop, rate))


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


def count_macs(arch: Arch, space: SearchSpace, length: int, cfg: ModelConfig | None = None) -> int:
    """Return the multiply-accumulates of one forward pass with teacher forcing, batch 1, `length` source and
    target tokens, without the output matrix, as torchprofile 0.1 counts the plain float32 pass: products of
    matrices, normalisations with scale, scaled embeddings and queries. The options of a model add the two
    products that give positions, and end norms: then the number is torchprofile's to the last digit.
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
    if cfg:
        total += n * (2 + arch.encoder.embed_dim * cfg.encoder_normalize_before)
        total += n * arch.decoder.embed_dim * cfg.decoder_normalize_before
    return total
