"""The command `scripts/predictor_study.py`: predictors side by side, against the number of rows."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hat.cli.options import command, parse
from hat.errors import ConfigError
from hat.files.atomic import write_text_atomic
from hat.files.journal import Journal
from hat.latency.predictor import LatencyPredictor
from hat.latency.study import (
    ALL,
    METHODS,
    Cell,
    Table,
    learning_cells,
    measured_again,
    possible,
    run_cell,
    too_many,
    transfer_cells,
)
from hat.latency.table import read_table
from hat.log import say
from hat.report.study import PLOTTED, mean_records, plot_study, study_table, transfer_table

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class StudyOptions:
    """Study"""

    tables: tuple[str, ...] = ()
    """CSV files of measured latencies (default: latency_dataset/*.csv)"""
    out_dir: str = "runs/predictor_study"
    """folder of the journal, the CSV file and the picture; an interrupted study continues from it"""
    methods: tuple[str, ...] = METHODS
    """what to compare"""
    rows: tuple[int, ...] = (10, 25, 50, 100, 500, ALL)
    """numbers of rows to learn from; 0: all but the tenth that every method is tested on"""
    seeds: int = 5
    """random splits"""
    again: tuple[str, ...] = ()
    """CSV files with second measurements of rows of the tables; how far the two lie apart is printed"""
    transfer: bool = False
    """compare 20 rows alone with 20 rows and the table of another device, for all tables of equal spaces"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run what the journal does not hold yet, write CSV and picture, print the table; return exit status."""
    (options,) = parse(
        argv,
        StudyOptions,
        prog="scripts/predictor_study.py",
        description="Compare the latency predictor with the 2020 recipe, least squares and decoder depth.",
        config_flags=("--configs",),
    )
    if options.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {options.seeds}")
    paths = [Path(path) for path in options.tables] or sorted(Path("latency_dataset").glob("*.csv"))
    if not paths:
        raise ConfigError(
            "no table in latency_dataset/; measure one with latency_dataset.py or give --tables"
        )
    if options.again and options.transfer:
        raise ConfigError("--again belongs to the study of one table; leave it out or --transfer")
    names = [path.stem for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two of --tables are named {twice}, and results go by name; rename one of them")
    tables, again = [_table(path) for path in paths], [_table(Path(path)) for path in options.again]
    if options.transfer:
        cells = transfer_cells(tables, options.seeds)
        if not cells:
            raise ConfigError("no two of the tables are of one search space; give others with --tables")
    else:
        cells = learning_cells(tables, options.methods, options.rows, options.seeds)
        for table in tables:
            if left_out := too_many(table, options.rows):
                counts = " ".join(map(str, left_out))
                _say(f"--rows {counts} left out: {table.name} has {len(table.rows)}; give {possible(table)}")
    repeats = [measured_again(second, tables) for second in again]
    folder = Path(options.out_dir)
    name = "transfer" if options.transfer else "study"
    with Journal(folder / "journal.jsonl") as journal:
        means = mean_records(_run(cells, journal))
    write_text_atomic(folder / f"{name}.csv", _csv(means))
    if options.transfer:
        print(transfer_table(means))
        return 0
    print(study_table(means))
    for table, count, scores in repeats:
        print(
            f"{table.name}: {count} rows measured again: MAPE {scores['mape_percent']:.2f}%, "
            f"Kendall tau {scores['kendall_tau']:.3f}"
        )
    if any(record["method"] in PLOTTED for record in means):
        try:
            plot_study(folder / "study.png", means)
        except ImportError:
            _say("no picture: matplotlib is not installed (pip install -e '.[report]')")
    return 0


def _run(cells: Sequence[Cell], journal: Journal) -> list[dict[str, Any]]:
    """Return the records of all cells, from the journal where it holds them."""
    done = {_name(record, cells[0].key): record for record in journal.records}
    left = [cell for cell in cells if _name(cell.key, cell.key) not in done]
    held = len(cells) - len(left)
    _say(f"{held} of {len(cells)} trainings are in {journal.path}")
    for method in dict.fromkeys(cell.method for cell in left):
        seconds = [cell.estimate_s for cell in left if cell.method == method]
        _say(f"{method}: {len(seconds)} left, about {sum(seconds) / 60:.1f} min")
    sources: dict[str, LatencyPredictor] = {}
    for number, cell in enumerate(left, 1):
        record = run_cell(cell, sources)
        journal.append(record)
        done[_name(record, cell.key)] = record
        if record["seconds"] > 1 or number == len(left):
            what = f"{cell.table.name}, {cell.method}, {cell.num_rows or 'all'} rows, seed {cell.seed}"
            _say(
                f"{number}/{len(left)}: {what}: MAPE {record['mape_percent']:.2f}%, {record['seconds']:.1f} s"
            )
    return [done[_name(cell.key, cell.key)] for cell in cells]


def _name(record: dict[str, Any], keys: dict[str, Any]) -> str:
    return json.dumps({key: record.get(key) for key in keys}, sort_keys=True)  # older ones lack some


def _table(path: Path) -> Table:
    rows = read_table(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    for config in sorted(CONFIGS.glob("*/latency_predictor/*.yml")):
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
        if Path(values["lat-dataset-path"]).name == path.name and "lat-norm" in values:
            return Table(path.stem, digest, rows, tuple(values["feature-norm"]), values["lat-norm"])
    largest = np.array([row.features for row in rows]).max(axis=0)
    return Table(path.stem, digest, rows, tuple(largest.tolist()), max(row.total_ms for row in rows))


def _csv(means: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(name for record in means for name in record))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(means)
    return text.getvalue()


def _say(text: str) -> None:
    say(f"scripts/predictor_study.py: {text}")
