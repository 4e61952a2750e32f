"""The commands generate, score, translate and export: text and splits by a model, and files of it."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import torch
from tqdm import tqdm

from hat.cli import settings as shared
from hat.cli.options import OutputOptions, only, parse, stage, takes, without
from hat.cli.settings import GROUPS
from hat.config import Options, defaults_of, option, to_yaml_values
from hat.data.dataset import Dataset
from hat.data.pairs import PairDataset
from hat.data.subwords import TextCodec, model_beside, remove_subwords
from hat.data.text import read_lines
from hat.decode.beam import BeamConfig
from hat.decode.score import Mode, check_tokenizer, score_file
from hat.decode.translator import SORTED, Model
from hat.decode.translator import generate as generate_split
from hat.errors import ConfigError, DataError, HatError
from hat.files.atomic import check_writable, file_lock, write_atomic, write_text_atomic
from hat.log import info
from hat.model.cpu import device_name, dtype_name
from hat.model.layers import MAX_POSITIONS
from hat.run import Run, digest_of, read_record, record_path
from hat.runtimes import Precision
from hat.runtimes.bundle import add_facts, known_facts, save_bundle
from hat.runtimes.engines import Target, engine, export, fastest
from hat.space import ArchOptions, arch_of
from hat.train.checkpoint import check_dictionaries, evaluation_dtype, load, load_model
from hat.train.distributed import place_of
from hat.train.trainer import OptimConfig

_FLAGS = ("--configs", "--sub-configs")
_ENGINE = only(shared.EngineOptions, "runtime", "precision")


@dataclass(frozen=True)
class GenerateOptions(Options):
    """Generation"""

    path: str | None = option(None, "checkpoint or bundle of the model, or SuperTransformer", role="free")
    gen_subset: str = option("test", "split to translate", role="free")
    batch_size: int = option(128, "most sentences translated at once", low=1, role="free")
    remove_bpe: str | None = option(None, const="@@ ", metavar="KIND")
    """join subwords: `@@ ` (also when given alone), subword_nmt or sentencepiece"""
    nbest: int = option(1, "hypotheses printed for each sentence", low=1)
    int8: bool = option(False, "the same as --precision int8")
    results_path: str | None = option(None, "file for the output (default: standard output)", role="free")
    mode: Mode | None = option(None, role="free")
    """score the file of the output, too, as hat score does; what that lacks is found before translating"""
    max_source_positions: int | None = option(None, low=2, high=MAX_POSITIONS)
    """room for longer source sentences than the model was trained for, in tokens"""
    max_target_positions: int | None = option(None, "the same for translations", low=2, high=MAX_POSITIONS)


@dataclass(frozen=True)
class ScoreOptions:
    """Scoring"""

    gen_output: str | None = option(None, "output of hat generate", role="free")
    mode: Mode = option("normal", "normal: tokenised BLEU of the release; sacre: SacreBLEU of plain text")
    data: str | None = option(None, role="free")
    """data folder; in mode sacre its raw reference text is used if preprocessing kept it"""
    gen_subset: str = option("test", "split the output is of", role="free")
    source_lang: str | None = option(None, "source language (default: read off the file names)")
    target_lang: str | None = option(None, "target language (default: read off the file names)")
    ref: str | None = option(None, "raw reference text for mode sacre, one sentence a line", role="free")
    remove_bpe: str | None = option(None, const="@@ ", metavar="KIND")
    """how the output was joined; sentencepiece output is text already, other output is detokenised"""


def parsed(argv: Sequence[str] | None) -> tuple[Any, ...]:
    """Return the options of a translation."""
    used = (
        *(without(GenerateOptions, "int8"), BeamConfig, only(OptimConfig, "amp")),
        only(shared.TaskOptions, "data", "source_lang", "target_lang"),
        only(shared.DeviceOptions, "cpu", "gpu", "threads"),
        *(_ENGINE, ArchOptions, OutputOptions, *map(only, GROUPS)),  # GROUPS: commands read the same files
    )
    title = "Translate a split by beam search; prints S, T, H and P lines for each sentence."
    return parse(argv, *used, prog="hat generate", description=title, config_flags=_FLAGS)


def run(groups: tuple[Any, ...], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Translate, score if that is asked for, and return what came out."""
    options, _, _, task, *_ = groups
    if options.path is None:
        raise ConfigError("--path is needed: the checkpoint to translate with")
    if (place := place_of(os.environ)) and place.size > 1:
        raise ConfigError(f"translations are made by one process, {place.size} were started; start it alone")
    remove_subwords("", options.remove_bpe)  # an unknown kind is an error before the model is loaded
    product = Path(options.results_path) if options.results_path else None
    if product:
        check_writable(product)
    with file_lock(product, "wait for it, or give another --results-path") if product else nullcontext():
        found = _generate(groups, product)
    sentences, tokens, seconds = found.values()
    rates = f"{sentences / seconds:.1f} sentences/s, {tokens / seconds:.0f} tokens/s"
    info(f"translated {sentences} sentences ({tokens} tokens) in {seconds:.1f} s, {rates}")
    if options.mode and product:
        names = {name: getattr(task, name) for name in ("data", "source_lang", "target_lang")}
        names |= {name: getattr(options, name) for name in ("mode", "gen_subset", "remove_bpe")}
        found |= _score(ScoreOptions(gen_output=str(product), **names))
    return found


