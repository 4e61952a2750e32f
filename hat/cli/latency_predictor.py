"""The command `latency_predictor.py`: train a latency predictor and report its error."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from hat.cli.missing import advice, table_commands
from hat.cli.options import OutputOptions, command, only, parse
from hat.config import Options, flag_of, option, to_yaml_values
from hat.errors import ConfigError, DataError, HatError
from hat.files.atomic import check_writable, digest_path, write_atomic
from hat.files.released import beside_own
from hat.latency.predictor import (
    COVERAGE,
    LatencyPredictor,
    Report,
    is_released,
    trained_predictor,
)
from hat.latency.table import find_table, read_table
from hat.model.cpu import device_name
from hat.report.figures import latency_chart, png
from hat.run import Run, digest_of, record_path


@dataclass(frozen=True)
class PredictorOptions(Options):
    """Latency predictor"""

    lat_dataset_path: str | None = None
    """CSV file of measured latencies; the same name without _all is read if only that exists"""
    ckpt_path: str | None = None
    """predictor file to write"""
    transfer_from: str | None = option(None, metavar="FILE")
    """table (CSV) or predictor (.pt) of another device to start from; about 20 rows of the new one do then"""
    seed: int = option(1, low=0)
    """seed of the split into training and test rows and of the training"""


@dataclass(frozen=True)
class ReleaseOptions:
    """Keys of the release, accepted without effect: the predictor finds its scales, size and steps itself"""

    feature_norm: tuple[float, ...] = ()
    lat_norm: float | None = None
    feature_dim: int | None = None
    hidden_dim: int | None = None
    hidden_layer_num: int | None = None
    train_steps: int | None = None
    bsz: int | None = None
    predictor_lr: float | None = None
    lr: float | None = None


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train a predictor on a latency table, write it and print its scores; return the exit status."""
    groups = parsed(argv)
    report = run(groups)
    if groups[-1].json:
        print(json.dumps(report))
    return 0


def parsed(argv: Sequence[str] | None) -> tuple[Any, ...]:
    """Return the options, those without effect, and those of the output."""
    return parse(
        argv,
        PredictorOptions,
        only(ReleaseOptions),
        OutputOptions,
        prog="latency_predictor.py",
        description="Train a latency predictor on measured architectures; report its error on unseen ones.",
        config_flags=("--configs",),
    )


def run(groups: tuple[Any, ...], argv: Sequence[str] | None = None) -> Report:
    """Train and write a predictor with its record and picture; print and return its scores."""
    options, ignored, _ = groups
    if given := [flag_of(name)[2:] for name in _given(ignored)]:
        _say(f"{', '.join(given)}: no effect here; the predictor finds its scales, size and steps itself")
    if options.lat_dataset_path is None or options.ckpt_path is None:
        missing = "--lat-dataset-path" if options.lat_dataset_path is None else "--ckpt-path"
        raise ConfigError(
            f"{missing} is not given; name it, or --configs=configs/<task>/latency_predictor/*.yml"
        )
    table, path = _table(options.lat_dataset_path), Path(options.ckpt_path)
    rows = read_table(table)
    check_writable(path)
    aside = _place_aside(path)
    kept = Run(
        record_path(path, folder=False),
        "predictor",
        settings=to_yaml_values(options),
        inputs={"table": table},
        device={"device": device_name(torch.device("cpu"))},
        threads=torch.get_num_threads(),
        goes_on=False,  # nothing of an earlier training is used again
    )
    predictor = trained_predictor(table, transfer_from=options.transfer_from, seed=options.seed)
    with kept:  # now that it worked: a record of an earlier predictor stays beside it until then
        if options.transfer_from:
            kept.inputs["transfer-from"] = digest_of(Path(options.transfer_from))
        if aside:
            _set_aside(path, aside)
            _say(f"{path} was the predictor of the 2020 release; it was moved to {aside}")
        predictor.save(path)
        report = predictor.report
        assert report is not None
        kept.results |= report
        kept.results |= {"unseen": predictor.unseen, "conditions": predictor.conditions}
        kept.vouch(path)
    if options.transfer_from is None:
        _plot(predictor, path.with_suffix(".png"))
    _print_table(report, len(rows), table, path)
    _print_bound(predictor, report)
    _print_drift(report["drift"], "the table")
    learnt = "" if str(options.transfer_from).endswith(".csv") else "the table learnt by "
    _print_drift(report.get("old_drift", []), f"{learnt}{options.transfer_from}")
    return report


def _given(options: ReleaseOptions) -> list[str]:
    return [each.name for each in fields(options) if getattr(options, each.name) not in (None, ())]


def _table(given: str) -> Path:
    own = given.replace("_all.csv", ".csv")
    if own != given and Path(given).exists() and Path(own).exists():
        _say(f"both {given} and {own} exist; reading the first; --lat-dataset-path={own} takes the other")
    try:
        return find_table(given, _say)
    except DataError as error:
        commands = table_commands(given)
        raise DataError(f"{error}; {advice(commands, '')}" if commands else str(error)) from error


def _place_aside(path: Path) -> Path | None:
    """Return where a predictor of the 2020 release at `path` is to be moved; None if there is none."""
    aside = beside_own(path)
    if not is_released(path):
        return None
    if aside.exists() and aside.read_bytes() != path.read_bytes():
        raise ConfigError(
            f"{path} is a predictor of the 2020 release, and its place beside one's own, {aside}, holds "
            "another file; move one of them away, or give another --ckpt-path"
        )
    return aside


def _set_aside(path: Path, aside: Path) -> None:
    """Move a released predictor and its digest, so that both stay usable. Raises HatError."""
    try:
        os.replace(path, aside)
        if digest_path(path).exists():
            text = digest_path(path).read_text("ascii").replace(path.name, aside.name)
            digest_path(aside).write_text(text, "ascii")
            digest_path(path).unlink()
    except OSError as error:
        raise HatError(f"cannot move {path} to {aside}: {error.strerror}; move it yourself") from error


def _say(text: str) -> None:
    print(f"latency_predictor.py: {text}", file=sys.stderr)


def _print_table(report: Report, num_rows: int, table: Path, path: Path) -> None:
    print(
        f"{num_rows} rows of {table}, scores on {report['rows']} that training did not see; predictor: {path}"
    )
    print(f"{'':14} {'MAPE %':>8} {'RMSE ms':>10} {'Kendall tau':>12}")
    for name, scores in {"predictor": report, **report["baselines"]}.items():
        print(
            f"{name:14} {scores['mape_percent']:8.2f} {scores['rmse_ms']:10.2f} {scores['kendall_tau']:12.3f}"
        )


def _print_bound(predictor: LatencyPredictor, report: Report) -> None:
    coverage = min(COVERAGE, predictor.max_coverage)
    text = f"{coverage:.0%} upper bound: prediction {100 * (predictor.margin(coverage) - 1):+.1f}%"
    bound = report["bound"]
    print(f"{text}; it held on {bound['held']:.1%} of the rows above" if bound else text)


def _print_drift(blocks: Sequence[Mapping[str, float]], table: str) -> None:
    for block in blocks:
        where = f"lines {block['first'] + 2:.0f} to {block['last'] + 2:.0f} of {table}"
        print(f"{where} are {block['percent']:+.1f}% off the others (the device drifted) and count less")


def _plot(predictor: LatencyPredictor, path: Path) -> None:
    """Write predicted against measured latency of the test rows as a picture."""
    try:
        content = png([latency_chart(predictor.unseen, ())])
    except ImportError:
        _say("no picture: matplotlib is not installed (pip install -e '.[report]')")
        return
    write_atomic(path, lambda file: file.write(content))
