"""A stand-alone SubTransformer as two ONNX graphs, and an engine that drives them with our beam search.

`encoder.onnx` makes of source ids [B, S] a mask [B, S] and, for each decoder layer, the keys and values that
it attends to; `step.onnx` feeds one token of each of K hypotheses and gives logits [B, K, V] and the caches,
which are one token longer.
B sentences, K hypotheses, S source length, t tokens fed so far, H heads, d head width, D width, V vocabulary.
"""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.data.subwords import package
from hat.decode.beam import BeamConfig, Hypothesis, beam_search
from hat.model.layers import PAD
from hat.model.transformer import SubTransformer, untie

FILES = ("encoder.onnx", "step.onnx")
HIDDEN = -1e9  # added to the scores of pads: -inf would make NaN of a row that is all pads


def _heads(x_BTQ: Tensor, heads: int) -> Tensor:
    return x_BTQ.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, mask: Tensor | None) -> Tensor:
    out_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=mask)
    return out_BHTd.transpose(1, 2).flatten(2)


def _linear(linear: Any, x: Tensor) -> Tensor:
    return F.linear(x, linear.weight, linear.bias)


def _norm(norm: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, (x.size(-1),), norm.weight, norm.bias, norm.eps)


def _residual(pre_norm: bool, norm: Any, x: Tensor, block: Any) -> Tensor:
    return x + block(_norm(norm, x)) if pre_norm else _norm(norm, x + block(x))


def _feed_forward(layer: Any, x: Tensor) -> Tensor:
    def block(h: Tensor) -> Tensor:
        return _linear(layer.ffn.down, F.relu(_linear(layer.ffn.up, h)))

    return _residual(layer.pre_norm, layer.ffn_norm, x, block)


def _embed(model: Any, side: str, ids: Tensor, places: Tensor, width: int) -> Tensor:
    sines = getattr(model, f"{side}_positions")
    scale = model.scale("encoder" if side == "source" else "decoder", width)
    table = getattr(model, f"{side}_embed").columns(width)
    return F.embedding(ids, table) * scale + F.embedding(places, sines[:, :width])


class Encoder(nn.Module):
    """What `encoder.onnx` computes."""

    def __init__(self, model: SubTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, source_BS: Tensor) -> tuple[Tensor, ...]:
        """Return the mask and two caches [B, H, span * S, d] for each decoder layer."""
        model, enc, dec = self.model, self.model.arch.encoder, self.model.arch.decoder
        real_BS = source_BS.ne(PAD).long()
        mask_BS = (1.0 - real_BS.float()) * HIDDEN
        places_BS = real_BS.cumsum(1) * real_BS + PAD
        x, outputs = _embed(model, "source", source_BS, places_BS, enc.embed_dim), list[Tensor]()
        for layer, heads in zip(model.encoder_layers, enc.self_heads, strict=True):

            def attention(h: Tensor, layer: Any = layer, heads: int = heads) -> Tensor:
                q, k, v = (_heads(part, heads) for part in _linear(layer.self_attn.qkv, h).chunk(3, -1))
                return _linear(layer.self_attn.out, _attend(q, k, v, mask_BS[:, None, None]))

            x = _feed_forward(layer, _residual(layer.pre_norm, layer.self_norm, x, attention))
            outputs.insert(0, x)
        if model.cfg.encoder_normalize_before:
            outputs[0] = _norm(model.encoder_norm, x)
        found = [mask_BS]
        for layer, heads, span in zip(model.decoder_layers, dec.cross_heads, dec.cross_span, strict=True):
            both = _linear(layer.cross_attn.kv, torch.cat(outputs[:span], 1)).chunk(2, -1)
            found += [_heads(part, heads) for part in both]
        return tuple(found)


class Step(nn.Module):
    """What `step.onnx` computes."""

    def __init__(self, model: SubTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, token_BK: Tensor, place: Tensor, mask_BS: Tensor, *caches: Tensor
    ) -> tuple[Tensor, ...]:
        """Caches: two of the source [B, H, span * S, d] per layer, then two of the past [B, K, H, t, d]."""
        model, dec = self.model, self.model.arch.decoder
        cross, past, grown = caches[: 2 * dec.num_layers], caches[2 * dec.num_layers :], list[Tensor]()
        x_BKD = _embed(model, "target", token_BK, place, dec.embed_dim)
        for i, layer in enumerate(model.decoder_layers):

            def to_past(h_BKD: Tensor, i: int = i, layer: Any = layer) -> Tensor:
                heads = dec.self_heads[i]
                parts = _linear(layer.self_attn.qkv, h_BKD).unflatten(-1, (3, heads, -1))[:, :, :, :, None]
                k, v = (torch.cat([past[2 * i + n], parts[:, :, 1 + n]], 3) for n in (0, 1))
                grown.extend((k, v))
                q, keys, values = (part.flatten(0, 1) for part in (parts[:, :, 0], k, v))  # [N, H, ., d]
                out_NQ = _attend(q, keys, values, None).flatten(1)
                return _linear(layer.self_attn.out, out_NQ.unflatten(0, h_BKD.shape[:2]))

            def to_source(h_BKD: Tensor, i: int = i, layer: Any = layer) -> Tensor:
                q_BHKd = _heads(_linear(layer.cross_attn.q, h_BKD), dec.cross_heads[i])
                mask = mask_BS.repeat(1, dec.cross_span[i])[:, None, None]
                return _linear(layer.cross_attn.out, _attend(q_BHKd, cross[2 * i], cross[2 * i + 1], mask))

            x_BKD = _residual(layer.pre_norm, layer.self_norm, x_BKD, to_past)
            x_BKD = _residual(layer.pre_norm, layer.cross_norm, x_BKD, to_source)
            x_BKD = _feed_forward(layer, x_BKD)
        if model.cfg.decoder_normalize_before:
            x_BKD = _norm(model.decoder_norm, x_BKD)
        return F.linear(x_BKD, model.output.columns(dec.embed_dim)), *grown


