"""The commands generate and score: translate a split with a trained model, and give its BLEU."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hat.cli.options import OutputOptions, command, only, parse, stage, without
from hat.cli.settings import (
    GROUPS,
    DeviceOptions,
    EngineOptions,
    TaskData,
    TaskOptions,
    device_of,
    find_checkpoint,
)
from hat.config import Options, defaults_of, option, to_yaml_values
from hat.data.pairs import PairDataset
from hat.data.subwords import TextCodec, remove_subwords
from hat.decode.beam import BeamConfig
from hat.decode.score import Mode, check_tokenizer, score_file
from hat.decode.translator import Generated, Model
from hat.decode.translator import generate as generate_split
from hat.errors import ConfigError, DataError, HatError
from hat.files.atomic import check_writable, write_text_atomic
from hat.files.lock import file_lock
from hat.log import info
from hat.model.cpu import device_name, dtype_name
from hat.model.layers import MAX_POSITIONS
from hat.run import Run, digest_of, read_record, record_path
from hat.runtimes.bundle import add_facts
from hat.runtimes.engines import engine, fastest
from hat.space import ArchOptions, arch_of
from hat.train.checkpoint import check_dictionaries, evaluation_dtype, load
from hat.train.distributed import place_of
from hat.train.trainer import OptimConfig


@dataclass(frozen=True)
class GenerateOptions(Options):
    """Generation"""

    path: str | None = option(None, role="file")
    """checkpoint of the model; averaged and SuperTransformer checkpoints work too"""
    gen_subset: str = option("test", role="file")
    """split to translate"""
    batch_size: int = option(128, low=1, role="free")
    """most sentences translated at once"""
    remove_bpe: str | None = option(None, const="@@ ", metavar="KIND")
    """join subwords: `@@ ` (also when given alone), subword_nmt or sentencepiece"""
    nbest: int = option(1, low=1)
    """hypotheses printed for each sentence"""
    int8: bool = False
    """the same as --precision int8"""
    results_path: str | None = option(None, role="free")
    """file for the output, written whole (default: standard output)"""
    mode: Mode | None = option(None, role="free")
    """score the file of the output, too, as hat score does; what that lacks is found before translating"""
    max_source_positions: int | None = option(None, low=2, high=MAX_POSITIONS)
    """room for longer source sentences than the model was trained for, in tokens"""
    max_target_positions: int | None = option(None, low=2, high=MAX_POSITIONS)
    """the same for translations"""


@dataclass(frozen=True)
class ScoreOptions:
    """Scoring"""

    gen_output: str | None = option(None, role="file")
    """output of hat generate"""
    mode: Mode = "normal"
    """normal: tokenised BLEU as the release scores it; sacre: SacreBLEU of detokenised text"""
    data: str | None = option(None, role="file")
    """data folder; in mode sacre its raw reference text is used if preprocessing kept it"""
    gen_subset: str = option("test", role="file")
    """split the output is of"""
    source_lang: str | None = None
    """source language (default: read off the file names)"""
    target_lang: str | None = None
    """target language (default: read off the file names)"""
    ref: str | None = option(None, role="file")
    """raw reference text for mode sacre, one sentence a line"""
    remove_bpe: str | None = option(None, const="@@ ", metavar="KIND")
    """how the output was joined; sentencepiece output is text already, other output is detokenised"""


def parsed(argv: Sequence[str] | None) -> tuple[Any, ...]:
    """Return the options of a translation."""
    return parse(
        argv,
        without(GenerateOptions, "int8"),
        BeamConfig,
        only(TaskOptions, "data", "source_lang", "target_lang"),
        only(DeviceOptions, "cpu", "gpu", "threads"),
        only(OptimConfig, "amp"),
        only(EngineOptions, "runtime", "precision"),
        ArchOptions,
        OutputOptions,
        *map(only, GROUPS),  # of other commands that read the same files
        prog="hat generate",
        description="Translate a split by beam search; prints S, T, H and P lines for each sentence.",
        config_flags=("--configs", "--sub-configs"),
    )


def run(groups: tuple[Any, ...], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Translate, score if that is asked for, and return what came out."""
    options, beam, task, device_options, optim, engine_options, arch_options, output, *_ = groups
    if options.path is None:
        raise ConfigError("--path is needed: the checkpoint to translate with")
    if (place := place_of(os.environ)) and place.size > 1:
        raise ConfigError(f"translations are made by one process, {place.size} were started; start it alone")
    remove_subwords("", options.remove_bpe)  # an unknown kind is an error before the model is loaded
    product = Path(options.results_path) if options.results_path else None
    if product:
        check_writable(product)
    lock = file_lock(product, "wait for it, or give another --results-path") if product else nullcontext()
    with lock:
        done = _generate(options, beam, task, device_options, optim, engine_options, arch_options, output)
    counts = {"sentences": done.sentences, "tokens": done.tokens, "seconds": round(done.seconds, 3)}
    info(
        f"translated {done.sentences} sentences ({done.tokens} tokens) in {done.seconds:.1f} s, "
        f"{done.sentences / done.seconds:.1f} sentences/s, {done.tokens / done.seconds:.0f} tokens/s"
    )
    found: dict[str, Any] = {}
    if options.mode and product:
        names = {name: getattr(task, name) for name in ("data", "source_lang", "target_lang")}
        names |= {name: getattr(options, name) for name in ("mode", "gen_subset", "remove_bpe")}
        found = _score(ScoreOptions(gen_output=str(product), **names))
    return counts | found


