"""The commands translate and export: plain sentences by a model, and files of it for other programs."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from hat.cli.options import OutputOptions, takes
from hat.cli.settings import find_checkpoint
from hat.config import Options, option
from hat.data.dataset import Dataset
from hat.data.text import read_lines
from hat.decode.beam import BeamConfig
from hat.decode.translator import Engine, Model
from hat.errors import ConfigError, DataError
from hat.files.atomic import check_writable, write_atomic
from hat.log import info
from hat.runtimes.engines import Precision, Runtime, Target, engine, export
from hat.train.bundle import save_bundle
from hat.train.checkpoint import load_model

READ_AHEAD = 16  # batches of lines that are sorted by length before they are translated


@dataclass(frozen=True)
class ExportOptions(Options):
    """Export"""

    model: str
    """bundle, or checkpoint of one architecture"""
    output: str
    """folder to write"""
    to: Target = "bundle"
    """bundle (complete in itself), ctranslate2, onnx or safetensors"""
    precision: Precision = "auto"
    """number format of the weights: fp32, fp16, bf16 or int8"""
    data: str | None = None
    """folder with the model's dictionaries and subword model, if its record does not name it"""


@dataclass(frozen=True)
class TranslateOptions(Options):
    """Translation"""

    model: str
    """bundle, or checkpoint whose dictionaries are known"""
    input: str | None = None
    """text to translate, a sentence a line (default: standard input)"""
    output: str | None = None
    """file for the translations, line for line, written whole (default: standard output)"""
    nbest: int | None = option(None, low=1)
    """print so many hypotheses of each line: number of the line, score and text, separated by tabs"""
    batch_size: int = option(32, low=1)
    """most sentences translated at once"""
    runtime: Runtime = "torch"
    """engine that computes: torch, ctranslate2 or onnxruntime"""
    precision: Precision = "auto"
    """number format: fp32, fp16, bf16 or int8 (default: what is fast)"""
    threads: int | None = option(None, low=1)
    """CPU threads (default: all cores)"""
    data: str | None = None
    """folder with the model's dictionaries and subword model, if its record does not name it"""


@takes("hat export", ExportOptions, OutputOptions)
def export_model(cfg: ExportOptions, out: OutputOptions) -> dict:
    """Write a model as a bundle, or for another program."""
    path, folder = find_checkpoint(cfg.model), Path(cfg.output)
    if path.resolve() == folder.resolve():
        raise ConfigError(f"--output {folder} is the model itself; give another folder")
    model = _model(path, cfg.data)
    if cfg.to == "bundle":
        if cfg.precision not in ("auto", "fp32"):
            raise ConfigError(
                "a bundle holds float32; give --to for another program, or leave out --precision"
            )
        save_bundle(model, folder)
    else:
        export(model, folder, cfg.to, cfg.precision)
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
    print(f"{folder}: {', '.join(sizes)}; {sum(sizes.values()) / 1e6:.2f} MB")
    return {"path": folder, "to": cfg.to, "bytes": sum(sizes.values()), "files": sizes}


@takes("hat translate", TranslateOptions, BeamConfig, OutputOptions)
def translate(cfg: TranslateOptions, beam: BeamConfig, out: OutputOptions) -> int:
    """Translate plain text, line for line."""
    if cfg.nbest and cfg.nbest > beam.beam:
        raise ConfigError(f"--nbest {cfg.nbest} exceeds --beam {beam.beam}; raise the latter")
    if cfg.output:
        check_writable(Path(cfg.output))
        if cfg.input and Path(cfg.output).resolve() == Path(cfg.input).resolve():
            raise ConfigError(f"--output {cfg.output} is the text to translate; give another file")
    model = _model(find_checkpoint(cfg.model), cfg.data)
    work = _Work(model, engine(model, cfg.runtime, cfg.precision, cfg.threads), cfg, beam)
    waits = cfg.input is None and sys.stdin.isatty()  # a person waits for each answer
    lines, ahead = read_lines(cfg.input or "/dev/stdin"), 1 if waits else READ_AHEAD * cfg.batch_size
    hidden = waits or out.no_progress_bar or not sys.stderr.isatty()
    with tqdm(unit=" lines", disable=hidden) as bar:

        def texts() -> Iterator[str]:
            while some := list(islice(lines, ahead)):
                yield "".join(f"{line}\n" for line in work.translated(some))
                bar.update(len(some))

        if cfg.output:
            write_atomic(Path(cfg.output), lambda file: file.writelines(map(str.encode, texts())))
        else:
            for text in texts():
                print(text, end="", flush=True)
    if work.split:
        info(f"lines longer than the model's positions, translated in parts: {work.split}")
    return 0


class _Work:
    """Translates lines as they come."""

    def __init__(self, model: Model, search: Engine, cfg: TranslateOptions, beam: BeamConfig) -> None:
        self._model, self._search, self._cfg, self._beam = model, search, cfg, beam
        self._count = self.split = 0

    def translated(self, lines: Sequence[str]) -> Iterator[str]:
        """Yield the lines of output for some lines of input."""
        parts: list[str] = []
        counts: list[int] = []
        for number, line in enumerate(lines, self._count + 1):
            some = list(self._parts(line, number))
            self.split += len(some) > 1
            counts.append(len(some))
            parts += some
        found = iter(
            self._model.hypotheses(parts, self._beam, batch_size=self._cfg.batch_size, engine=self._search)
        )
        for number, count in enumerate(counts, self._count + 1):
            hypotheses = list(islice(found, count))
            if count > 1 or not self._cfg.nbest:
                best = " ".join(each[0][0] for each in hypotheses if each)
                yield f"{number}\t\t{best}" if self._cfg.nbest else best
                continue
            for text, score in hypotheses[0][: self._cfg.nbest] or [("", 0.0)]:
                yield f"{number}\t{score:.4f}\t{text}"
        self._count += len(lines)

    def _parts(self, text: str, number: int) -> Iterator[str]:
        """Yield a sentence, cut in halves between words until the model's positions suffice."""
        assert self._model.codec is not None
        if len(self._model.codec.encode(text)) <= self._model.network.cfg.max_source_positions:
            yield text
            return
        words = text.split()
        if len(words) == 1:
            raise DataError(f"line {number} holds a word of {len(text)} characters; shorten it")
        yield from self._parts(" ".join(words[: len(words) // 2]), number)
        yield from self._parts(" ".join(words[len(words) // 2 :]), number)


def _model(path: Path, data: str | None) -> Model:
    model = load_model(path, Dataset.load(data) if data else None)
    if model.codec is None:
        raise DataError(f"the dictionaries of {path} are not known; give the folder of its data with --data")
    return model