@torch.inference_mode()
def export(model: SubTransformer, folder: Path, precision: str = "fp32") -> None:
    """Write both graphs into `folder`; batch, hypotheses and lengths are free.

    `precision` is fp32, or int8 for weights rounded to 8 bits. Raises ConfigError if the packages of the
    extra `onnx` are missing.
    """
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        package(needed, "onnx")
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) if precision == "int8" else folder
        network = copy.deepcopy(model).float().eval()
        if precision == "int8":  # what the graph would cut or transpose of a shared table stays in floats
            untie(network)
        _write_graphs(network, made)
        if precision == "int8":
            quantization = package("onnxruntime.quantization", "onnx")
            how = {"weight_type": quantization.QuantType.QInt8, "per_channel": True}
            for name in FILES:
                with _quiet():
                    quantization.quantize_dynamic(made / name, folder / name, **how)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporters tell their developers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _write_graphs(model: SubTransformer, folder: Path) -> None:
    dec, qkv_dim, free = model.arch.decoder, model.space.decoder_qkv_dim, torch.export.Dim.DYNAMIC
    of_layers = [f"{i}.{kind}" for i in range(dec.num_layers) for kind in ("key", "value")]
    cross_names, past_names, grown_names = (
        [f"{what}.{one}" for one in of_layers] for what in ("cross", "past", "grown")
    )
    source_BS = torch.tensor([[PAD, 5, 6, 2], [7, 8, 9, 2]])
    mask_BS, *cross = Encoder(model)(source_BS)
    past = [torch.zeros(2, 3, heads, 5, qkv_dim // heads) for heads in dec.self_heads for _ in (0, 1)]
    inputs = (torch.full((2, 3), 5), torch.tensor([7]), mask_BS, *cross, *past)
    caches = [{0: free, 2: free}] * len(cross) + [{0: free, 1: free, 3: free}] * len(past)
    graphs: list[tuple[nn.Module, Any, Any, list[str], list[str]]] = [
        (Encoder(model), (source_BS,), ({0: free, 1: free},), ["source"], ["mask", *cross_names]),
        (
            Step(model),
            inputs,
            ({0: free, 1: free}, {}, {0: free, 1: free}, tuple(caches)),
            ["token", "place", "mask", *cross_names, *past_names],
            ["logits", *grown_names],
        ),
    ]
    for name, (graph, given, shapes, names, results) in zip(FILES, graphs, strict=True):
        with _quiet():
            torch.onnx.export(
                graph.eval(),
                given,
                folder / name,
                input_names=names,
                output_names=results,
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )


class _State:
    """What the decoding of a batch remembers, in the order of the inputs of `step.onnx`."""

    def __init__(self, mask: Any, cross: list[Any], past: list[Any]) -> None:
        self.mask, self.cross, self.past, self.length = mask, cross, past, 0

    def reorder(self, origin_BK: Tensor) -> None:
        """Let hypothesis k of sentence b continue what hypothesis `origin[b, k]` was."""
        rows, origin = torch.arange(len(origin_BK))[:, None].numpy(), origin_BK.numpy()
        self.past = [cache[rows, origin] for cache in self.past]

    def keep(self, sentences: Tensor) -> None:
        """Drop all sentences but these."""
        rows = sentences.numpy()
        self.mask, self.cross, self.past = (
            self.mask[rows],
            [cache[rows] for cache in self.cross],
            [cache[rows] for cache in self.past],
        )


class Engine:
    """Translates ids by the graphs in `folder`; has the methods that beam search calls on a model."""

    def __init__(self, folder: Path, model: SubTransformer, threads: int) -> None:
        runtime = package("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self._encoder, self._step = (
            runtime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in FILES
        )
        self._names = [each.name for each in self._step.get_inputs()]
        self.cfg, self._heads, self._qkv_dim = (
            model.cfg,
            model.arch.decoder.self_heads,
            model.space.decoder_qkv_dim,
        )

    def __call__(self, source_BS: Tensor, cfg: BeamConfig) -> list[list[Hypothesis]]:
        """Return up to `beam` hypotheses for each left-padded source, best score first."""
        return beam_search(self, source_BS, cfg)  # type: ignore[arg-type]

    def encode(self, source_BS: Tensor) -> Any:
        """Run the encoder."""
        mask, *cross = self._encoder.run(None, {"source": source_BS.numpy()})
        return SimpleNamespace(padding=source_BS.eq(PAD), mask=mask, cross=cross)

    def start(self, source: Any, beam: int, capacity: int = 0) -> _State:
        """Return the state before the first token."""
        shapes = [
            (len(source.mask), 1, heads, 0, self._qkv_dim // heads) for heads in self._heads for _ in (0, 1)
        ]
        return _State(source.mask, source.cross, [torch.zeros(shape).numpy() for shape in shapes])

    def step(self, tokens_N: Tensor, state: _State) -> Tensor:
        """Feed one token of each hypothesis; returns logits [N, V]."""
        state.length += 1
        token_BK = tokens_N.view(len(state.mask), -1).numpy()
        place = torch.tensor([state.length + PAD]).numpy()
        feeds = [token_BK, place, state.mask, *state.cross, *state.past]
        logits, *state.past = self._step.run(None, dict(zip(self._names, feeds, strict=True)))
        return torch.from_numpy(logits).flatten(0, 1)
