"""A stand-alone SubTransformer as two ONNX graphs, and an engine that drives them with our beam search.
`encoder.onnx` makes of source ids [B, S] a mask [B, S] and, for each decoder layer, the keys and values that
it attends to; `step.onnx` feeds one token of each of K hypotheses and gives logits [B, K, V] and the caches,
which are one token longer. B sentences, K hypotheses, S source length, t tokens fed so far, H heads, d head
width, D width, Q width of all heads, V vocabulary.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hat.data.subwords import package
from hat.decode.translator import Model
from hat.model.layers import PAD
from hat.model.transformer import SubTransformer
from hat.runtimes import Precision
from hat.runtimes.engines import Runtime, StepEngine, stand_alone

NEEDS = ("onnx", "onnxruntime")
FILES = ("encoder.onnx", "step.onnx")
HIDDEN = -1e9  # added to the scores of pads: -inf would make NaN of a row that is all pads
KINDS = "key", "value"


class _Graph:
    """A graph under construction; values are known by their names, what is called adds a node."""

    def __init__(self) -> None:
        self._onnx = package("onnx", "onnx")
        self._nodes, self._weights = list[Any](), list[Any]()
        self._inputs, self._outputs = list[Any](), list[Any]()

    def __call__(self, op: str, *inputs: Any, name: str = "", count: int = 1, **attributes: Any) -> Any:
        # the name of the result, or the names of `count`; inputs that are no names become constants
        names = []
        for each in inputs:
            if not isinstance(each, str):
                array = each.detach().float().numpy() if isinstance(each, Tensor) else np.array(each)
                self._weights.append(self._onnx.numpy_helper.from_array(array, f"w{len(self._weights)}"))
                each = self._weights[-1].name
            names.append(each)
        found = [name or f"{op}{len(self._nodes)}.{n}" for n in range(count)]
        self._nodes.append(self._onnx.helper.make_node(op, names, found, **attributes))
        return found if count > 1 else found[0]

    def input(self, name: str, shape: Sequence[int | str], kind: str = "FLOAT") -> str:
        kind = getattr(self._onnx.TensorProto, kind)  # a name in the shape is a size that is free
        self._inputs.append(self._onnx.helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, value: str, shape: Sequence[int | str]) -> None:
        self("Identity", value, name=name)
        kind = self._onnx.TensorProto.FLOAT
        self._outputs.append(self._onnx.helper.make_tensor_value_info(name, kind, shape))

    def save(self, path: Path) -> None:
        helper = self._onnx.helper
        graph = helper.make_graph(self._nodes, path.stem, self._inputs, self._outputs, self._weights)
        known = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8, "producer_name": "hat"}
        self._onnx.save(helper.make_model(graph, **known), path)

    def linear(self, x: str, weight_OI: Tensor, bias_O: Tensor) -> str:
        return str(self("Add", self("MatMul", x, weight_OI.t().contiguous()), bias_O))

    def norm(self, norm: Any, x: str) -> str:
        return str(self("LayerNormalization", x, norm.weight, norm.bias, axis=-1, epsilon=norm.eps))

    def queries(self, maps: Any, x: str, heads: int, parts: int) -> list[str]:
        # of `parts` times Q columns the first are scaled queries
        weight, bias = maps.weight.detach().clone(), maps.bias.detach().clone()
        width = weight.size(0) // parts
        for each in (weight, bias):
            each[:width] *= (width // heads) ** -0.5
        mapped = self.linear(x, weight, bias)
        return list(self("Split", mapped, count=parts, axis=-1)) if parts > 1 else [mapped]

    def heads(self, x_BTQ: str, heads: int) -> str:
        return str(self("Transpose", self("Reshape", x_BTQ, [0, 0, heads, -1]), perm=[0, 2, 1, 3]))

    def attend(self, queries: str, keys: str, values: str, mask: str = "") -> str:
        order = [0, 1, 3, 2] if mask else [0, 1, 2, 4, 3]
        scores = self("MatMul", queries, self("Transpose", keys, perm=order))
        scores = self("Add", scores, mask) if mask else scores
        return str(self("MatMul", self("Softmax", scores, axis=-1), values))

    def join(self, x_BHTd: str, out: Any) -> str:
        x_BTQ = self("Reshape", self("Transpose", x_BHTd, perm=[0, 2, 1, 3]), [0, 0, out.weight.size(1)])
        return self.linear(x_BTQ, out.weight, out.bias)

    def residual(self, layer: Any, name: str, x: str, block: Callable[[str], str]) -> str:
        norm = getattr(layer, f"{name}_norm")
        if layer.pre_norm:
            return str(self("Add", x, block(self.norm(norm, x))))
        return self.norm(norm, self("Add", x, block(x)))

    def feed_forward(self, layer: Any, x: str) -> str:
        up, down = layer.ffn.up, layer.ffn.down

        def block(h: str) -> str:
            return self.linear(self("Relu", self.linear(h, up.weight, up.bias)), down.weight, down.bias)

        return self.residual(layer, "ffn", x, block)

    def embed(self, model: Any, side: str, ids: str, places: str, width: int) -> str:
        sines = getattr(model, f"{side}_positions")
        scale = model.scale("encoder" if side == "source" else "decoder", width)
        table = self("Gather", getattr(model, f"{side}_embed").columns(width) * scale, ids)
        return str(self("Add", table, self("Gather", sines[:, :width], places)))


def _encoder(model: SubTransformer) -> _Graph:
    graph, enc, dec = _Graph(), model.arch.encoder, model.arch.decoder
    source = graph.input("source", ["batch", "length"], "INT64")
    real = graph("Cast", graph("Not", graph("Equal", source, PAD)), to=7)  # int64
    hidden = graph("Mul", graph("Cast", graph("Equal", source, PAD), to=1), np.float32(HIDDEN))
    mask = graph("Unsqueeze", hidden, [1, 2])
    places = graph("Add", graph("Mul", graph("CumSum", real, 1), real), PAD)
    x, outputs = graph.embed(model, "source", source, places, enc.embed_dim), list[str]()
    for layer, heads in zip(model.encoder_layers, enc.self_heads, strict=True):

        def attention(h: str, layer: Any = layer, heads: int = heads) -> str:
            q, k, v = (graph.heads(each, heads) for each in graph.queries(layer.self_attn.qkv, h, heads, 3))
            return graph.join(graph.attend(q, k, v, mask), layer.self_attn.out)

        x = graph.feed_forward(layer, graph.residual(layer, "self", x, attention))
        outputs.insert(0, x)
    if model.cfg.encoder_normalize_before:
        outputs[0] = graph.norm(model.encoder_norm, x)
    graph.output("mask", hidden, ["batch", "length"])
    for i, (layer, heads) in enumerate(zip(model.decoder_layers, dec.cross_heads, strict=True)):
        maps, seen = layer.cross_attn.kv, outputs[: dec.cross_span[i]]
        both = graph("Concat", *seen, axis=1) if len(seen) > 1 else seen[0]
        kv = graph("Split", graph.linear(both, maps.weight, maps.bias), count=2, axis=-1)
        for kind, each in zip(KINDS, kv, strict=True):
            shape = ["batch", heads, "seen", model.space.decoder_qkv_dim // heads]
            graph.output(f"cross.{i}.{kind}", graph.heads(each, heads), shape)
    return graph


def _step(model: SubTransformer) -> _Graph:
    graph, dec, qkv_dim = _Graph(), model.arch.decoder, model.space.decoder_qkv_dim
    token, place = graph.input("token", ["batch", "beam"], "INT64"), graph.input("place", [1], "INT64")
    mask = graph.input("mask", ["batch", "length"])

    def caches(what: str, front: list[str], counts: Sequence[int], size: str) -> list[list[str]]:
        shapes = [[*front, heads, size, qkv_dim // heads] for heads in counts]
        return [[graph.input(f"{what}.{i}.{kind}", s) for kind in KINDS] for i, s in enumerate(shapes)]

    cross = caches("cross", ["batch"], dec.cross_heads, "seen")
    past, grown = caches("past", ["batch", "beam"], dec.self_heads, "time"), list[tuple[str, int]]()
    seen = {span: graph("Concat", *[mask] * span, axis=1) for span in set(dec.cross_span)}
    masks = {span: graph("Unsqueeze", each, [1, 2]) for span, each in seen.items()}
    x = graph.embed(model, "target", token, place, dec.embed_dim)
    for i, layer in enumerate(model.decoder_layers):

        def to_past(h: str, i: int = i, layer: Any = layer) -> str:
            heads, own = dec.self_heads[i], layer.self_attn
            parts = graph.queries(own.qkv, h, heads, 3)
            q, *new = (graph("Reshape", each, [0, 0, heads, 1, -1]) for each in parts)
            k, v = (graph("Concat", *both, axis=3) for both in zip(past[i], new, strict=True))
            grown.extend(((k, heads), (v, heads)))
            found = graph("Reshape", graph.attend(q, k, v), [0, 0, qkv_dim])
            return graph.linear(found, own.out.weight, own.out.bias)

        def to_source(h: str, i: int = i, layer: Any = layer) -> str:
            heads = dec.cross_heads[i]
            (q,) = graph.queries(layer.cross_attn.q, h, heads, 1)
            found = graph.attend(graph.heads(q, heads), *cross[i], masks[dec.cross_span[i]])
            return graph.join(found, layer.cross_attn.out)

        x = graph.residual(layer, "cross", graph.residual(layer, "self", x, to_past), to_source)
        x = graph.feed_forward(layer, x)
    if model.cfg.decoder_normalize_before:
        x = graph.norm(model.decoder_norm, x)
    output_DV = model.output.columns(dec.embed_dim).t().contiguous()
    graph.output("logits", graph("MatMul", x, output_DV), ["batch", "beam", output_DV.size(1)])
    for n, (value, heads) in enumerate(grown):
        shape = ["batch", "beam", heads, "more", qkv_dim // heads]
        graph.output(f"grown.{n // 2}.{KINDS[n % 2]}", value, shape)
    return graph


@torch.inference_mode()
def export(model: SubTransformer, folder: Path, precision: str = "fp32") -> None:
    """Write both graphs, in fp32 or with weights rounded to int8; ConfigError if extra `onnx` is missing."""
    for needed in NEEDS:
        package(needed, "onnx")
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) if precision == "int8" else folder
        for name, graph in zip(FILES, (_encoder, _step), strict=True):
            graph(model).save(made / name)
        if precision == "int8":
            quantization = package("onnxruntime.quantization", "onnx")
            how = {"weight_type": quantization.QuantType.QInt8, "per_channel": True}
            logging.disable(logging.WARNING)  # what the quantiser tells its developers
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    for name in FILES:
                        quantization.quantize_dynamic(made / name, folder / name, **how)
            finally:
                logging.disable(logging.NOTSET)


class _State:  # with the methods of a DecoderState
    def __init__(self, mask: Any, cross: list[Any], past: list[Any]) -> None:
        self.mask, self.cross, self.past, self.length = mask, cross, past, 0

    def reorder(self, origin_BK: Tensor) -> None:
        rows, origin = torch.arange(len(origin_BK))[:, None].numpy(), origin_BK.numpy()
        self.past = [cache[rows, origin] for cache in self.past]

    def keep(self, sentences: Tensor) -> None:
        rows = sentences.numpy()
        self.cross, self.past = ([cache[rows] for cache in caches] for caches in (self.cross, self.past))
        self.mask = self.mask[rows]


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, driven by our beam search."""

    estimate = "minimum of each step"
    needs = ("onnxruntime", "onnx")

    def version(self) -> dict[str, str]:
        return [super(OnnxRuntime, self).version() for needed in NEEDS if package(needed, "onnx")][-1]

    def prepare(self, model: Model, precision: Precision, threads: int) -> StepEngine:
        network = stand_alone(model)
        with tempfile.TemporaryDirectory() as folder:
            export(network, Path(folder), precision)
            return StepEngine(Graphs(Path(folder), network, threads))


