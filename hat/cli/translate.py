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

from hat.cli import settings as shared
from hat.cli.options import OutputOptions, only, parse, stage, takes, without
from hat.cli.settings import GROUPS
from hat.config import Options, defaults_of, option, to_yaml_values
from hat.data.pairs import PairDataset
from hat.data.subwords import TextCodec, remove_subwords
from hat.decode.beam import BeamConfig
from hat.decode.score import Mode, check_tokenizer, score_file
from hat.decode.translator import Model
from hat.decode.translator import generate as generate_split
from hat.errors import ConfigError, DataError, HatError
from hat.files.atomic import check_writable, file_lock, write_text_atomic
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

    path: str | None = option(None, role="free")
    """checkpoint of the model; averaged and SuperTransformer checkpoints work too"""
    gen_subset: str = option("test", role="free")
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

    gen_output: str | None = option(None, role="free")
    """output of hat generate"""
    mode: Mode = "normal"
    """normal: tokenised BLEU as the release scores it; sacre: SacreBLEU of detokenised text"""
    data: str | None = option(None, role="free")
    """data folder; in mode sacre its raw reference text is used if preprocessing kept it"""
    gen_subset: str = option("test", role="free")
    """split the output is of"""
    source_lang: str | None = None
    """source language (default: read off the file names)"""
    target_lang: str | None = None
    """target language (default: read off the file names)"""
    ref: str | None = option(None, role="free")
    """raw reference text for mode sacre, one sentence a line"""
    remove_bpe: str | None = option(None, const="@@ ", metavar="KIND")
    """how the output was joined; sentencepiece output is text already, other output is detokenised"""


def parsed(argv: Sequence[str] | None) -> tuple[Any, ...]:
    """Return the options of a translation."""
    used = (
        without(GenerateOptions, "int8"),
        BeamConfig,
        only(shared.TaskOptions, "data", "source_lang", "target_lang"),
        only(shared.DeviceOptions, "cpu", "gpu", "threads"),
        only(OptimConfig, "amp"),
        only(shared.EngineOptions, "runtime", "precision"),
        *(ArchOptions, OutputOptions, *map(only, GROUPS)),  # GROUPS: of commands that read the same files
    )
    title = "Translate a split by beam search; prints S, T, H and P lines for each sentence."
    files = ("--configs", "--sub-configs")
    return parse(argv, *used, prog="hat generate", description=title, config_flags=files)


def run(groups: tuple[Any, ...], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Translate, score if that is asked for, and return what came out."""
    options, _, task, *_ = groups
    if options.path is None:
        raise ConfigError("--path is needed: the checkpoint to translate with")
    if (place := place_of(os.environ)) and place.size > 1:
        raise ConfigError(f"translations are made by one process, {place.size} were started; start it alone")
    remove_subwords("", options.remove_bpe)  # an unknown kind is an error before the model is loaded
    product = Path(options.results_path) if options.results_path else None
    if product:
        check_writable(product)
    with file_lock(product, "wait for it, or give another --results-path") if product else nullcontext():
        found = _generate(*groups[:8], product=product)
    sentences, tokens, seconds = found.values()
    info(
        f"translated {sentences} sentences ({tokens} tokens) in {seconds:.1f} s, "
        f"{sentences / seconds:.1f} sentences/s, {tokens / seconds:.0f} tokens/s"
    )
    if options.mode and product:
        names = {name: getattr(task, name) for name in ("data", "source_lang", "target_lang")}
        names |= {name: getattr(options, name) for name in ("mode", "gen_subset", "remove_bpe")}
        found |= _score(ScoreOptions(gen_output=str(product), **names))
    return found


generate = stage(parsed, run)


def _generate(
    options: GenerateOptions,
    beam: BeamConfig,
    task: shared.TaskOptions,
    device_options: shared.DeviceOptions,
    optim: OptimConfig,
    engine_options: shared.EngineOptions,
    arch_options: ArchOptions,
    output: OutputOptions,
    product: Path | None,
) -> dict[str, Any]:
    """Translate, write or print the translation, and return counts."""
    path, dataset = shared.find_checkpoint(str(options.path)), shared.TaskData(task)
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
    with Run(
        record_path(product, folder=False) if product else None,
        "translation",
        settings=settings | {"data": task.data, "amp": optim.amp},
        inputs={"checkpoint": path, **_ids(data)},
        device={"device": device_name(device), "dtype": precision},
        threads=torch.get_num_threads(),
        gpus=int(device.type == "cuda"),
        goes_on=False,
    ) as run:
        how = {"batch_size": options.batch_size, "remove_bpe": options.remove_bpe, "nbest": options.nbest}
        bar = sys.stderr.isatty() and not output.no_progress_bar
        text, counts = generate_split(translator, data, beam, **how, show_bar=bar)
        run.results |= counts
        if product:
            write_text_atomic(product, text)
            run.vouch(product)
        else:
            sys.stdout.write(text)
    return counts


_SCORE = (ScoreOptions, only(OutputOptions, "json"), *map(only, GROUPS))


@takes("hat score", *_SCORE, config_flags=("--configs",))
def score(options: ScoreOptions, *others: object) -> dict[str, Any]:
    """Print BLEU, chrF and TER of what hat generate wrote, and their signatures."""
    return _score(options)


def _score(options: ScoreOptions) -> dict[str, Any]:
    """Score, print the scores, keep them beside the output, and return them."""
    path = Path(options.gen_output or "")
    if not path.is_file():
        raise ConfigError(f"--gen-output is needed: {options.gen_output} is no file; run hat generate first")
    names = ("data", "gen_subset", "source_lang", "target_lang")
    data = PairDataset.load(*(getattr(options, name) for name in names)) if options.data else None
    held = read_record(path, folder=False, note=info)
    if data and held.outputs.get(path.name) == digest_of(path):
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
        of, made = Path(held.settings.get("path") or "none"), held.inputs.get("checkpoint")
        if options.mode == "sacre" and of.exists() and digest_of(of) == made:  # its bundle tells it, too
            usual, given = defaults_of(BeamConfig(), shared.EngineOptions()), held.settings
            search = (f"--{key}={given[key]}" for key in usual if given.get(key, usual[key]) != usual[key])
            add_facts(of, found | {"split": given["gen-subset"], "search": " ".join(search)})
    except HatError as error:  # the output may lie where others may only read
        info(f"the score is not kept beside the output: {error}")
    return found


def _ids(data: PairDataset) -> dict[str, str]:
    """Return the digests of what is translated, and of its reference."""
    return dict(zip(("source-ids", "target-ids"), data.content(), strict=True))
