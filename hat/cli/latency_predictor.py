"""The command `latency_predictor.py`: train a latency predictor and report its error."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from hat.cli.missing import advice, table_commands
from hat.cli.options import OutputOptions, command, parse
from hat.cli.set_aside import released_at, set_aside
from hat.config import to_yaml_values
from hat.errors import ConfigError, DataError
from hat.files.atomic import check_writable, write_atomic, write_text_atomic
from hat.files.cost import Cost
from hat.latency.drift import Block
from hat.latency.predictor import COVERAGE, LatencyPredictor, Report, split
from hat.latency.predictor_config import PredictorConfig
from hat.latency.table import Row, find_table, read_table


@dataclass(frozen=True)
class RunOptions:
    """Run"""

    seed: int = 1
    """seed of the split into training, validation and test rows and of the training"""
    lr: float | None = None
    """accepted for files of the release, without effect: the learning rate is --predictor-lr"""
    transfer_from: str | None = None
    """table (CSV) or predictor (.pt) of another device to start from; about 20 rows of the new one do then"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train a predictor on a latency table, write it and print its scores; return the exit status."""
    cfg, run, output = parse(
        argv,
        PredictorConfig,
        RunOptions,
        OutputOptions,
        prog="latency_predictor.py",
        description="Train a latency predictor on measured architectures; report its error on unseen ones.",
        config_flags=("--configs",),
    )
    if cfg.lat_dataset_path is None or cfg.ckpt_path is None:
        missing = "--lat-dataset-path" if cfg.lat_dataset_path is None else "--ckpt-path"
        raise ConfigError(
            f"{missing} is not given; name it, or --configs=configs/<task>/latency_predictor/*.yml"
        )
    if run.lr is not None:
        _say("lr has no effect here: the learning rate is --predictor-lr")
    table = _table(cfg.lat_dataset_path)
    rows = read_table(table)
    check_writable(Path(cfg.ckpt_path))
    aside = released_at(Path(cfg.ckpt_path))
    path = Path(cfg.ckpt_path)
    # nothing of an earlier training is used again, so its costs do not count
    with Cost(path.with_suffix(".cost.json"), threads=torch.get_num_threads(), resumable=False):
        if run.transfer_from is None:
            predictor = _trained(rows, cfg, run, output)
        else:
            old, blocks = _old(run.transfer_from, rows, cfg, run.seed)
            predictor = old.transferred(rows, run.seed, blocks)
    if aside:
        set_aside(path, aside)
        _say(f"{path} was the predictor of the 2020 release; it was moved to {aside}")
    predictor.save(path)
    settings = to_yaml_values(cfg, replace(run, lr=None))
    write_text_atomic(path.with_suffix(".config.yml"), yaml.safe_dump(settings, default_flow_style=None))
    if run.transfer_from is None:
        _plot(predictor, rows, run.seed, path.with_suffix(".png"))
    report = predictor.report
    assert report is not None
    _print_table(report, len(rows), table, path)
    _print_bound(predictor, report)
    if not report["networks"]:
        print("the costs of layers add up here; networks did not help and were left out")
    _print_drift(report["drift"], "the table")
    learnt = "" if str(run.transfer_from).endswith(".csv") else "the table learnt by "
    _print_drift(report.get("old_drift", []), f"{learnt}{run.transfer_from}")
    if output.json:
        print(json.dumps(report))
    return 0


def _trained(
    rows: Sequence[Row], cfg: PredictorConfig, run: RunOptions, output: OutputOptions
) -> LatencyPredictor:
    hidden = True if output.no_progress_bar else None  # None: hidden where the output is no terminal
    with tqdm(total=cfg.train_steps, desc="training", disable=hidden) as bar:

        def on_check(step: int, percent: float) -> None:
            bar.set_postfix_str(f"error on rows left out about {percent:.2f}%", refresh=False)
            bar.update(step - bar.n)
            if output.no_progress_bar and step % 200 == 0:
                _say(f"step {step} of at most {cfg.train_steps}: error on rows left out about {percent:.2f}%")

        predictor = LatencyPredictor.fit(rows, cfg, run.seed, on_check)
        bar.total = bar.n  # it ended early: nothing is left to do
    return predictor


def _old(
    given: str, rows: Sequence[Row], cfg: PredictorConfig, seed: int
) -> tuple[LatencyPredictor, list[Block] | None]:
    """Return the predictor of another device, trained where a table is given, and drifting blocks of that."""
    if not given.endswith(".csv"):
        return LatencyPredictor.load(given, cfg.feature_norm, cfg.lat_norm), None
    old = read_table(given)
    if not all(row.arch for row in rows):
        old = [replace(row, arch=None) for row in old]  # both by the ten features
    return LatencyPredictor.fit_all(old, cfg, seed)


def _table(given: str) -> Path:
    own = given.replace("_all.csv", ".csv")
    if own != given and Path(given).exists() and Path(own).exists():
        _say(f"both {given} and {own} exist; reading the first; --lat-dataset-path={own} takes the other")
    try:
        return find_table(given, _say)
    except DataError as error:
        commands = table_commands(given)
        raise DataError(f"{error}; {advice(commands, '')}" if commands else str(error)) from error


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


def _plot(predictor: LatencyPredictor, rows: Sequence[Row], seed: int, path: Path) -> None:
    """Write predicted against measured latency of the test rows as a picture."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        _say("no picture: matplotlib is not installed (pip install -e '.[report]')")
        return
    test = [rows[i] for i in split(len(rows), seed)[1]]
    measured = [row.total_ms for row in test]
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(measured, predictor.predict_rows(test), s=8)
    axes.axline((measured[0], measured[0]), slope=1, color="grey", linewidth=1)
    axes.set(xlabel="measured latency (ms)", ylabel="predicted latency (ms)", title=path.stem)
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))