def _generate(groups: tuple[Any, ...], product: Path | None) -> dict[str, Any]:
    options, beam, optim, task, device_options, engine_options, arch_options, output, *_ = groups
    path, dataset = shared.find_checkpoint(str(options.path)), shared.dataset_of(task)
    runtime, precision = engine_options.runtime, engine_options.precision
    if options.int8 and precision not in ("auto", "int8"):
        raise ConfigError(f"--int8 contradicts --precision {precision}; give one of them")
    precision = "int8" if options.int8 else precision
    on_cpu = precision == "int8" or runtime not in (None, "torch")
    device = shared.device_of(replace(device_options, cpu=device_options.cpu or on_cpu))
    source = load(path, info)
    if precision == "auto" and not on_cpu:
        precision = dtype_name(evaluation_dtype(source, optim.amp, device))
    check_dictionaries(source, dataset, path)
    if options.mode == "sacre":
        check_tokenizer(dataset.languages[1])
    arch, only_one = arch_of(arch_options), source.space.largest()
    if arch is None and source.arch is None and only_one == source.space.smallest():
        arch = only_one  # a released SubTransformer
    model = source.model() if arch is None else source.sub(arch)
    model.lengthen(options.max_source_positions, options.max_target_positions)
    whole = Model(model.to(device), TextCodec(dataset.languages, dataset.vocabs))
    translator = engine(whole, runtime or fastest(whole, precision, beam), precision)
    data = dataset.split(options.gen_subset)
    settings = to_yaml_values(options, beam, arch_options, engine_options)
    facts: dict[str, Any] = {"settings": settings | {"data": task.data, "amp": optim.amp}}
    facts |= {"inputs": {"checkpoint": path, **_ids(data)}, "goes_on": False}
    facts |= {"device": {"device": device_name(device), "dtype": precision}}
    facts |= {"threads": torch.get_num_threads(), "gpus": int(device.type == "cuda")}
    record = record_path(product, folder=False) if product else None
    with Run(record, "translation", **facts) as run:
        how = {"batch_size": options.batch_size, "remove_bpe": options.remove_bpe, "nbest": options.nbest}
        text, counts = generate_split(translator, data, beam, **how, show_bar=output.bar)
        run.results |= counts
        if product:
            write_text_atomic(product, text)
            run.vouch(product)
        else:
            sys.stdout.write(text)
    return counts


generate = stage(parsed, run)


@takes("hat score", ScoreOptions, only(OutputOptions, "json"), *map(only, GROUPS), config_flags=_FLAGS[:1])
def score(options: ScoreOptions, *others: object) -> dict[str, Any]:
    """Print BLEU, chrF and TER of what hat generate wrote, and their signatures."""
    return _score(options)


def _score(options: ScoreOptions) -> dict[str, Any]:
    path = Path(options.gen_output or "")
    if not path.is_file():
        raise ConfigError(f"--gen-output is needed: {options.gen_output} is no file; run hat generate first")
    names = ("data", "gen_subset", "source_lang", "target_lang")
    data = PairDataset.load(*(getattr(options, name) for name in names)) if options.data else None
    held = read_record(path, folder=False, note=info)
    if data and held.outputs.get(path.name) == digest_of(path):
        other = [use for use, digest in _ids(data).items() if held.inputs.get(use, digest) != digest]
        if other:
            what = f"{path} is no translation of the {data.split} split of {options.data}: other"
            how = "generate again, or give the split it is of as --gen-subset"
            raise DataError(f"{what} {' and '.join(other)}; {how}")
    lang = {"target_lang": options.target_lang or "", "remove_bpe": options.remove_bpe}
    result = score_file(path, options.mode, data=data, reference=options.ref, **lang)
    found = {"mode": options.mode} | result._asdict()
    print(found.pop("text"))
    product = Path(f"{path}.{options.mode}.json")
    inputs = {"translation": path} | ({"reference": Path(options.ref)} if options.ref else {})
    record = record_path(product, folder=False)
    try:
        settings, lock = to_yaml_values(options), file_lock(product, "wait for it")
        with lock, Run(record, "score", settings=settings, inputs=inputs, goes_on=False) as run:
            run.results |= found
            write_text_atomic(product, json.dumps(found) + "\n")
            run.vouch(product)
        of, made = Path(held.settings.get("path") or "none"), held.inputs.get("checkpoint")
        if options.mode == "sacre" and of.exists() and digest_of(of) == made:  # its bundle tells it, too
            usual, given = defaults_of(BeamConfig(), shared.EngineOptions()), held.settings
            search = (f"--{key}={given[key]}" for key in usual if given.get(key, usual[key]) != usual[key])
            add_facts(of, found | {"split": given["gen-subset"], "search": " ".join(search)})
    except HatError as error:  # the output may lie where others may only read
        info(f"the score is not kept beside the output: {error}")
    return found


