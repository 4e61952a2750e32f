"""The peer of training: a step in plain PyTorch."""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import hat


class PlainTrainer:
    """A step in straightforward float32 PyTorch: plain slices, fused attention, all logits at once, AdamW.
    The weights are a copy of those of `model`, a post-norm SuperTransformer with one shared embedding; the
    passes are written here. Batches have no padding.
    """

    def __init__(self, model: hat.SuperTransformer, label_smoothing: float) -> None:
        self.model = copy.deepcopy(model).float().train()
        self.label_smoothing = label_smoothing
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-7, betas=(0.9, 0.98), weight_decay=0.0
        )

    def train_step(self, batch: hat.Batch, arch: hat.Arch) -> float:
        """Make one update; returns the smoothed loss, a mean over tokens in nats."""
        self.optimizer.zero_grad()
        logits = self.logits(batch, arch).flatten(0, 1)
        loss = F.cross_entropy(logits, batch.target.flatten(), label_smoothing=self.label_smoothing)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def logits(self, batch: hat.Batch, arch: hat.Arch) -> Tensor:
        """Return all logits [B, T, V]."""
        model, enc, dec = self.model, arch.encoder, arch.decoder
        full = model.cfg.dropout
        rate = full * enc.embed_dim / model.space.encoder.super_embed_dim
        x = self._embed(batch.source, enc.embed_dim, rate)
        outputs = []
        for layer, ffn, heads in zip(model.encoder_layers, enc.ffn_dims, enc.self_heads, strict=False):
            h = _self_attention(layer, x, heads, causal=False)
            # parity with HAT 2020: encoder self-attention dropout is not scaled by width
            x = _norm(layer.self_norm, x + F.dropout(h, full))
            x = _feed_forward(layer, x, ffn, rate)
            outputs.insert(0, x)
        rate = full * dec.embed_dim / model.space.decoder.super_embed_dim
        x = self._embed(batch.decoder_input, dec.embed_dim, rate)
        for layer, ffn, heads, cross_heads, span in zip(
            model.decoder_layers, dec.ffn_dims, dec.self_heads, dec.cross_heads, dec.cross_span, strict=False
        ):
            h = _self_attention(layer, x, heads, causal=True)
            x = _norm(layer.self_norm, x + F.dropout(h, rate))
            cross = layer.cross_attn
            kv = _cut(cross.kv, torch.cat(outputs[:span], 1), cross.kv.weight.size(0))
            h = _attend(_cut(cross.q, x, cross.q.weight.size(0)), *kv.chunk(2, -1), cross_heads, causal=False)
            x = _norm(layer.cross_norm, x + F.dropout(_cut(cross.out, h, x.size(-1)), rate))
            x = _feed_forward(layer, x, ffn, rate)
        return F.linear(x, model.source_embed.weight[:, : x.size(-1)])

    def _embed(self, ids: Tensor, dim: int, rate: float) -> Tensor:
        weight, sines = self.model.source_embed.weight, self.model.source_positions
        x = F.embedding(ids, weight[:, :dim], padding_idx=hat.PAD) * math.sqrt(dim)
        return F.dropout(x + sines[hat.PAD + 1 : hat.PAD + 1 + ids.size(1), :dim], rate)


def _self_attention(layer: Any, x: Tensor, heads: int, *, causal: bool) -> Tensor:
    qkv = _cut(layer.self_attn.qkv, x, layer.self_attn.qkv.weight.size(0))
    return _cut(layer.self_attn.out, _attend(*qkv.chunk(3, -1), heads, causal=causal), x.size(-1))


def _feed_forward(layer: Any, x: Tensor, ffn: int, rate: float) -> Tensor:
    h = _cut(layer.ffn.down, F.relu(_cut(layer.ffn.up, x, ffn)), x.size(-1))
    return _norm(layer.ffn_norm, x + F.dropout(h, rate))


def _cut(linear: Any, x: Tensor, out: int) -> Tensor:
    return F.linear(x, linear.weight[:out, : x.size(-1)], linear.bias[:out])


def _norm(norm: Any, x: Tensor) -> Tensor:
    dim = x.size(-1)
    return F.layer_norm(x, (dim,), norm.weight[:dim], norm.bias[:dim], norm.eps)


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, *, causal: bool) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
