"""evo_search.py: find the best SubTransformer under a latency constraint, or the whole front at once."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hat.cli.finalists import Bench, Candidate, choose
from hat.cli.forecast import Forecast
from hat.cli.missing import advice, predictor_commands
from hat.cli.options import command
from hat.cli.search_files import (
    arch_text,
    draw_front,
    evaluation_rows,
    limits_line,
    measurements,
    origin_of,
    paths_of,
    summary_of,
    winner_lines,
    write_evaluations,
    write_front,
)
from hat.cli.search_run import Outcome, Searches
from hat.cli.settings import Settings, parse_settings
from hat.cli.task import (
    Vocabulary,
    dataset,
    find_checkpoint,
    processes,
    rank_device,
    run_folder,
    space_and_arch,
    vocabulary,
    write_provenance,
)
from hat.data.pairs import Batch
from hat.errors import CheckpointError, ConfigError
from hat.files.atomic import check_writable, write_text_atomic
from hat.files.cost import Cost
from hat.files.journal import Journal
from hat.latency.predictor import LatencyPredictor
from hat.log import say
from hat.report.front import compare, comparison_table, front_numbers
from hat.search.evolution import EvolutionConfig
from hat.search.fitness import SharedFitness, ValidationFitness
from hat.search.limits import LimitOptions
from hat.search.pareto import ParetoConfig
from hat.search.record import old_losses, search_header
from hat.space import Arch, SearchSpace
from hat.train.checkpoint import check_compatible, load, model_of
from hat.train.distributed import joined, launch, one_of_many, place_of
from hat.train.loop import validation_batches
from hat.train.trainer import compute_dtype


@dataclass(frozen=True)
class SearchOptions:
    """Search"""

    evo_configs: str | None = None
    ckpt_path: str | None = None
    """latency predictor"""
    feature_norm: tuple[float, ...] = ()
    """normalisers of the features; needed for predictors of the 2020 release only"""
    lat_norm: float | None = None
    """normaliser of the latency in ms; needed for predictors of the 2020 release only"""
    write_config_path: str | None = None
    """YAML file for the architecture found"""
    valid_cnt_max: int | None = None
    """validation sentences used for the fitness (default: all)"""
    search_dir: str | None = None
    """folder of journal, log, table and picture (default: checkpoints/<task>/evo_search/<name of
    --write-config-path>)"""
    no_measure: bool = False
    """do not measure the architecture found, also where the predictor is of this device"""
    finalists: int = 5
    """best architectures under each constraint that are measured where the predictor is of this device"""
    warm_start: str | None = None
    """journal of an older search with the same checkpoint, whose architectures start this one"""
    ablations: int = 0
    """random architectures to score beside, and a grid of depths, for a table of hypervolumes; 0 for none"""

    def __post_init__(self) -> None:
        if self.finalists < 1:
            raise ConfigError(f"--finalists must be at least 1, got {self.finalists}")
        if self.ablations < 0:
            raise ConfigError(f"--ablations must not be negative, got {self.ablations}")
        if self.valid_cnt_max is not None and self.valid_cnt_max < 1:
            raise ConfigError(f"--valid-cnt-max must be at least 1, got {self.valid_cnt_max}")


@one_of_many
@command
def main(argv: Sequence[str] | None = None) -> int:
    """Search; see --help."""
    settings, options, evolution, limits, front = parse_settings(
        argv,
        SearchOptions,
        EvolutionConfig,
        LimitOptions,
        ParetoConfig,
        prog="evo_search.py",
        description="Find the SubTransformer with the lowest validation loss under a latency constraint, or "
        "the whole front of loss against latency.",
        config_flags=("--configs", "--evo-configs"),
    )
    _check_options(settings, options, evolution, limits, front)
    space, _ = space_and_arch(settings.space, settings.arch)
    predictor = _predictor(options)
    length = settings.task.sentence_length()
    searches = Searches(space, predictor, evolution, limits, front, settings.device.seed, length)
    restore = find_checkpoint(settings.run.restore_file)
    vocab = vocabulary(settings.task)
    paths = paths_of(options.write_config_path, searches.limits_ms, several=bool(limits.latency_constraints))
    for path in paths.values():
        check_writable(path)
    if options.write_config_path and not paths:
        say("there is no limit, so none of the front is chosen for --write-config-path")
    _check_predictor(predictor, space, vocab, Path(options.ckpt_path))
    place = place_of(os.environ)
    if place is None and (count := processes(settings.ranks, settings.device)) > 1:
        return launch("hat.cli.evo_search", argv, count, settings.ranks.distributed_port)
    device = rank_device(settings.device, place, settings.ranks)
    dtype = compute_dtype(settings.optim.amp, settings.optim.fp16, device)
    source = check_compatible(
        load(restore, say), restore, space, None, settings.model, vocab.sizes, vocab.digests
    )
    model = model_of(source, restore, None).to(device, dtype)
    batches, validation = _validation(settings, options.valid_cnt_max)
    bar_off = settings.output.no_progress_bar or not sys.stderr.isatty()
    start = time.perf_counter()
    with joined(place, device) as ranks:
        bar_off = bar_off or not ranks.first
        bar = tqdm(total=searches.most, desc="search", unit=" scored", disable=bar_off, dynamic_ncols=True)
        cost = Cost(
            _search_folder(options) / "cost.json" if ranks.first else None,
            threads=torch.get_num_threads(),
            processes=ranks.size,
            gpus=ranks.size if device.type == "cuda" else 0,
        )

        forecast = Forecast()

        def scored() -> None:
            bar.update(ranks.size)
            cost.tick()
            if ranks.first:
                forecast.scored()

        compute_dtype(settings.optim.amp, settings.optim.fp16, device, ranks)
        fitness = ValidationFitness(model, batches, settings.optim.label_smoothing, device, scored)
        shared = SharedFitness(fitness, ranks)
        if not ranks.first:
            return shared.serve()
        folder = _search_folder(options)
        with shared, bar:
            facts = {"validation": validation, "dtype": str(dtype)}
            header, old = _header(searches, options, settings, restore, facts)
            if not searches.coverage:
                say(
                    "this predictor has no bound: latency constraints are kept by its mean; train it again "
                    "with latency_predictor.py for a bound"
                )
            searches.within_reach()
            with Journal(folder / "journal.jsonl") as journal, cost:  # the first locks the folder
                write_provenance(folder, device, options, evolution, limits, front, *settings)

                def expect(left: int) -> None:
                    beside = searches.ablations_left(folder, options.ablations)
                    forecast.expect({"search": left, **beside}, ranks.size)

                outcome = searches.run(journal, header, shared, old, bar, expect)
                others = searches.ablations(folder, header, shared, options.ablations)
    with cost:  # again: the other processes have gone, and measuring belongs to the search
        summary = _results(searches, outcome, others, options, settings, paths, folder, start)
    if settings.output.json:
        print(json.dumps(summary))
    return 0


def _check_options(
    settings: Settings,
    options: SearchOptions,
    evolution: EvolutionConfig,
    limits: LimitOptions,
    front: ParetoConfig,
) -> None:
    """Raise ConfigError where something is missing, or options do not go together."""
    limited = not front.pareto or evolution.latency_constraint or limits.latency_constraints
    for name, value, what in (
        ("--ckpt-path", options.ckpt_path, "the latency predictor"),
        ("--write-config-path", options.write_config_path or not limited, "the YAML file to write"),
        ("--restore-file", settings.run.restore_file, "the SuperTransformer checkpoint"),
    ):
        if not value:
            raise ConfigError(f"{name} is needed: {what}; it usually stands in the file of --evo-configs")
    if not limited and not options.search_dir and not options.write_config_path and not options.evo_configs:
        raise ConfigError("--search-dir is needed: the folder of the journal and the front")
    if not (front.pareto or limits.latency_constraints or limits.beside_latency()):
        evolution.limit_ms  # noqa: B018 - raises where there is none
    most, several = front.pareto_evaluations, len(limits.latency_constraints)
    if front.pareto and most < several:
        raise ConfigError(
            f"--pareto-evaluations {most} is too few for {several} limits of --latency-constraints, each of "
            f"which needs an architecture that keeps it; give at least {several}"
        )


def _header(
    searches: Searches, options: SearchOptions, settings: Settings, restore: Path, more: Mapping[str, str]
) -> tuple[dict[str, Any], dict[Arch, float]]:
    """Return the header of the search's journal, and the losses that an older journal holds."""
    assert options.ckpt_path is not None
    facts: dict[str, str | float] = {
        "checkpoint": _sha256(restore),
        "predictor": _sha256(Path(options.ckpt_path)),
        "label_smoothing": settings.optim.label_smoothing,
        **more,
    }
    limits, front = searches.limits, searches.front
    if searches.coverage:
        facts["coverage"] = searches.coverage
    if limits.max_flops or limits.min_flops or "flops" in front.objectives:
        facts["profile_length"] = searches.length
    header = search_header(searches.space, searches.evolution, settings.device.seed, limits, front, **facts)
    old = {}
    if options.warm_start:
        old = old_losses(Path(options.warm_start), header)
        header["warm_start"] = _sha256(Path(options.warm_start))
    return header, old


