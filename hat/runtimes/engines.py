"""Runtimes by name, which prepare models as an `Engine` (docs/extending.md); files for other programs."""

import math
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from hat.data.subwords import MODEL_FILES, TextCodec, package
from hat.decode.beam import BeamConfig, Hypothesis, beam_search, search_from
from hat.decode.translator import Model
from hat.errors import CheckpointError, ConfigError, DataError, HatError, brief
from hat.files.atomic import write_atomic
from hat.files.tensors import write_safetensors
from hat.model.cpu import DTYPES, choose_dtype, dtype_name
from hat.model.inference import InferenceModel
from hat.model.layers import ModelConfig
from hat.model.transformer import SubTransformer, extract
from hat.runtimes import Precision, RuntimeName
from hat.space import Arch

Target = Literal["bundle", "ctranslate2", "onnx", "safetensors"]
Mark = Callable[[], object]
_RUNTIMES: dict[RuntimeName, str] = {  # module of this package, and the class in it
    "torch": "engines:Torch",
    "onnxruntime": "onnx:OnnxRuntime",
    "ctranslate2": "ctranslate2:CTranslate2",
    "command": "engines:Command",
}
_PRECISIONS: dict[str, tuple[Precision, ...]] = {  # of files; the first is what "auto" means
    "ctranslate2": ("fp32", "fp16", "bf16", "int8"),
    "onnx": ("fp32", "int8"),
    "safetensors": ("fp32", "fp16", "bf16"),
}


class Engine(Protocol):
    """A model that is ready to translate; `cfg` are its options, `device` is where it wants its input."""

    cfg: ModelConfig
    device: torch.device

    def __call__(self, source_BS: Tensor, cfg: BeamConfig) -> list[list[Hypothesis]]:
        """Return up to `beam` hypotheses for each left-padded row of ids with EOS, best score first."""

    def timed(self, source_BS: Tensor, cfg: BeamConfig, mark: Mark) -> Sequence[float] | None:
        """Run one search; `mark` is called between its parts, if it has any, the first of which is the
        encoder. An engine that takes the time itself returns the milliseconds of one or more repeats.
        """


class Runtime:
    """What prepares models for one program; a subclass for each."""

    precisions: tuple[Precision, ...] = ("fp32", "int8")  # that it computes in; "auto" is the first
    estimate = "minimum"  # how the repeats of a search become a latency, as tables name it
    needs: tuple[str, ...] = ()  # Python package of the program, and the extra of HAT that installs it

    def precision(self, asked: Precision, device: torch.device) -> Precision:
        """Return the number format that `asked` stands for; raises ConfigError if there is none."""
        return _checked(self.needs[0] if self.needs else type(self).__name__, self.precisions, asked)

    def version(self) -> dict[str, str]:
        """Return name and version of the program, as tables name it; raises ConfigError if it is missing."""
        return {"engine": f"{self.needs[0]} {package(*self.needs).__version__}"} if self.needs else {}

    def check(self, arch: Arch) -> None:
        """Raise ConfigError for an architecture that the program has no form for."""

    def prepare(self, model: Model, precision: Precision, threads: int) -> Engine:
        """Return the engine of a model of one architecture, which computes a batch with `threads`."""
        raise NotImplementedError


class StepEngine:
    """Translates by our beam search with a network that has `encode`, `start` and `step`."""

    def __init__(self, network: Any) -> None:
        self._network, self.cfg, self.device = network, network.cfg, network.device

    def __call__(self, source_BS: Tensor, cfg: BeamConfig) -> list[list[Hypothesis]]:
        return beam_search(self._network, source_BS, cfg)

    def timed(self, source_BS: Tensor, cfg: BeamConfig, mark: Mark) -> None:
        """Run one search; its parts are the encoder, what begins the search, and each step."""
        network = self._network
        encoded = network.encode(source_BS)
        mark()

        def step(*arguments: Any) -> Tensor:
            mark()
            return cast(Tensor, network.step(*arguments))

        marked = SimpleNamespace(cfg=network.cfg, start=network.start, step=step)
        search_from(cast(InferenceModel, marked), encoded, cfg)


