"""The commands translate and export: plain sentences by a model, and files of it for other programs."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from tqdm import tqdm

from hat.cli.options import OutputOptions, only, takes
from hat.cli.settings import EngineOptions, find_checkpoint
from hat.config import Options, option
from hat.data.dataset import Dataset
from hat.data.subwords import model_beside
from hat.data.text import read_lines
from hat.decode.beam import BeamConfig
from hat.decode.translator import SORTED, Model
from hat.errors import ConfigError, DataError, HatError
from hat.files.atomic import check_writable, write_atomic
from hat.log import info
from hat.runtimes import Precision
from hat.runtimes.bundle import known_facts, save_bundle
from hat.runtimes.engines import Target, engine, export, fastest
from hat.train.checkpoint import load_model

LONGEST = BeamConfig().max_len_b  # tokens of a line that is not cut in parts: translations end there
STOPS = (".", "!", "?", ";", ":", "\N{HORIZONTAL ELLIPSIS}")
PAUSE_S = 0.1  # if no further line comes for so long, those that are there are translated


@dataclass(frozen=True)
class ModelOptions(Options):
    """Model"""

    model: str
    """bundle, or checkpoint of one architecture"""
    data: str | None = None
    """folder with the model's dictionaries and subword model, if its record does not name it"""
    source_lang: str | None = None
    """source language (default: read off the names of the binary data in --data)"""
    target_lang: str | None = None
    """target language (default: likewise)"""
    subwords: str | None = None
    """sentencepiece model or BPE merges of the dictionaries, if that is not beside them"""


@dataclass(frozen=True)
class ExportOptions(Options):
    """Export"""

    output: str
    """folder to write"""
    to: Target = "bundle"
    """bundle (complete in itself), ctranslate2, onnx or safetensors"""
    precision: Precision = "auto"
    """number format of the weights: fp32, fp16, bf16 or int8"""


@dataclass(frozen=True)
class TranslateOptions(Options):
    """Translation"""

    input: str | None = None
    """text to translate, a sentence a line (default: standard input)"""
    output: str | None = None
    """file for the translations, line for line, written whole (default: standard output)"""
    nbest: int | None = option(None, low=1)
    """print so many hypotheses of each line: number of the line, score and text, separated by tabs"""
    batch_size: int = option(128, low=1)
    """most sentences translated at once"""
    threads: int | None = option(None, low=1)
    """CPU threads (default: all cores)"""


@takes("hat export", ModelOptions, ExportOptions, OutputOptions)
def export_model(given: ModelOptions, cfg: ExportOptions, out: OutputOptions) -> dict:
    """Write a model as a bundle, or for another program."""
    path, folder = find_checkpoint(given.model), Path(cfg.output)
    if path.resolve() == folder.resolve():
        raise ConfigError(f"--output {folder} is the model itself; give another folder")
    model = _model(path, given)
    if cfg.to == "bundle":
        if cfg.precision not in ("auto", "fp32"):
            raise ConfigError(
                "a bundle holds float32; give --to for another program, or leave out --precision"
            )
        save_bundle(model, folder, known_facts(path))
    else:
        export(model, folder, cfg.to, cfg.precision)
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
    total, files = sum(sizes.values()), [path] if path.is_file() else list(path.iterdir())
    before = sum(file.stat().st_size for file in files)
    print(f"{folder}: {', '.join(sizes)}; {total / 1e6:.2f} MB, the model had {before / 1e6:.2f} MB")
    return {"path": folder, "to": cfg.to, "bytes": total, "bytes_before": before, "files": sizes}


_ENGINE = only(EngineOptions, "runtime", "precision")