def _results(
    searches: Searches,
    outcome: Outcome,
    others: dict[str, list[Candidate]],
    options: SearchOptions,
    settings: Settings,
    paths: dict[float, Path],
    folder: Path,
    start: float,
) -> dict[str, Any]:
    """Measure finalists, write everything the search leaves, and return what summary.json holds.

    What needs no measurement is written before. `start` is when the search began, by time.perf_counter.
    """
    seconds = time.perf_counter() - start
    scored, points = outcome.scored, searches.points(outcome.scored)
    weights = f"weights {settings.run.restore_file}, predictor {options.ckpt_path}"
    rows = evaluation_rows(scored, outcome.reference, points)
    write_evaluations(folder, scored, rows, {})
    if searches.front.pareto:
        best = [scored[i] for i in front_numbers(points)]
        write_front(folder, best, weights, searches.coverage)
        fastest = min(best, key=lambda each: each.cost.predicted_ms)
        print(
            f"found {folder / 'front'}: {len(best)} architectures on the front, from loss {best[0].loss:.4f} "
            f"at {best[0].cost.predicted_ms:.2f} ms to loss {fastest.loss:.4f} at "
            f"{fastest.cost.predicted_ms:.2f} ms; {len(scored)} scored in {seconds:.0f} s"
        )
    ranked = {limit_ms: searches.ranked(scored, limit_ms) for limit_ms in paths}
    measured = folder / "measured.jsonl"
    bench = None if options.no_measure or not ranked else Bench.of(searches.predictor, settings, measured)
    choices = choose(ranked, options.finalists, bench)
    for limit_ms, choice in choices.items():
        text = origin_of(choice.winner, limit_ms, searches.coverage)
        write_text_atomic(paths[limit_ms], arch_text(choice.winner.arch, text, weights))
        print(winner_lines(choice, limit_ms, paths[limit_ms], len(scored), seconds, searches.coverage))
    if line := limits_line(choices):
        print(line)
    summary = summary_of(searches, outcome, choices, paths, time.perf_counter() - start)
    if bench:
        summary["conditions"] = bench.conditions
        write_evaluations(folder, scored, rows, measurements(choices))
    draw_front(folder, scored, summary["winners"], others)
    if others:
        methods = {"search": points} | {name: searches.points(archs) for name, archs in others.items()}
        summary["comparison"] = compare(methods)
        print(comparison_table(summary["comparison"]))
    write_text_atomic(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary


def _predictor(options: SearchOptions) -> LatencyPredictor:
    path = str(options.ckpt_path)
    if not Path(path).exists():
        how = advice(predictor_commands(path), "check --ckpt-path, or train one with latency_predictor.py")
        raise CheckpointError(f"there is no latency predictor {path}; {how}")
    return LatencyPredictor.load(path, options.feature_norm, options.lat_norm)


def _validation(settings: Settings, most: int | None) -> tuple[list[Batch], str]:
    """Return the batches of the validation set, or of its first `most` pairs, and what it is by content."""
    data = dataset(settings.task, settings.task.valid_subset)
    plan = validation_batches(data, settings.task, settings.model)
    count = min(len(data), most or len(data))
    kept = (indices[indices < count] for indices in plan.slots if indices is not None)
    batches = [data.batch(indices) for indices in kept if len(indices)]
    return batches, f"{count} pairs, SHA-256 {data.digest(count)}"


def _check_predictor(predictor: LatencyPredictor, space: SearchSpace, vocab: Vocabulary, path: Path) -> None:
    """Raise ConfigError where the predictor's dataset was measured on models with another total head width.

    Another vocabulary is only said: sizes that differ by little change the latency by little.
    """
    qkv_dim = predictor.conditions.get("qkv_dim", str(space.qkv_dim))
    if qkv_dim != str(space.qkv_dim):
        raise ConfigError(
            f"{path} was trained on latencies of models with qkv-dim {qkv_dim}, this task has "
            f"{space.qkv_dim}; "
            "measure a dataset for this task with latency_dataset.py"
        )
    size = predictor.conditions.get("vocab_size", str(vocab.sizes[1]))
    if size != str(vocab.sizes[1]):
        say(f"{path} was trained on latencies with a vocabulary of {size}, this task has {vocab.sizes[1]}")


def _search_folder(options: SearchOptions) -> Path:
    if options.search_dir:
        return Path(options.search_dir)
    name = Path(options.write_config_path or options.evo_configs or "front").stem
    if not options.write_config_path:
        name = f"{name}_front"
    return run_folder(options.evo_configs or f"configs/evo_search/{name}.yml", None).parent / name


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
