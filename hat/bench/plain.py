"""The peer of a training step: the same slices in straightforward float32 PyTorch.

Ordinary modules, fused attention, all logits at once, `cross_entropy` and `AdamW` as they come. Parameters
have the names they have in `hat.model.transformer`, so that weights can be copied. Batches have no padding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.data.pairs import Batch
from hat.model.layers import PAD, sinusoids
from hat.model.transformer import Transformer
from hat.space import Arch


class PlainLayer(nn.Module):
    """Parameters of one encoder layer or, with cross-attention, of one decoder layer."""

    def __init__(self, dim: int, ffn_dim: int, qkv_dim: int, memory_dim: int | None) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * qkv_dim), "out": nn.Linear(qkv_dim, dim)})
        self.self_norm = nn.LayerNorm(dim)
        if memory_dim is not None:
            self.cross_attn = nn.ModuleDict(
                {
                    "q": nn.Linear(dim, qkv_dim),
                    "kv": nn.Linear(memory_dim, 2 * qkv_dim),
                    "out": nn.Linear(qkv_dim, dim),
                }
            )
            self.cross_norm = nn.LayerNorm(dim)
        self.ffn = nn.ModuleDict({"up": nn.Linear(dim, ffn_dim), "down": nn.Linear(ffn_dim, dim)})
        self.ffn_norm = nn.LayerNorm(dim)


class PlainSuper(nn.Module):
    """A post-norm SuperTransformer with one shared embedding, its weights copied from `model`."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        enc, dec, qkv = model.space.encoder, model.space.decoder, model.space.qkv_dim
        self.rate = model.cfg.dropout
        self.super_dims = (enc.super_embed_dim, dec.super_embed_dim)
        self.source_embed = nn.Embedding(*model.source_embed.weight.shape)
        self.target_embed = self.output = self.source_embed
        self.encoder_layers = nn.ModuleList(
            PlainLayer(enc.super_embed_dim, enc.super_ffn_dim, qkv, None) for _ in range(enc.super_layers)
        )
        self.decoder_layers = nn.ModuleList(
            PlainLayer(dec.super_embed_dim, dec.super_ffn_dim, qkv, enc.super_embed_dim)
            for _ in range(dec.super_layers)
        )
        self.register_buffer("positions", sinusoids(1024 + PAD + 1, enc.super_embed_dim), persistent=False)
        self.load_state_dict(model.state_dict())

    def forward(self, batch: Batch, arch: Arch) -> Tensor:
        """Return all logits [B, T, V]."""
        enc, dec = arch.encoder, arch.decoder
        rates = [self.rate * a.embed_dim / full for a, full in zip((enc, dec), self.super_dims, strict=True)]
        x = self._embed(batch.source, enc.embed_dim, rates[0])
        outputs = []
        for layer, ffn, heads in zip(self.encoder_layers, enc.ffn_dims, enc.self_heads, strict=False):
            h = self._self_attention(layer, x, heads, causal=False)
            # parity with HAT 2020: encoder self-attention dropout is not scaled by width
            x = _norm(layer.self_norm, x + F.dropout(h, self.rate, self.training))
            x = self._feed_forward(layer, x, ffn, rates[0])
            outputs.insert(0, x)
        x = self._embed(batch.decoder_input, dec.embed_dim, rates[1])
        for layer, ffn, heads, cross_heads, span in zip(
            self.decoder_layers, dec.ffn_dims, dec.self_heads, dec.cross_heads, dec.cross_span, strict=False
        ):
            h = self._self_attention(layer, x, heads, causal=True)
            x = _norm(layer.self_norm, x + F.dropout(h, rates[1], self.training))
            q = _cut(layer.cross_attn["q"], x, layer.cross_attn["q"].out_features)
            kv = _cut(
                layer.cross_attn["kv"], torch.cat(outputs[:span], 1), layer.cross_attn["kv"].out_features
            )
            h = _attend(q, *kv.chunk(2, -1), cross_heads, causal=False)
            h = _cut(layer.cross_attn["out"], h, x.size(-1))
            x = _norm(layer.cross_norm, x + F.dropout(h, rates[1], self.training))
            x = self._feed_forward(layer, x, ffn, rates[1])
        return F.linear(x, self.output.weight[:, : x.size(-1)])

    def _embed(self, ids: Tensor, dim: int, rate: float) -> Tensor:
        x = F.embedding(ids, self.source_embed.weight[:, :dim], padding_idx=PAD) * math.sqrt(dim)
        x = x + self.positions[PAD + 1 : PAD + 1 + ids.size(1), :dim]
        return F.dropout(x, rate, self.training)

    def _self_attention(self, layer: nn.Module, x: Tensor, heads: int, *, causal: bool) -> Tensor:
        qkv = _cut(layer.self_attn["qkv"], x, layer.self_attn["qkv"].out_features)
        return _cut(layer.self_attn["out"], _attend(*qkv.chunk(3, -1), heads, causal=causal), x.size(-1))

    def _feed_forward(self, layer: nn.Module, x: Tensor, ffn: int, rate: float) -> Tensor:
        h = _cut(layer.ffn["down"], F.relu(_cut(layer.ffn["up"], x, ffn)), x.size(-1))
        return _norm(layer.ffn_norm, x + F.dropout(h, rate, self.training))


class PlainTrainer:
    """Forward, backward and AdamW of a PlainSuper."""

    def __init__(self, model: PlainSuper, label_smoothing: float) -> None:
        self.model = model.train()
        self.label_smoothing = label_smoothing
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7, betas=(0.9, 0.98), weight_decay=0.0)

    def train_step(self, batch: Batch, arch: Arch) -> float:
        """Make one update; returns the smoothed loss, a mean over tokens in nats."""
        self.optimizer.zero_grad()
        logits = self.model(batch, arch)
        loss = F.cross_entropy(
            logits.flatten(0, 1), batch.target.flatten(), label_smoothing=self.label_smoothing
        )
        loss.backward()
        self.optimizer.step()
        return loss.item()


def _cut(linear: nn.Linear, x: Tensor, out: int) -> Tensor:
    return F.linear(x, linear.weight[:out, : x.size(-1)], linear.bias[:out])


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    dim = x.size(-1)
    return F.layer_norm(x, (dim,), norm.weight[:dim], norm.bias[:dim], norm.eps)


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, *, causal: bool) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