@takes("hat translate", ModelOptions, TranslateOptions, BeamConfig, _ENGINE, OutputOptions)
def translate(
    given: ModelOptions, cfg: TranslateOptions, beam: BeamConfig, how: EngineOptions, out: OutputOptions
) -> int:
    """Translate plain text, line for line."""
    if cfg.nbest and cfg.nbest > beam.beam:
        raise ConfigError(f"--nbest {cfg.nbest} exceeds --beam {beam.beam}; raise the latter")
    if cfg.output:
        check_writable(Path(cfg.output))
        if cfg.input and Path(cfg.output).resolve() == Path(cfg.input).resolve():
            raise ConfigError(f"--output {cfg.output} is the text to translate; give another file")
    model = _model(find_checkpoint(given.model), given)
    search = engine(model, how.runtime or fastest(model, how.precision, beam), how.precision, cfg.threads)
    hidden = (cfg.input is None and sys.stdin.isatty()) or out.no_progress_bar or not sys.stderr.isatty()
    number = split = 0  # of lines so far, and of those that were too long
    with tqdm(unit=" lines", disable=hidden) as bar:

        def texts() -> Iterator[str]:
            nonlocal number, split
            for lines in _arriving(read_lines(cfg.input or "/dev/stdin"), SORTED * cfg.batch_size):
                parts = [[*_parts(model, line, n)] for n, line in enumerate(lines, number + 1)]
                split += sum(len(some) > 1 for some in parts)
                flat = [part for some in parts for part in some]
                found = iter(model.hypotheses(flat, beam, batch_size=cfg.batch_size, engine=search))
                for some in parts:
                    number += 1
                    hypotheses = [next(found) for _ in some]
                    if len(some) > 1 or not cfg.nbest:
                        best = " ".join(each[0][0] for each in hypotheses if each)
                        yield f"{number}\t\t{best}\n" if cfg.nbest else f"{best}\n"
                        continue
                    for text, score in hypotheses[0][: cfg.nbest] or [("", 0.0)]:
                        yield f"{number}\t{score:.4f}\t{text}\n"
                bar.update(len(lines))

        if cfg.output:
            write_atomic(Path(cfg.output), lambda file: file.writelines(map(str.encode, texts())))
        else:
            for text in texts():
                print(text, end="", flush=True)
    if split:
        info(f"lines that are too long, translated in parts: {split}")
    return 0


def _arriving(lines: Iterator[str], most: int) -> Iterator[list[str]]:
    """Yield up to `most` lines at once: those that are there when none comes for a while."""
    arrived: Queue[str | HatError | None] = Queue(most)

    def read() -> None:
        try:
            for line in lines:
                arrived.put(line)
            arrived.put(None)
        except HatError as error:
            arrived.put(error)

    Thread(target=read, daemon=True).start()  # who reads waits for the next line, who translates does not
    last: str | HatError | None = ""
    while isinstance(last, str):
        some: list[str] = []
        with suppress(Empty):
            while len(some) < most and isinstance(
                last := arrived.get(timeout=PAUSE_S if some else None), str
            ):
                some.append(last)
        if some:
            yield some
    if last is not None:
        raise last


def _parts(model: Model, text: str, number: int) -> Iterator[str]:
    """Yield a line, cut in two as long as it is too long: near its middle, best behind a stop."""
    assert model.codec is not None
    if len(model.codec.encode(text)) <= min(model.network.cfg.max_source_positions, LONGEST):
        yield text
        return
    words = text.split()
    if len(words) == 1:
        raise DataError(f"line {number} holds a word of {len(text)} characters; shorten it")
    places = sorted(range(1, len(words)), key=lambda i: abs(2 * i - len(words)))
    middle = next((i for i in places if words[i - 1].endswith(STOPS)), places[0])
    yield from _parts(model, " ".join(words[:middle]), number)
    yield from _parts(model, " ".join(words[middle:]), number)


def _model(path: Path, given: ModelOptions) -> Model:
    """Return the model at `path`, which knows its dictionaries."""
    languages = given.source_lang, given.target_lang
    model = load_model(path, Dataset.load(given.data, *languages) if given.data else None)
    if model.codec is None:
        raise DataError(f"the dictionaries of {path} are not known; give the folder of its data with --data")
    if given.subwords:
        content = model_beside(Path(given.subwords), model.codec.vocabs[0])
        model = replace(model, codec=(codec := replace(model.codec, model=content)))
        codec.encode("")  # raises DataError if it is missing or of another kind
    return model