def _ids(data: PairDataset) -> dict[str, str]:
    return dict(zip(("source-ids", "target-ids"), data.content(), strict=True))


LONGEST = BeamConfig().max_len_b  # tokens of a line that is not cut in parts: translations end there
STOPS = (".", "!", "?", ";", ":", "\N{HORIZONTAL ELLIPSIS}")
PAUSE_S = 0.1  # if no further line comes for so long, those that are there are translated


@dataclass(frozen=True)
class ModelOptions(Options):
    """Model"""

    model: str = option(help="bundle, or checkpoint of one architecture")
    data: str | None = option(None, "folder with dictionaries and subword model, if no record names it")
    source_lang: str | None = option(None, "source language (default: read off the file names in --data)")
    target_lang: str | None = option(None, "target language (default: likewise)")
    subwords: str | None = option(None, "sentencepiece model or BPE merges, if not beside the dictionaries")


@dataclass(frozen=True)
class ExportOptions(Options):
    """Export"""

    output: str = option(help="folder to write")
    to: Target = option("bundle", "bundle (complete in itself), ctranslate2, onnx or safetensors")
    precision: Precision = option("auto", "number format of the weights: fp32, fp16, bf16 or int8")


@dataclass(frozen=True)
class TranslateOptions(Options):
    """Translation"""

    input: str | None = option(None, "text to translate, a sentence a line (default: standard input)")
    output: str | None = option(None, "file for the translations, written whole (default: standard output)")
    nbest: int | None = option(None, low=1)
    """print so many hypotheses of each line: number of the line, score and text, separated by tabs"""
    batch_size: int = option(128, "most sentences translated at once", low=1)
    threads: int | None = option(None, "CPU threads (default: all cores)", low=1)


@takes("hat export", ModelOptions, ExportOptions, OutputOptions)
def export_model(given: ModelOptions, cfg: ExportOptions, out: OutputOptions) -> dict:
    """Write a model as a bundle, or for another program."""
    path, folder = shared.find_checkpoint(given.model), Path(cfg.output)
    if path.resolve() == folder.resolve():
        raise ConfigError(f"--output {folder} is the model itself; give another folder")
    model = _model(path, given)
    if cfg.to == "bundle":
        if cfg.precision not in ("auto", "fp32"):
            raise ConfigError("a bundle holds float32; give --to for another program, or no --precision")
        save_bundle(model, folder, known_facts(path))
    else:
        export(model, folder, cfg.to, cfg.precision)
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
    total, files = sum(sizes.values()), [path] if path.is_file() else list(path.iterdir())
    before = sum(file.stat().st_size for file in files)
    print(f"{folder}: {', '.join(sizes)}; {total / 1e6:.2f} MB, the model had {before / 1e6:.2f} MB")
    return {"path": folder, "to": cfg.to, "bytes": total, "bytes_before": before, "files": sizes}


@takes("hat translate", ModelOptions, TranslateOptions, BeamConfig, _ENGINE, OutputOptions)
def translate(
    given: ModelOptions, cfg: TranslateOptions, beam: BeamConfig, how: Any, out: OutputOptions
) -> int:
    """Translate plain text, line for line."""
    if cfg.nbest and cfg.nbest > beam.beam:
        raise ConfigError(f"--nbest {cfg.nbest} exceeds --beam {beam.beam}; raise the latter")
    if cfg.output:
        check_writable(Path(cfg.output))
        if cfg.input and Path(cfg.output).resolve() == Path(cfg.input).resolve():
            raise ConfigError(f"--output {cfg.output} is the text to translate; give another file")
    model = _model(shared.find_checkpoint(given.model), given)
    search = engine(model, how.runtime or fastest(model, how.precision, beam), how.precision, cfg.threads)
    number = split = 0  # of lines so far, and of those that were too long
    with tqdm(unit=" lines", disable=not out.bar or (cfg.input is None and sys.stdin.isatty())) as bar:

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
            while len(some) < most:
                last = arrived.get(timeout=PAUSE_S if some else None)
                if not isinstance(last, str):
                    break
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
    languages = given.source_lang, given.target_lang
    model = load_model(path, Dataset.load(given.data, *languages) if given.data else None)
    if model.codec is None:
        raise DataError(f"the dictionaries of {path} are not known; give the folder of its data with --data")
    if given.subwords:
        content = model_beside(Path(given.subwords), model.codec.vocabs[0])
        model = replace(model, codec=(codec := replace(model.codec, model=content)))
        codec.encode("")  # raises DataError if it is missing or of another kind
    return model
