"""evo_search.py: find the best SubTransformer under a latency constraint."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hat.arch.codec import arch_to_yaml
from hat.arch.config import Arch
from hat.arch.space import SearchSpace
from hat.cli.launch import launch, one_of_many, processes, rank_device
from hat.cli.missing import advice, predictor_commands
from hat.cli.options import command
from hat.cli.remeasure import remeasure
from hat.cli.restore import adapt, find_checkpoint, model_of
from hat.cli.settings import Settings, parse_settings
from hat.cli.task import (
    Vocabulary,
    dataset,
    dtype_of,
    run_folder,
    space_and_arch,
    validation_batches,
    vocabulary,
    write_provenance,
)
from hat.data.pairs import Batch
from hat.errors import CheckpointError, ConfigError
from hat.files.atomic import check_writable, write_text_atomic
from hat.files.cost import Cost
from hat.files.journal import Journal
from hat.latency.predictor import LatencyPredictor
from hat.log import RunLog, say
from hat.model.count import count_params
from hat.model.precision import device_name
from hat.search.evolution import EvolutionConfig, Iteration, SearchResult, evolve
from hat.search.fitness import SharedFitness, ValidationFitness
from hat.search.record import CachedFitness, search_header
from hat.train.checkpoint import load
from hat.train.ranks import joined, place_of


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
    """folder of the journal and log (default: checkpoints/<task>/evo_search/<name of --write-config-path>)"""
    no_measure: bool = False
    """do not measure the architecture found, also where the predictor is of this device"""

    def __post_init__(self) -> None:
        if self.valid_cnt_max is not None and self.valid_cnt_max < 1:
            raise ConfigError(f"--valid-cnt-max must be at least 1, got {self.valid_cnt_max}")


@one_of_many
@command
def main(argv: Sequence[str] | None = None) -> int:
    """Search; see --help."""
    settings, options, evolution = parse_settings(
        argv,
        SearchOptions,
        EvolutionConfig,
        prog="evo_search.py",
        description="Find the SubTransformer with the lowest validation loss under a latency constraint.",
        config_flags=("--configs", "--evo-configs"),
    )
    for name, value, what in (
        ("--ckpt-path", options.ckpt_path, "the latency predictor"),
        ("--write-config-path", options.write_config_path, "the YAML file to write"),
        ("--restore-file", settings.run.restore_file, "the SuperTransformer checkpoint"),
    ):
        if value is None:
            raise ConfigError(f"{name} is needed: {what}; it usually stands in the file of --evo-configs")
    limit_ms = evolution.limit_ms
    found = Path(options.write_config_path)
    space, _ = space_and_arch(settings.space, settings.arch)
    predictor = _predictor(options)
    restore = find_checkpoint(settings.run.restore_file)
    vocab = vocabulary(settings.task)
    check_writable(found)
    _check_predictor(predictor, space, vocab, Path(options.ckpt_path))
    place = place_of(os.environ)
    if place is None and (count := processes(settings.ranks, settings.device)) > 1:
        return launch("hat.cli.evo_search", argv, count, settings.ranks.distributed_port)
    device = rank_device(settings.device, place, settings.ranks)
    dtype = dtype_of(settings.optim.amp, settings.optim.fp16, device)
    source = adapt(load(restore, say), restore, space, settings.model, vocab)
    model = model_of(source, restore, None).to(device, dtype)
    batches = _validation(settings, options.valid_cnt_max)
    most = evolution.population_size + (evolution.evo_iter - 1) * (
        evolution.population_size - evolution.parent_size
    )
    bar_off = settings.output.no_progress_bar or not sys.stderr.isatty()
    start = time.perf_counter()
    with joined(place, device) as ranks:
        bar_off = bar_off or not ranks.first
        bar = tqdm(total=most, desc="search", unit=" scored", disable=bar_off, dynamic_ncols=True)
        cost = Cost(
            _search_folder(options) / "cost.json" if ranks.first else None,
            threads=torch.get_num_threads(),
            processes=ranks.size,
            gpus=ranks.size if device.type == "cuda" else 0,
        )

        def scored() -> None:
            bar.update(ranks.size)
            cost.tick()

        fitness = ValidationFitness(model, batches, settings.optim.label_smoothing, device, scored)
        shared = SharedFitness(fitness, ranks)
        if not ranks.first:
            return shared.serve()
        folder = _search_folder(options)
        header = search_header(
            space,
            evolution,
            settings.device.seed,
            checkpoint=_sha256(restore),
            predictor=_sha256(Path(options.ckpt_path)),
            validation=f"{settings.task.data} {settings.task.valid_subset} {options.valid_cnt_max}",
            dtype=str(dtype),
        )
        with shared, bar, cost:
            write_provenance(folder, device, options, evolution, *settings)
            result = _search(space, evolution, settings.device.seed, folder, predictor, shared, header, bar)
        seconds = time.perf_counter() - start
        summary = _summary(result, limit_ms, count_params(result.arch, space), seconds, found)
        write_text_atomic(found, _arch_text(result.arch, summary, restore, options.ckpt_path))
        print(
            f"found {found}: validation loss {result.loss:.4f} (base 2), {summary['params'] / 1e6:.2f} M "
            f"parameters, predicted {result.latency_ms:.2f} ms of {limit_ms:g} ms; {result.evaluations} "
            f"architectures scored in {seconds:.0f} s"
        )
        if not options.no_measure:
            summary |= _measured(found, settings, predictor, limit_ms)
        write_text_atomic(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    if settings.output.json:
        print(json.dumps(summary))
    return 0


def _search(
    space: SearchSpace,
    evolution: EvolutionConfig,
    seed: int,
    folder: Path,
    predictor: LatencyPredictor,
    fitness: SharedFitness,
    header: dict[str, Any],
    bar: tqdm,
) -> SearchResult:
    """Search on the first rank, going on from the journal in `folder`."""
    log = RunLog(folder, total=evolution.evo_iter, unit="iterations", bar=False)
    with Journal(folder / "journal.jsonl") as journal:
        cached = CachedFitness(journal, fitness, predictor.predict_many, header, fitness.at_once)
        if cached.resumed:
            say(f"resumed {journal.path}: {cached.resumed} architectures are scored already")
            bar.update(cached.resumed)

        def report(iteration: Iteration) -> None:
            log.metrics(
                "search",
                iteration.iteration,
                f"iteration {iteration.iteration}/{evolution.evo_iter} best loss "
                f"{iteration.best_loss:.4f} at "
                f"{iteration.best_latency_ms:.1f} ms, {iteration.evaluations} scored",
                **{name: value for name, value in iteration._asdict().items() if name != "iteration"},
            )

        result = evolve(space, cached, predictor.predict_many, evolution, seed, on_iteration=report)
    log.close()
    return result


def _predictor(options: SearchOptions) -> LatencyPredictor:
    path = str(options.ckpt_path)
    if not Path(path).exists():
        how = advice(predictor_commands(path), "check --ckpt-path, or train one with latency_predictor.py")
        raise CheckpointError(f"there is no latency predictor {path}; {how}")
    return LatencyPredictor.load(path, options.feature_norm, options.lat_norm)


def _validation(settings: Settings, count: int | None) -> list[Batch]:
    """Return the batches of the validation set, or of its first `count` sentences."""
    data = dataset(settings.task, settings.task.valid_subset)
    plan = validation_batches(data, settings.task, settings.model)
    limit = len(data) if count is None else count
    kept = (indices[indices < limit] for indices in plan.slots if indices is not None)
    return [data.batch(indices) for indices in kept if len(indices)]


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
    assert options.write_config_path is not None
    name = Path(options.write_config_path).stem
    return run_folder(options.evo_configs or f"configs/evo_search/{name}.yml", None).parent / name


def _summary(
    result: SearchResult, limit_ms: float, params: int, seconds: float, found: Path
) -> dict[str, Any]:
    return {
        "write_config_path": str(found),
        "arch": arch_to_yaml(result.arch),
        "params": params,
        "loss": result.loss,
        "constraint_ms": limit_ms,
        "predicted_ms": result.latency_ms,
        "measured_ms": None,
        "evaluations": result.evaluations,
        "seconds": round(seconds, 2),
        "history": [iteration._asdict() for iteration in result.history],
    }


def _arch_text(arch: Arch, summary: dict[str, Any], restore: Path, predictor: str) -> str:
    """Return the YAML file of an architecture: the release's ten keys, and where it comes from."""
    lines = [
        f"# found by evo_search.py under {summary['constraint_ms']:g} ms: predicted "
        f"{summary['predicted_ms']:.2f} ms, validation loss {summary['loss']:.4f} (inherited, base 2)",
        f"# weights {restore}, predictor {predictor}",
        *(f"{key}: {value}" for key, value in arch_to_yaml(arch).items()),
    ]
    return "\n".join(lines) + "\n"


def _measured(
    found: Path, settings: Settings, predictor: LatencyPredictor, limit_ms: float
) -> dict[str, Any]:
    """Measure the winner in a fresh process where the predictor's device is this one; says what it did."""
    conditions = predictor.conditions
    gpu = torch.cuda.is_available() and conditions.get("device") == torch.cuda.get_device_name()
    here = torch.cuda.get_device_name() if gpu else device_name(torch.device("cpu"))
    if conditions.get("device") != here:
        print(
            f"not measured: the predictor is of {conditions.get('device', 'an unnamed device')}, this is "
            f"{here}"
        )
        return {}
    assert settings.run.configs is not None
    again = remeasure(found, settings.run.configs, conditions, gpu=gpu)
    latency = again["latency_ms"]
    verdict = "within" if latency["total"] <= limit_ms else "ABOVE"
    print(
        f"measured {latency['total']:.2f} ms (encoder {latency['encoder']:.2f}, decoder "
        f"{latency['decoder']:.2f}), {verdict} the constraint of {limit_ms:g} ms, in a fresh process: "
        + ", ".join(f"{name} {value}" for name, value in again["conditions"].items())
    )
    return {"measured_ms": latency["total"], "conditions": again["conditions"]}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