class Torch(Runtime):
    """PyTorch, on the device of the model."""

    precisions = ("auto", "fp32", "fp16", "bf16")
    estimate = "minimum of each step"  # other work only adds time; docs/performance.md compares estimates

    def precision(self, asked: Precision, device: torch.device) -> Precision:
        if asked == "int8":
            other = "give fp32, bf16 or fp16, or --runtime ctranslate2, onnxruntime"
            raise ConfigError(f"torch cannot compute in int8; {other}")
        return cast(Precision, dtype_name(choose_dtype(asked, device)))

    def prepare(self, model: Model, precision: Precision, threads: int = 0) -> StepEngine:
        network, weight = model.network, model.network.source_embed.weight
        dtype = DTYPES[self.precision(precision, weight.device)]
        if weight.dtype != dtype:
            network = extract(network, network.default_arch).to(dtype)
        return StepEngine(InferenceModel(network))


class Command(Runtime):
    """A program of the user's: given a bundle it prints milliseconds in `limit_s`; see docs/deploy.md."""

    precisions = ("auto", "fp32", "fp16", "bf16", "int8")

    def __init__(self, command: str = "", limit_s: float = 60.0) -> None:
        self.limit_s = limit_s
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"--lat-command {command!r} is no command line: {error}") from error
        if not self.words:
            what = "the program that is given a bundle and prints milliseconds"
            raise ConfigError(f"--runtime command needs --lat-command: {what}; see docs/deploy.md")

    def prepare(self, model: Model, precision: Precision, threads: int) -> "ProgramEngine":
        return ProgramEngine(model, self, {"precision": precision, "threads": threads})


class ProgramEngine:
    """Measures by the program; its bundle is written for the first search and goes with the engine."""

    device = torch.device("cpu")

    def __init__(self, model: Model, program: Command, facts: dict[str, object]) -> None:
        self.cfg, self._model, self._program, self._facts = model.network.cfg, model, program, facts
        self._place = tempfile.TemporaryDirectory(prefix="hat-")

    def __call__(self, source_BS: Tensor, cfg: BeamConfig) -> list[list[Hypothesis]]:
        raise ConfigError("the runtime command only measures; translate with another --runtime")

    def timed(self, source_BS: Tensor, cfg: BeamConfig, mark: Mark) -> list[float]:
        """Return the milliseconds that the program prints, a number for each repeat; HatError if it fails."""
        from hat.runtimes.bundle import save_bundle  # late: it imports this module

        bundle = Path(self._place.name) / "bundle"
        told = {"beam": cfg.beam, "source_len": source_BS.size(1), "target_len": cfg.max_len_b + 1}
        told |= self._facts
        if not bundle.exists():
            save_bundle(self._model, bundle, {"measure": told})
        words, limit_s = self._program.words, self._program.limit_s
        shown = f"the program of --lat-command, {shlex.join(words)!r},"
        env = os.environ | {f"HAT_{name.upper()}": str(value) for name, value in told.items()}
        how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "errors": "replace"}
        try:  # a session of its own, so that what it starts ends with it; its standard error is ours
            process = subprocess.Popen([*words, str(bundle)], env=env, start_new_session=True, **how)
        except OSError as error:
            raise HatError(f"{shown} cannot be started: {error.strerror}; check the path") from error
        try:  # whatever happens, it ends
            out, code = process.communicate(timeout=limit_s)[0], process.returncode
        except BaseException as error:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                late = f"did not end within {limit_s:g} s; raise --lat-row-budget if it takes so long"
                raise HatError(f"{shown} {late}") from error
            raise
        found = list[float]()
        with suppress(ValueError):
            found = [float(word) for word in out.split()]
        if code or not found or not all(0 < ms < math.inf for ms in found):
            why = f"failed with exit code {code}" if code else f"printed {brief(out.strip()) or 'nothing'}"
            how = "it must print the milliseconds of one or more searches, and nothing else"
            raise HatError(f"{shown} {why}; {how}; try it by hand with the folder of a bundle")
        return found


def runtime_of(name: RuntimeName, *options: Any) -> Runtime:
    """Return a runtime; `options` are those of its class."""
    module, _, kind = _RUNTIMES[name].partition(":")
    return cast(Runtime, getattr(import_module(f"hat.runtimes.{module}"), kind)(*options))


