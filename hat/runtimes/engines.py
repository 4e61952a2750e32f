"""Engines that translate with a model, by name, and the files of other programs that a model becomes."""

import copy
import tempfile
from pathlib import Path
from typing import Literal, get_args

import torch

from hat.data.folder import CODES_FILE, MODEL_FILE
from hat.data.subwords import TextCodec
from hat.decode.translator import Engine, Model, torch_engine
from hat.errors import CheckpointError, ConfigError, DataError
from hat.files.atomic import write_atomic
from hat.files.tensors import write_safetensors
from hat.model.cpu import choose_dtype
from hat.model.transformer import SubTransformer

Runtime = Literal["torch", "ctranslate2", "onnxruntime"]
Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]
Target = Literal["bundle", "ctranslate2", "onnx", "safetensors"]
_PRECISIONS: dict[str, tuple[str, ...]] = {  # what each can, the one that "auto" means first
    "torch": ("auto", "fp32", "fp16", "bf16", "int8"),
    "ctranslate2": ("fp32", "fp16", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
    "onnx": ("fp32", "int8"),
    "safetensors": ("fp32", "fp16", "bf16"),
}
_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def engine(
    model: Model, runtime: Runtime = "torch", precision: Precision = "auto", threads: int | None = None
) -> Engine:
    """Return the engine `runtime` for a model, to be given to `Model.translate`.

    `precision` is the number format of the weights; "auto" is what is fast in torch, float32 elsewhere.
    `threads` compute one batch; None for as many as torch uses.

    Raises ConfigError if the engine is not installed or cannot compute so, or the architecture has no form
    for it.
    """
    precision, threads = _checked(runtime, precision), threads or torch.get_num_threads()
    if runtime == "torch":
        dtype = torch.float32 if precision == "int8" else choose_dtype(precision, torch.device("cpu"))
        return torch_engine(copy.deepcopy(model.network).to(dtype), int8=precision == "int8")
    network = stand_alone(model)
    with tempfile.TemporaryDirectory() as folder:
        if runtime == "onnxruntime":
            from hat.runtimes import onnx  # late: it loads the exporter

            onnx.export(network, Path(folder), precision)
            return onnx.Engine(Path(folder), network, threads)
        from hat.runtimes import ctranslate2  # late: an extra

        vocabs = _codec(model).vocabs
        ctranslate2.export(network, Path(folder), vocabs, precision)
        return ctranslate2.Engine(Path(folder), vocabs, precision, threads)


def export(model: Model, folder: Path | str, to: Target, precision: Precision = "auto") -> Path:
    """Write a model of one architecture for another program: ctranslate2, onnx or safetensors.

    Dictionaries and subword model are written beside it, if they are known. Returns the folder.
    """
    precision, network, folder = _checked(to, precision), stand_alone(model), Path(folder)
    if to == "ctranslate2":
        from hat.runtimes import ctranslate2  # late: an extra

        ctranslate2.check(network)
    folder.mkdir(parents=True, exist_ok=True)
    if to == "ctranslate2":
        ctranslate2.export(network, folder, _codec(model).vocabs, precision)
    elif to == "onnx":
        from hat.runtimes import onnx  # late: it loads the exporter

        onnx.export(network, folder, precision)
    else:
        weights = {name: weight.to(_TYPES[precision]) for name, weight in network.named_parameters()}
        if wrong := [name for name, weight in weights.items() if not weight.isfinite().all()]:
            raise CheckpointError(f"{wrong[0]} holds numbers that {precision} cannot hold; export as fp32")
        write_safetensors(
            folder / "model.safetensors", weights, {"architecture": str(network.arch.to_yaml())}
        )
    if model.codec is not None:
        save_text(model.codec, folder)
    return folder


def save_text(codec: TextCodec, folder: Path) -> list[str]:
    """Write both dictionaries and the subword model into `folder`; returns the names of the files."""
    names = [f"dict.{language}.txt" for language in codec.languages]
    for name, vocab in zip(names, codec.vocabs, strict=True):
        vocab.save(folder / name)
    if (content := codec.model) is not None:
        names.append(MODEL_FILE if codec.kind == "sentencepiece" else CODES_FILE)
        write_atomic(folder / names[-1], lambda file: file.write(content))
    return names


def stand_alone(model: Model) -> SubTransformer:
    """Return the network of a model of one architecture; raises CheckpointError for a SuperTransformer."""
    if isinstance(model.network, SubTransformer):
        return model.network
    raise CheckpointError(
        "this is a SuperTransformer, which holds many architectures; cut one out with hat convert --configs "
        "ARCH.yml, or train it, and give that"
    )


def _codec(model: Model) -> TextCodec:
    if model.codec is None:
        raise DataError(
            "the dictionaries of this model are not known; give the folder of its data with --data"
        )
    return model.codec


def _checked(what: str, precision: str) -> Precision:
    allowed = _PRECISIONS[what]
    chosen = allowed[0] if precision == "auto" else precision
    if chosen not in allowed:
        raise ConfigError(f"{what} cannot compute in {precision}; give one of {', '.join(allowed)}")
    return next(one for one in get_args(Precision) if one == chosen)
