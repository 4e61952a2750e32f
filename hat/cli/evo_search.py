"""evo_search.py: find the best SubTransformer under a latency constraint, or the whole front at once."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from hat.cli import settings
from hat.cli.options import OutputOptions, advice, only, stage
from hat.cli.settings import Settings, dataset_of
from hat.config import Options, option, to_yaml_values
from hat.errors import CheckpointError, ConfigError
from hat.latency.predictor import LatencyPredictor, check_valid, conditions_of_space
from hat.log import info
from hat.model.transformer import SuperTransformer
from hat.run import Identity
from hat.search import strategies
from hat.search.constraints import LimitOptions, in_ms
from hat.search.record import SearchResult
from hat.search.run import SearchTask, limits_of, search
from hat.search.strategies import SearchConfig, strategy_of
from hat.train.checkpoint import check_compatible, load
from hat.train.distributed import ProcessGroup, joined, launch, one_of_many, place_of
from hat.train.loop import TrainConfig
from hat.train.trainer import OptimConfig, amp_dtype


@dataclass(frozen=True)
class SearchOptions(Options):
    """Search"""

    evo_configs: str | None = option(None, role="free")
    ckpt_path: str | None = option(None, "latency predictor", role="free")
    feature_norm: tuple[float, ...] = option((), "normalisers of features for predictors of the 2020 release")
    lat_norm: float | None = option(None, "normaliser of latency in ms, for predictors of the 2020 release")
    write_config_path: str | None = option(None, "YAML file for the architecture found", role="free")
    latency_constraint: tuple[float, ...] = option((), above=0, alias="latency_constraints")
    """highest latencies in ms: the predictor's upper bound keeps each, or its prediction if it has none; if
    they are several, there is one YAML file for each"""
    search_dir: str | None = option(None, role="free")
    """folder of journal, log and table (default: checkpoints/<task>/evo_search/<name of
    --write-config-path>)"""
    no_measure: bool = option(False, "do not measure it, if the predictor is of this device", role="free")
    rerank_configs: str | None = option(None, metavar="FILE", role="free")
    """YAML file with the options of the short trainings of --rerank (default: those of --configs)"""


_TASK = "data source_lang target_lang max_tokens max_tokens_valid valid_subset profile_length"
_USED = (  # of the options in YAML files; those of the space are given there
    only(settings.RunOptions, "restore_file", "new_run"),
    only(settings.TaskOptions, *_TASK.split()),
    only(OptimConfig, "label_smoothing", "amp"),
    settings.DeviceOptions,
    only(settings.ProfileOptions, "latiter", "lat_interval", "lat_row_budget"),
    settings.EngineOptions,
    OutputOptions,
)


def parsed(argv: Sequence[str] | None) -> tuple[Any, ...]:
    """Return the settings, the options of the search, and those of its strategies, limits and scoring."""
    text = "Find the SubTransformer of lowest loss under a latency limit, or the front of loss and latency."
    how: dict[str, Any] = {"description": text, "config_flags": ("--configs", "--evo-configs"), "used": _USED}
    of_search = (strategies.EvolutionConfig, LimitOptions, strategies.ParetoConfig, strategies.ScoringOptions)
    return settings.parse_settings(argv, SearchOptions, *of_search, prog="evo_search.py", **how)


def identity(groups: tuple[Any, ...]) -> Identity:
    """Return the identity of the search that `run` makes of these options; nothing is written."""
    given, options, *groups = groups
    data, rest = dataset_of(given.task), _arguments(given, options, groups)
    device = settings.chosen_device(given.device)
    with torch.device("meta"):
        network = SuperTransformer(rest.pop("space"), data.vocab_sizes, given.model)
    network = network.to(amp_dtype(given.optim.amp, device))
    return SearchTask(network, data, **rest).identity()


def _arguments(given: Settings, options: SearchOptions, groups: Sequence[Any]) -> dict[str, Any]:
    task = given.task
    limits_ms = options.latency_constraint
    front = any(getattr(group, "pareto", False) for group in groups) and not limits_ms
    for name, value, what in (
        ("--ckpt-path", options.ckpt_path, "the latency predictor"),
        ("--write-config-path", options.write_config_path or front, "the YAML file to write"),
        ("--restore-file", given.run.restore_file, "the SuperTransformer checkpoint"),
    ):
        if not value:
            raise ConfigError(f"{name} is needed: {what}; it usually stands in the file of --evo-configs")
    config = SearchConfig(
        **{name: value for group in groups for name, value in vars(group).items()},
        label_smoothing=given.optim.label_smoothing,
        valid_subset=task.valid_subset,
        max_tokens=task.max_tokens_valid or task.max_tokens,
        required_batch_size_multiple=task.required_batch_size_multiple,
        profile_length=task.sentence_length(),
    )
    folder, limits_ms = _folder(options), limits_of(limits_ms, config, strategy_of(config))
    training = TrainConfig(given.model, given.optim, given.schedule, batches=task)
    if options.rerank_configs:
        training = TrainConfig.from_yaml(options.rerank_configs)
    how = {"config": config, "limits_ms": limits_ms, "predictor": _predictor(options), "training": training}
    checkpoint = settings.find_checkpoint(str(given.run.restore_file))
    how |= {"inputs": {"checkpoint": checkpoint, "predictor": Path(str(options.ckpt_path))}, "out": folder}
    how |= {"runtime": given.engine.runtime, "precision": given.engine.precision, "seed": given.device.seed}
    return how | {"space": settings.space_and_arch(given.space, given.arch)[0]}


def run(groups: tuple[Any, ...], argv: Sequence[str] | None) -> dict[str, Any] | int:
    """Search, tell the user, and return the summary; a number is the exit code of processes it started."""
    given, options, *groups = groups
    profile, how = given.profile, _arguments(given, options, groups)
    space, data, restore = how.pop("space"), dataset_of(given.task), how["inputs"]["checkpoint"]
    lengths = dict.fromkeys(("source_len", "target_len"), how["config"].profile_length)
    known = conditions_of_space(space, data.vocab_sizes[1]) | {key: str(n) for key, n in lengths.items()}
    check_valid(str(options.ckpt_path), how["predictor"].conditions, known)
    place = place_of(os.environ)
    if place is None and (count := settings.processes(given.device)) > 1:
        return launch("hat.cli.evo_search", argv, count, given.device.distributed_port)
    device = settings.rank_device(given.device, place)
    dtype = amp_dtype(given.optim.amp, device)
    source = check_compatible(load(restore, info), restore, space, None, given.model, data)

    @contextmanager
    def connected() -> Iterator[ProcessGroup]:
        with joined(place, device) as group:
            amp_dtype(given.optim.amp, device, group)  # all must agree
            yield group

    timing = {"max_iterations": profile.latiter, "interval_percent": profile.lat_interval, **lengths}
    timing |= {"beam": profile.lat_beam, "row_budget_s": profile.lat_row_budget}
    timing |= {"dtype": given.engine.precision, "command": given.engine.lat_command or ""}
    how |= {"measure": not options.no_measure, "measuring": timing}
    how |= {"write_to": options.write_config_path, "settings": to_yaml_values(options, *groups, *given)}
    how |= {"group": connected(), "progress": given.output.bar, "new_run": given.run.new_run}
    result = search(source.sub(None).to(device, dtype), data, **how)
    if place and place.rank:
        return 0
    for line in _lines(result, how["out"]):
        print(line, flush=True)
    return result.summary()


def _folder(options: SearchOptions) -> Path:
    if options.search_dir:
        return Path(options.search_dir)
    if not (named := options.write_config_path or options.evo_configs):
        raise ConfigError("--search-dir is needed: the folder of the journal and the front")
    name = Path(named).stem + ("" if options.write_config_path else "_front")
    return settings.run_folder(options.evo_configs or f"configs/evo_search/{name}.yml", None).parent / name


def _predictor(options: SearchOptions) -> LatencyPredictor:
    path = str(options.ckpt_path)
    if not Path(path).exists():
        how = advice(path, "check --ckpt-path, or train one with latency_predictor.py")
        raise CheckpointError(f"there is no latency predictor {path}; {how}")
    return LatencyPredictor.load(path, options.feature_norm, options.lat_norm)


def _lines(result: SearchResult, folder: Path) -> Iterator[str]:
    scored, below = f"scored in {result.scoring_s:.0f} s", []
    if result.whole_front:
        best, fastest = result.front[0], min(result.front, key=lambda each: each.predicted_ms)
        ends = " to ".join(f"loss {each.loss:.4f} at {each.predicted_ms:.2f} ms" for each in (best, fastest))
        found = f"found {folder / 'front'}: {len(result.front)} architectures on the front"
        yield f"{found}, from {ends}; {len(result.scored)} {scored}"
    for limit_ms, winner in result.winners.items():
        bound = f" ({100 * result.coverage:g}% bound {winner.bound_ms:.2f} ms)" if result.coverage else ""
        limit = f" of {limit_ms:g} ms" if limit_ms < math.inf else ""
        yield (
            f"found {result.paths[limit_ms]}: validation loss {winner.loss:.4f} (base 2), "
            f"{winner.params / 1e6:.2f} M parameters, predicted {winner.predicted_ms:.2f} ms{bound}{limit}; "
            f"{len(result.scored)} architectures {scored}"
        )
        if winner.measured_ms is not None:
            below.append(100 * (1 - winner.measured_ms / limit_ms))
            kept = {True: "within", False: "ABOVE", None: "open: it may be within or above"}[winner.holds]
            kept = f"{kept} the constraint{limit}, " if limit else ""
            measured = in_ms(winner.measured_ms, winner.measured_interval_ms)
            yield f"measured {measured}, {kept}in a fresh process; {len(winner.finalists)} finalists measured"
    if len(below) > 1:
        holds = [winner.holds for winner in result.winners.values()]
        kept = (
            f"{holds.count(True)} of {len(below)} limits hold as measured, {holds.count(None)} are open, on"
        )
        yield f"{kept} average {fmean(below):.1f}% below the limit ({min(below):.1f} to {max(below):.1f}%)"


main = one_of_many(stage(parsed, run))
