"""The peers: CTranslate2 with the weights of one of our models, and a training step in plain PyTorch."""

import copy
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import hat

PIP = "pip install -c constraints.txt -e '.[bench]'"


def has_ctranslate2() -> bool:
    """Return whether CTranslate2 is installed."""
    return importlib.util.find_spec("ctranslate2") is not None


def token(index: int) -> str:
    """Return the word of CTranslate2's vocabulary that stands for an id of ours."""
    return {0: "<s>", hat.PAD: "<blank>", hat.EOS: "</s>", 3: "<unk>"}.get(index, f"w{index}")


def save_ctranslate2(model: hat.SubTransformer, folder: Path) -> None:
    """Write `model` (float32, post-norm, one head count, span 1 in every layer) as a CTranslate2 model.

    The files hold copies: CTranslate2 quantises in place. Raises ConfigError for an architecture that
    CTranslate2 has no form for.
    """
    from ctranslate2.specs import TransformerSpec

    arch = model.arch
    heads = {*arch.encoder.self_heads, *arch.decoder.self_heads, *arch.decoder.cross_heads}
    if len(heads) != 1 or set(arch.decoder.cross_span) != {1}:
        raise hat.ConfigError(
            f"the peer takes one head count and attends to the last encoder layer; got heads {sorted(heads)} "
            f"and spans {arch.decoder.cross_span}; give an architecture with one head count and span 1"
        )
    if model.cfg.encoder_normalize_before or model.cfg.decoder_normalize_before:
        raise hat.ConfigError("the CTranslate2 peer is written for post-norm models; leave pre-norm out")
    count = heads.pop()
    layers = (arch.encoder.num_layers, arch.decoder.num_layers)
    spec = TransformerSpec.from_config(layers, count, pre_norm=False)
    spec.register_source_vocabulary([token(index) for index in range(model.source_embed.weight.size(0))])
    spec.register_target_vocabulary([token(index) for index in range(model.target_embed.weight.size(0))])
    spec.config.decoder_start_token = token(hat.EOS)
    for side, table, sines, width in (
        (spec.encoder, model.source_embed, model.source_positions, arch.encoder.embed_dim),
        (spec.decoder, model.target_embed, model.target_positions, arch.decoder.embed_dim),
    ):
        embeddings = side.embeddings[0] if isinstance(side.embeddings, list) else side.embeddings
        embeddings.weight = _array(table.weight)
        side.position_encodings.encodings = _array(sines[hat.PAD + 1 :, :width])
        side.scale_embeddings = math.sqrt(width)
    spec.decoder.projection.weight = _array(model.output.weight)
    for layer_spec, layer in zip(spec.encoder.layer, model.encoder_layers, strict=True):
        _fill_layer(layer_spec, layer, count)
    for layer_spec, layer in zip(spec.decoder.layer, model.decoder_layers, strict=True):
        _fill_layer(layer_spec, layer, count)
        cross = layer.cross_attn
        _fill_attention(layer_spec.attention, (cross.q, cross.kv, cross.out), count)
        _fill_norm(layer_spec.attention.layer_norm, layer.cross_norm)
    spec.validate()
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def _fill_layer(spec: Any, layer: Any, heads: int) -> None:
    _fill_attention(spec.self_attention, (layer.self_attn.qkv, layer.self_attn.out), heads)
    _fill_norm(spec.self_attention.layer_norm, layer.self_norm)
    _fill((spec.ffn.linear_0, spec.ffn.linear_1), (layer.ffn.up, layer.ffn.down))
    _fill_norm(spec.ffn.layer_norm, layer.ffn_norm)


def _fill_attention(spec: Any, linears: Sequence[Any], heads: int) -> None:
    # CTranslate2 would derive the scale from the width of the layer, which need not be the width of queries
    spec.queries_scale = np.float32((linears[-1].weight.size(1) // heads) ** -0.5)
    _fill(spec.linear, linears)


def _fill(specs: Sequence[Any], linears: Sequence[Any]) -> None:
    for spec, linear in zip(specs, linears, strict=True):
        spec.weight, spec.bias = _array(linear.weight), _array(linear.bias)


def _fill_norm(spec: Any, norm: Any) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _array(weight: Tensor) -> Any:
    return weight.detach().to(torch.float32).clone(memory_format=torch.contiguous_format).numpy()


class CTranslate2:
    """A loaded CTranslate2 model that translates batches of ids as ours does.

    `threads` are shared by the products of one batch; with `replicas`, that many parts of a batch are
    translated at once, each with `threads` of its own.
    """

    def __init__(
        self, folder: Path, compute_type: str, threads: int, replicas: int = 1, device: str = "cpu"
    ) -> None:
        from ctranslate2 import Translator

        self.replicas = replicas
        self.translator = Translator(
            str(folder),
            device=device,
            compute_type=compute_type,
            inter_threads=replicas,
            intra_threads=threads,
        )

    def translate(self, source_BS: Tensor, length: int, beam: int) -> list[list[str]]:
        """Return the best translation of each unpadded source, exactly `length` tokens each."""
        sources = [[token(index) for index in row] for row in source_BS.tolist()]
        results = self.translator.translate_batch(
            sources,
            beam_size=beam,
            max_decoding_length=length,
            min_decoding_length=length,
            max_batch_size=-(-len(sources) // self.replicas),
        )
        return [result.hypotheses[0] for result in results]


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
