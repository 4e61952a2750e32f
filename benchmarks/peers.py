"""The peers: CTranslate2 with the weights of one of our models, and a training step in plain PyTorch."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hat

PIP = "pip install -c constraints.txt -e '.[bench]'"


class PeerError(hat.HatError):
    """The peer is installed, but cannot compute here."""


def has_ctranslate2() -> bool:
    """Return whether CTranslate2 is installed."""
    return importlib.util.find_spec("ctranslate2") is not None


def gpu_types(fast: str) -> tuple[str, str]:
    """Return float32 and CTranslate2's name of our fast number format.

    Raises PeerError if this build of CTranslate2 sees no GPU or lacks one of the two.
    """
    import ctranslate2

    wanted = ("float32", {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[fast])
    if not ctranslate2.get_cuda_device_count():
        raise PeerError("this build of CTranslate2 sees no GPU; install one with CUDA")
    if missing := set(wanted) - set(ctranslate2.get_supported_compute_types("cuda")):
        raise PeerError(f"CTranslate2 does not compute in {', '.join(sorted(missing))} on this GPU")
    return wanted


def try_out(translate: Callable[[], object]) -> None:
    """Translate once; raises PeerError if libraries of CUDA are missing, which nothing shows before."""
    try:
        translate()
    except (RuntimeError, ValueError) as error:
        raise PeerError(f"CTranslate2 does not run on this GPU ({str(error).splitlines()[0]})") from error


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

    def log_probs(self, source: list[int], target: list[int]) -> list[float]:
        """Return the log-probability of each token of a target that ends with EOS."""
        (result,) = self.translator.score_batch(
            [[token(index) for index in source]], [[token(index) for index in target[:-1]]]
        )
        return list(result.log_probs)


# Straightforward float32 PyTorch: ordinary modules, fused attention, all logits at once, `cross_entropy` and
# `AdamW` as they come. Parameters have the names they have in our model, so that weights can be copied.


class PlainLayer(nn.Module):
    """Parameters of one encoder layer or, with cross-attention, of one decoder layer."""

    def __init__(self, dim: int, ffn_dim: int, qkv_dim: int, source_dim: int | None) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * qkv_dim), "out": nn.Linear(qkv_dim, dim)})
        self.self_norm = nn.LayerNorm(dim)
        if source_dim is not None:
            self.cross_attn = nn.ModuleDict(
                {
                    "q": nn.Linear(dim, qkv_dim),
                    "kv": nn.Linear(source_dim, 2 * qkv_dim),
                    "out": nn.Linear(qkv_dim, dim),
                }
            )
            self.cross_norm = nn.LayerNorm(dim)
        self.ffn = nn.ModuleDict({"up": nn.Linear(dim, ffn_dim), "down": nn.Linear(ffn_dim, dim)})
        self.ffn_norm = nn.LayerNorm(dim)


class PlainSuper(nn.Module):
    """A post-norm SuperTransformer with one shared embedding, its weights copied from `model`."""

    def __init__(self, model: hat.SuperTransformer) -> None:
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
        self.register_buffer("positions", model.source_positions.clone(), persistent=False)
        self.load_state_dict(model.state_dict())

    def forward(self, batch: hat.Batch, arch: hat.Arch) -> Tensor:
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
        x = F.embedding(ids, self.source_embed.weight[:, :dim], padding_idx=hat.PAD) * math.sqrt(dim)
        x = x + self.positions[hat.PAD + 1 : hat.PAD + 1 + ids.size(1), :dim]
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

    def train_step(self, batch: hat.Batch, arch: hat.Arch) -> float:
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