generate = stage(parsed, run)


def _generate(
    options: GenerateOptions,
    beam: BeamConfig,
    task: TaskOptions,
    device_options: DeviceOptions,
    optim: OptimConfig,
    engine_options: EngineOptions,
    arch_options: ArchOptions,
    output: OutputOptions,
) -> Generated:
    """Translate, and write or print the translation."""
    path, dataset = find_checkpoint(str(options.path)), TaskData(task)
    runtime, precision = engine_options.runtime, engine_options.precision
    if options.int8 and precision not in ("auto", "int8"):
        raise ConfigError(f"--int8 contradicts --precision {precision}; give one of them")
    precision = "int8" if options.int8 else precision
    on_cpu = precision == "int8" or runtime not in (None, "torch")
    device = device_of(replace(device_options, cpu=device_options.cpu or on_cpu))
    source = load(path, info)
    if precision == "auto" and not on_cpu:
        precision = dtype_name(evaluation_dtype(source, optim.amp, optim.fp16, device))
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
    product = Path(options.results_path) if options.results_path else None
    run = Run(
        record_path(product, folder=False) if product else None,
        "translation",
        settings=to_yaml_values(options, beam, arch_options, engine_options)
        | {"data": task.data, "amp": optim.amp},
        inputs={"checkpoint": path, **_ids(data)},
        device={"device": device_name(device), "dtype": precision},
        threads=torch.get_num_threads(),
        gpus=int(device.type == "cuda"),
        goes_on=False,
    )
    with run:
        done = generate_split(
            translator,
            data,
            beam,
            batch_size=options.batch_size,
            remove_bpe=options.remove_bpe,
            nbest=options.nbest,
            show_bar=sys.stderr.isatty() and not output.no_progress_bar,
        )
        run.results |= {"sentences": done.sentences, "tokens": done.tokens, "seconds": round(done.seconds, 3)}
        if product:
            write_text_atomic(product, done.text)
            run.vouch(product)
        else:
            sys.stdout.write(done.text)
    return done


@command
def score(argv: Sequence[str] | None = None) -> int:
    """Print BLEU, chrF and TER of what hat generate wrote, and their signatures."""
    groups = ScoreOptions, only(OutputOptions, "json"), *map(only, GROUPS)  # GROUPS: of other commands
    how: dict[str, Any] = {"description": score.__doc__, "config_flags": ("--configs",)}
    options, output, *_ = parse(argv, *groups, prog="hat score", **how)
    found = _score(options)
    if output.json:
        print(json.dumps(found))
    return 0


def _score(options: ScoreOptions) -> dict[str, Any]:
    """Score, print the scores, keep them beside the output, and return them."""
    path = Path(options.gen_output or "")
    if not path.is_file():
        raise ConfigError(f"--gen-output is needed: {options.gen_output} is no file; run hat generate first")
    names = ("data", "gen_subset", "source_lang", "target_lang")
    data = PairDataset.load(*(getattr(options, name) for name in names)) if options.data else None
    if data and (held := read_record(path, folder=False, note=info)).outputs.get(path.name) == digest_of(
        path
    ):
        other = [use for use, digest in _ids(data).items() if held.inputs.get(use, digest) != digest]
        if other:
            raise DataError(
                f"{path} is no translation of the {data.split} split of {options.data}: other "
                f"{' and '.join(other)}; generate again, or give the split it is of as --gen-subset"
            )
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
        _tell_bundle(path, options, found)
    except HatError as error:  # the output may lie where others may only read
        info(f"the score is not kept beside the output: {error}")
    return found


def _tell_bundle(output: Path, options: ScoreOptions, found: dict[str, Any]) -> None:
    """Write SacreBLEU into the card of the bundle of the checkpoint that `output` was translated with."""
    made = read_record(output, folder=False, note=info)
    path = Path(made.settings.get("path") or "none")
    if options.mode == "sacre" and path.exists() and digest_of(path) == made.inputs.get("checkpoint"):
        usual, given = defaults_of(BeamConfig(), EngineOptions()), made.settings
        search = (f"--{key}={given[key]}" for key in usual if given.get(key, usual[key]) != usual[key])
        add_facts(path, found | {"split": given["gen-subset"], "search": " ".join(search)})


def _ids(data: PairDataset) -> dict[str, str]:
    """Return the digests of what is translated, and of its reference."""
    return dict(zip(("source-ids", "target-ids"), data.content(), strict=True))