class Graphs:
    """The graphs in `folder`, with the methods that beam search calls on an InferenceModel."""

    device = torch.device("cpu")

    def __init__(self, folder: Path, model: SubTransformer, threads: int) -> None:
        runtime = package("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = partial(runtime.InferenceSession, sess_options=options, providers=["CPUExecutionProvider"])
        self._encoder, self._step = (session(str(folder / name)) for name in FILES)
        self._names = [each.name for each in self._step.get_inputs()]
        self.cfg, heads, width = model.cfg, model.arch.decoder.self_heads, model.space.decoder_qkv_dim
        self._shapes = [(each, 0, width // each) for each in heads for _ in KINDS]

    def encode(self, source_BS: Tensor) -> Any:
        mask, *cross = self._encoder.run(None, {"source": source_BS.numpy()})
        return SimpleNamespace(padding=source_BS.eq(PAD), mask=mask, cross=cross)

    def start(self, source: Any, beam: int, capacity: int = 0) -> _State:
        past = [torch.zeros(len(source.mask), 1, *shape).numpy() for shape in self._shapes]
        return _State(source.mask, source.cross, past)

    def step(self, tokens_N: Tensor, state: _State) -> Tensor:
        state.length += 1
        token_BK = tokens_N.view(len(state.mask), -1).numpy()
        place = torch.tensor([state.length + PAD]).numpy()
        feeds = [token_BK, place, state.mask, *state.cross, *state.past]
        logits, *state.past = self._step.run(None, dict(zip(self._names, feeds, strict=True)))
        return torch.from_numpy(logits).flatten(0, 1)