def fastest(model: Model, precision: Precision, cfg: BeamConfig | None = None) -> RuntimeName:
    """Return the runtime that translates fastest with `model` here, see docs/performance.md: in floats torch,
    in 8 bits CTranslate2, or ONNX Runtime if CTranslate2 is missing, has no form for the architecture or does
    not know the options `cfg`. Raises ConfigError if neither can.
    """
    if precision != "int8":
        return "torch"
    only_ours, reasons = cfg is not None and (cfg.unkpen or cfg.unnormalized), list[str]()
    names: tuple[RuntimeName, ...] = ("onnxruntime",) if only_ours else ("ctranslate2", "onnxruntime")
    for name in names:
        runtime = runtime_of(name)
        try:
            runtime.version()
            runtime.precision(precision, torch.device("cpu"))
            runtime.check(model.network.default_arch)
            return name
        except ConfigError as error:
            reasons.append(str(error))
    raise ConfigError(f"int8 needs another engine than PyTorch: {'; or: '.join(reasons)}")


def engine(
    model: Model,
    runtime: RuntimeName | None = None,
    precision: Precision = "auto",
    threads: int | None = None,
) -> Engine:
    """Return the engine of a model, for `Model.translate`; by default the fastest here. "auto" is the number
    format that is fast in torch, float32 elsewhere. `threads` compute one batch; None for as many as torch
    uses. Raises ConfigError if the program is missing, cannot compute so or has no form for the architecture.
    """
    if runtime == "command":
        raise ConfigError("the runtime command only measures; translate with another --runtime")
    found = runtime_of(runtime or fastest(model, precision))
    precision = found.precision(precision, model.network.source_embed.weight.device)
    return found.prepare(model, precision, threads or torch.get_num_threads())


def export(model: Model, folder: Path | str, to: Target, precision: Precision = "auto") -> Path:
    """Write a model for another program, with dictionaries and subword model if known; return `folder`."""
    from hat.runtimes import ctranslate2, onnx  # late: they import this module

    precision, network, folder = _checked(to, _PRECISIONS[to], precision), stand_alone(model), Path(folder)
    if to == "ctranslate2":
        ctranslate2.CTranslate2().check(network.arch)
    folder.mkdir(parents=True, exist_ok=True)
    if to == "ctranslate2":
        ctranslate2.export(network, folder, codec_of(model).vocabs, precision)
    elif to == "onnx":
        onnx.export(network, folder, precision)
    else:
        weights = {name: weight.to(DTYPES[precision]) for name, weight in network.named_parameters()}
        if wrong := [name for name, weight in weights.items() if not weight.isfinite().all()]:
            raise CheckpointError(f"{wrong[0]} holds numbers that {precision} cannot hold; export as fp32")
        facts = {"architecture": str(network.arch.to_yaml())}
        write_safetensors(folder / "model.safetensors", weights, facts)
    if model.codec is not None:
        save_text(model.codec, folder)
    return folder


def save_text(codec: TextCodec, folder: Path) -> list[str]:
    """Write both dictionaries and the subword model into `folder`; returns the names of the files."""
    names = [f"dict.{language}.txt" for language in codec.languages]
    for name, vocab in zip(names, codec.vocabs, strict=True):
        vocab.save(folder / name)
    if (content := codec.model) is not None and codec.kind:
        names.append(MODEL_FILES[codec.kind])
        write_atomic(folder / names[-1], lambda file: file.write(content))
    return names


def stand_alone(model: Model) -> SubTransformer:
    """Return the network of a model of one architecture; raises CheckpointError for a SuperTransformer."""
    if isinstance(model.network, SubTransformer):
        return model.network
    advice = "cut one out with hat convert --configs ARCH.yml, or train it, and give that"
    raise CheckpointError(f"this is a SuperTransformer, which holds many architectures; {advice}")


def codec_of(model: Model) -> TextCodec:
    """Return the dictionaries of a model; raises DataError if they are not known."""
    if model.codec is None:
        raise DataError("the dictionaries of this model are not known; give the folder of its data as --data")
    return model.codec


def _checked(what: str, allowed: Sequence[Precision], precision: Precision) -> Precision:
    chosen = allowed[0] if precision == "auto" else precision
    if chosen not in allowed:
        raise ConfigError(f"{what} cannot compute in {precision}; give one of {', '.join(allowed)}")
    return chosen
