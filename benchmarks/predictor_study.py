"""Latency predictors side by side on the same rows: error against the number of rows, and transfer."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import hat
from benchmarks.process import ROOT, info

Floats = NDArray[np.float64]
Record = dict[str, Any]
Method = Literal["predictor", "recipe_2020", "depth_only"]
LABELS = {"predictor": "ours", "recipe_2020": "2020 recipe", "depth_only": "decoder depth alone"}  # in words
VERSION = 2  # raise it with a change that moves results, so that a table never mixes two versions
ALL = 0  # as a number of rows: all but the test rows
TRANSFER_ROWS = 20
COVERAGE = 0.95
STEPS, BATCH_SIZE, LEARNING_RATE = 5000, 128, 1e-5  # of the 2020 recipe
SIZES, DECODER_AVERAGES = (0, 1, 4, 5), (6, 7, 8, 9)  # columns of the ten features: widths and depths


@dataclass(frozen=True)
class StudyOptions(hat.Options):
    """Study"""

    tables: tuple[str, ...] = ()
    """CSV files of measured latencies (default: latency_dataset/*.csv)"""
    out_dir: str = "runs/predictor_study"
    """folder of the journal; an interrupted study continues from it"""
    methods: tuple[Method, ...] = tuple(LABELS)  # type: ignore[assignment]
    """what to compare"""
    rows: tuple[int, ...] = hat.option((10, 25, 50, 100, 500, ALL), low=10, off=ALL)
    """numbers of rows to learn from; 0: all but the tenth that every method is tested on"""
    seeds: int = hat.option(5, low=1)
    """random splits"""
    transfer: bool = False
    """compare 20 rows alone with 20 rows and the table of another device, for all tables of equal spaces"""


class Table(NamedTuple):
    """A latency table, its content's digest, and the normalisers that the 2020 recipe uses for it."""

    name: str
    digest: str
    rows: Sequence[Any]
    feature_norm: tuple[float, ...]
    lat_norm: float

    @property
    def most(self) -> int:
        """Return the highest number of rows to learn from that is less than all but the test rows."""
        return (9 * len(self.rows) - 1) // 10

    @property
    def space(self) -> tuple[object, ...]:
        """Return what tables of one search space share: sizes, and range of the decoder's averages."""
        columns = np.array([row.features for row in self.rows]).T
        ranges = [(columns[i].min(), columns[i].max()) for i in DECODER_AVERAGES]
        return (all(row.arch for row in self.rows), *(frozenset(columns[i]) for i in SIZES), *ranges)


class Cell(NamedTuple):
    """One training and its test; the test rows depend on table and seed alone."""

    table: Table
    method: str  # one of LABELS, or transfer
    num_rows: int
    seed: int
    source: Table | None = None  # of a transfer

    @property
    def key(self) -> Record:
        """Return what names this cell in a journal: all that its scores depend on."""
        table, source = self.table, self.source
        norms = [*table.feature_norm, table.lat_norm] if self.method == "recipe_2020" else []
        found = {"table": table.name, "digest": table.digest, "method": self.method, "version": VERSION}
        found |= {"norms": norms, "rows": self.num_rows, "seed": self.seed}
        of_source = (source.name, source.digest) if source else ("", "")
        return found | dict(zip(("source", "source_digest"), of_source, strict=True))


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Run what the journal does not hold yet, and print the table."""
    (options,) = hat.parse(
        argv,
        StudyOptions,
        prog="python -m benchmarks predictor-study",
        description="Compare the latency predictor with the 2020 recipe and decoder depth.",
        config_flags=("--configs",),
    )
    paths = [Path(path) for path in options.tables] or sorted(Path("latency_dataset").glob("*.csv"))
    if len({path.stem for path in paths}) < max(1, len(paths)):
        raise hat.ConfigError("results go by the names of --tables, which must differ, and be some")
    tables = [read_table(path) for path in paths]
    cells = list(transfer_cells(tables, options) if options.transfer else learning_cells(tables, options))
    if not cells:
        raise hat.ConfigError("no two of the tables are of one search space; give others with --tables")
    with hat.Journal(Path(options.out_dir) / "journal.jsonl") as journal:
        print(study_table(mean_records(run_cells(cells, journal))))
    return 0


def read_table(path: Path) -> Table:
    """Return a table with the normalisers of the release's configuration, or its own largest values."""
    rows = hat.read_table(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    for config in sorted((ROOT / "configs").glob("*/latency_predictor/*.yml")):
        values: Any = hat.read_config(config)
        if Path(values["lat-dataset-path"]).name == path.name and "lat-norm" in values:
            norms = tuple(map(float, values["feature-norm"]))
            return Table(path.stem, digest, rows, norms, float(values["lat-norm"]))
    largest = np.array([row.features for row in rows]).max(axis=0)
    return Table(path.stem, digest, rows, tuple(largest.tolist()), max(row.total_ms for row in rows))


def learning_cells(tables: Sequence[Table], options: StudyOptions) -> Iterator[Cell]:
    """Yield the cells of error against number of rows, cheap methods first. Numbers of rows that a table does
    not have are left out; ConfigError if no table has any.
    """
    most = max(table.most for table in tables)
    if min(options.rows) > most:
        raise hat.ConfigError(f"--rows {options.rows}: give at most {most}, or 0 for all but the test rows")
    for method in sorted(options.methods, key=lambda method: method == "recipe_2020"):
        for table in tables:
            for count in (count for count in options.rows if count <= table.most):
                yield from (Cell(table, method, count, seed) for seed in range(1, options.seeds + 1))


def transfer_cells(tables: Sequence[Table], options: StudyOptions) -> Iterator[Cell]:
    """Yield the cells of transfer between all tables of equal spaces, beside 20 rows alone."""
    for target in tables:
        sources = [t for t in tables if t is not target and t.space == target.space]
        for seed in range(1, options.seeds + 1) if sources else ():
            yield Cell(target, "predictor", TRANSFER_ROWS, seed)
            yield from (Cell(target, "transfer", TRANSFER_ROWS, seed, source) for source in sources)


def run_cells(cells: Sequence[Cell], journal: Any) -> list[Record]:
    """Return the records of all cells, from the journal if it holds them."""

    def name(record: Record) -> str:
        return json.dumps({key: record.get(key) for key in cells[0].key}, sort_keys=True)

    done = {name(record): record for record in journal.records}
    left = [cell for cell in cells if name(cell.key) not in done]
    info(f"{len(cells) - len(left)} of {len(cells)} trainings are in {journal.path}")
    for number, cell in enumerate(left, 1):
        record = run_cell(cell)
        journal.append(record)
        done[name(record)] = record
        if record["seconds"] > 1 or number == len(left):
            what = f"{cell.table.name}, {cell.method}, {cell.num_rows or 'all'} rows, seed {cell.seed}"
            info(f"{number}/{len(left)}: {what}: {record['mape_percent']:.2f}%, {record['seconds']:.1f} s")
    return [done[name(cell.key)] for cell in cells]


def split(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Return row numbers for training and test, 90 and 10 percent, at least two for the test."""
    order = hat.rng_for(seed, "latency-split").sample(range(count), count)
    part = max(2, count // 10)
    return order[part:], order[:part]


def run_cell(cell: Cell) -> Record:
    """Return the record of one cell: its key and scores on the test rows."""
    begun = time.perf_counter()
    train, test = split(len(cell.table.rows), cell.seed)
    chosen = sorted(train[: cell.num_rows] if cell.num_rows != ALL else train)
    rows, unseen = [cell.table.rows[i] for i in chosen], [cell.table.rows[i] for i in test]
    truth = np.array([row.total_ms for row in unseen])
    more: Record = {}
    if cell.method in ("predictor", "transfer"):
        if cell.source is None:
            predictor = hat.LatencyPredictor.fit(rows, seed=cell.seed, test=False)
        else:
            old = hat.LatencyPredictor.fit(cell.source.rows, test=False)
            predictor = old.transferred(rows, seed=cell.seed)
        predicted = predictor.predict_rows(unseen)
        if predictor.max_coverage >= COVERAGE:
            margin = predictor.margin(COVERAGE)
            more = {"held": float(np.mean(truth <= predicted * margin)), "above_percent": 100 * (margin - 1)}
    else:
        x, ms = np.array([row.features for row in rows]), np.array([row.total_ms for row in rows])
        recipe = partial(recipe_2020, table=cell.table, seed=cell.seed)
        fit = recipe if cell.method == "recipe_2020" else hat.depth_only
        predicted = fit(x, ms)(np.array([row.features for row in unseen]))
    seconds = round(time.perf_counter() - begun, 3)
    return {**cell.key, **hat.prediction_scores(predicted, truth), **more, "seconds": seconds}


def recipe_2020(features: Floats, latency_ms: Floats, table: Table, seed: int) -> Callable[[Floats], Floats]:
    """Return the predictor of HAT 2020, trained as the release trains it, from features [rows, 10] to ms.
    Mean squared error of latency / lat_norm on batches of 128 rows (or all, if fewer), 5,000 steps of Adam,
    no early stopping. The global random state is left alone.
    """
    norm, scale = np.array(table.feature_norm), table.lat_norm
    x, y = (torch.tensor(v, dtype=torch.float32) for v in (features / norm, latency_ms / scale))
    layers: list[torch.nn.Module] = []
    with torch.random.fork_rng(devices=[]):  # the usual initialisation of linear layers, seeded
        torch.manual_seed(seed)
        for width in (x.size(1), 400, 400, 400):
            layers += [torch.nn.Linear(width, 400), torch.nn.ReLU()]
        net = torch.nn.Sequential(*layers, torch.nn.Linear(400, 1), torch.nn.Flatten(0))
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
    for _ in range(STEPS):
        rows = torch.randperm(len(x), generator=rng)[:BATCH_SIZE]
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x[rows]), y[rows]).backward()
        optimizer.step()

    def predict(unseen: Floats) -> Floats:
        with torch.inference_mode():
            out: Floats = net(torch.tensor(unseen / norm, dtype=torch.float32)).double().numpy() * scale
        return out

    return predict


def mean_records(records: Sequence[Record]) -> list[Record]:
    """Return one record for each table, method, number of rows and source: means over the seeds."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        key = (record["table"], record["method"], record["rows"] or "all", record["source"])
        groups.setdefault(key, []).append(record)
    names = ("mape_percent", "rmse_ms", "kendall_tau", "held", "above_percent", "seconds")
    means = []
    for key, group in sorted(groups.items(), key=lambda each: 10**9 if each[0][2] == "all" else each[0][2]):
        mean = dict(zip(("table", "method", "rows", "source"), key, strict=True)) | {"seeds": len(group)}
        known = [name for name in names if all(name in record for record in group)]
        means.append(mean | {name: round(fmean(record[name] for record in group), 5) for name in known})
    return means


def study_table(means: Sequence[Record]) -> str:
    """Return MAPE in percent and Kendall's tau of each method by the number of rows, as aligned text."""
    counts = list(dict.fromkeys(mean["rows"] for mean in means))
    lines = []
    for table in dict.fromkeys(mean["table"] for mean in means):
        lines.append(f"{table}: MAPE % / Kendall tau (ties in the prediction count as no answer)")
        rows: list[tuple[str, list[Any]]] = [("rows", counts)]
        of_table = [mean for mean in means if mean["table"] == table]
        for method, source in dict.fromkeys((mean["method"], mean["source"]) for mean in of_table):
            own = {m["rows"]: m for m in of_table if (m["method"], m["source"]) == (method, source)}
            found = [own.get(count) for count in counts]
            cells = [f"{m['mape_percent']:.2f} / {m['kendall_tau']:.3f}" if m else "-" for m in found]
            rows.append((f"with {source}" if source else LABELS[method], cells))
            if any(m and "held" in m for m in found):
                shown = [
                    m and "held" in m and f"{100 * m['held']:.1f} at +{m['above_percent']:.1f}" for m in found
                ]
                rows.append(("  95% bound held, %", [cell or "-" for cell in shown]))
        width = max(20, *(len(label) for label, _ in rows))
        lines += [f"  {label:{width}}" + "".join(f"{cell:>14}" for cell in cells) for label, cells in rows]
    return "\n".join(lines)
