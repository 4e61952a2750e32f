"""Compare ways to predict latency on the same rows: error against number of rows, and transfer."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hat.errors import ConfigError
from hat.latency.costs import Floats, depth_only, least_squares
from hat.latency.predictor import COVERAGE, LatencyPredictor, Scores, score, split
from hat.latency.recipe import recipe_2020
from hat.latency.table import Row
from hat.space import FEATURE_NAMES

METHODS = ("predictor", "recipe_2020", "least_squares", "depth_only")
# Raise a method's number with every change that moves its figures: results of another number are made anew,
# as those in older journals, which have none, so that one table never mixes two versions. A change of what
# all share (split, scores, features) raises all of them, one of the predictor's training also `transfer`.
VERSIONS = {"predictor": 2, "recipe_2020": 1, "least_squares": 1, "depth_only": 1, "transfer": 2}
ALL = 0  # as a number of rows: all but the test rows
LEAST = 10  # rows to learn from
TRANSFER_ROWS = 20
SECONDS = {"recipe_2020": 25.0, "predictor": 0.3, "transfer": 0.3}  # one core; the others take next to none
_CONDITIONS = ("device", "threads", "dtype", "vocab_size", "beam", "source_len")


@dataclass(frozen=True)
class Table:
    """A latency table and the normalisers that the 2020 recipe uses for it."""

    name: str
    digest: str  # of the file: results in a journal are of this content
    rows: Sequence[Row]
    feature_norm: tuple[float, ...]
    lat_norm: float


@dataclass(frozen=True)
class Cell:
    """One training and its test; the test rows depend on table and seed alone."""

    table: Table
    method: str  # one of METHODS, or transfer
    num_rows: int
    seed: int
    source: Table | None = None  # of a transfer

    @property
    def key(self) -> dict[str, Any]:
        """Return what names this cell in a journal: all that its scores depend on."""
        return {
            "table": self.table.name,
            "digest": self.table.digest,
            "method": self.method,
            "version": VERSIONS[self.method],
            "settings": self._settings,
            "rows": self.num_rows,
            "seed": self.seed,
            "source": self.source.name if self.source else "",
            "source_digest": self.source.digest if self.source else "",
        }

    @property
    def _settings(self) -> dict[str, Any]:
        """Return the settings that the method reads, as a journal gives them back."""
        if self.method == "recipe_2020":
            return {"feature_norm": list(self.table.feature_norm), "lat_norm": self.table.lat_norm}
        return {}

    @property
    def estimate_s(self) -> float:
        """Return about how long it takes on one core."""
        return SECONDS.get(self.method, 0.05)


def learning_cells(
    tables: Sequence[Table], methods: Sequence[str], row_counts: Sequence[int], seeds: int
) -> list[Cell]:
    """Return the cells of error against number of rows, cheap methods first; raises ConfigError."""
    for method in methods:
        if method not in METHODS:
            raise ConfigError(f"--methods allows {', '.join(METHODS)}, got {method!r}")
    for count in row_counts:
        if count != ALL and count < LEAST:
            raise ConfigError(f"--rows must be 0 (all but the test rows) or at least {LEAST}, got {count}")
    if all(len(too_many(table, row_counts)) == len(row_counts) for table in tables):
        largest = max(tables, key=lambda table: len(table.rows))
        others = " (the other tables have no more)" if len(tables) > 1 else ""
        raise ConfigError(
            f"--rows {' '.join(map(str, row_counts))}: {largest.name} has {len(largest.rows)} rows{others}, "
            f"of which a tenth is for the test; give {possible(largest)}"
        )
    order = sorted(methods, key=lambda method: method == "recipe_2020")
    return [
        Cell(table, method, count, seed)
        for method in order
        for count in sorted(row_counts, key=lambda count: count or 10**9, reverse=True)
        for table in tables
        for seed in range(1, seeds + 1)
        if count not in too_many(table, row_counts)
    ]


def too_many(table: Table, row_counts: Sequence[int]) -> list[int]:
    """Return those of `row_counts` that a table has too few rows for."""
    return [count for count in row_counts if count > _most(table)]


def possible(table: Table) -> str:
    """Return in words which numbers of rows a table allows."""
    most = f"at most {_most(table)}, or " if _most(table) >= LEAST else ""
    return f"{most}{ALL} for all but the test rows"


def _most(table: Table) -> int:
    """Return the highest number of rows to learn from that is less than all but the test rows."""
    return (9 * len(table.rows) - 1) // 10


def transfer_cells(tables: Sequence[Table], seeds: int) -> list[Cell]:
    """Return the cells of transfer between all tables of equal spaces, beside 20 rows alone."""
    cells = []
    for target in tables:
        sources = [t for t in tables if t is not target and _space(t.rows) == _space(target.rows)]
        for seed in range(1, seeds + 1) if sources else ():
            cells.append(Cell(target, "predictor", TRANSFER_ROWS, seed))
            cells += [Cell(target, "transfer", TRANSFER_ROWS, seed, source) for source in sources]
    return cells


def run_cell(cell: Cell, sources: dict[str, LatencyPredictor]) -> dict[str, Any]:
    """Return the record of one cell: its key and scores on the test rows.

    `sources` keeps predictors of whole tables from one call to the next.
    """
    begun = time.perf_counter()
    train, test = split(len(cell.table.rows), cell.seed)
    chosen = np.sort(train[: cell.num_rows] if cell.num_rows != ALL else train)
    rows, unseen = [cell.table.rows[i] for i in chosen], [cell.table.rows[i] for i in test]
    truth = np.array([row.total_ms for row in unseen])
    more: dict[str, Any] = {}
    if cell.method in ("predictor", "transfer"):
        predictor = _predictor(cell, rows, sources)
        predicted = predictor.predict_rows(unseen)
        if predictor.max_coverage >= COVERAGE:
            margin = predictor.margin()
            more = {"held": float(np.mean(truth <= predicted * margin)), "above_percent": 100 * (margin - 1)}
    else:
        predicted = _fitted(cell, rows)(np.array([row.features for row in unseen]))
    return {
        **cell.key,
        **score(predicted, truth),
        "kendall_tau_b": kendall_tau_b(predicted, truth),
        **more,
        "seconds": round(time.perf_counter() - begun, 3),
    }


def kendall_tau_b(first: Floats, second: Floats) -> float:
    """Return Kendall's tau-b, -1 to 1; 0 if one side holds a single value.

    It leaves ties out on both sides, so a prediction that answers only easy pairs (depth alone ties a sixth
    of them) can score above one that answers all: see `kendall_tau`.
    """
    signs = [np.sign(each[:, None] - each) for each in (first, second)]
    norm = float(np.sqrt(np.sum(signs[0] ** 2) * np.sum(signs[1] ** 2)))
    return float(np.sum(signs[0] * signs[1])) / norm if norm else 0.0


def measured_again(again: Table, tables: Sequence[Table]) -> tuple[Table, int, Scores]:
    """Return which table `again` measured anew, how many of its rows, and how well the two agree.

    Noise of the measurement itself: no predictor can be expected to come nearer. The table is one measured
    under the same conditions, and not `again` itself. Raises ConfigError where no table has two of the rows.
    """
    ms = {row.arch: row.total_ms for row in again.rows if row.arch}
    for table in tables:
        both = [row for row in table.rows if row.arch in ms]
        if len(both) > 1 and table.digest != again.digest and _conditions(table) == _conditions(again):
            before = np.array([row.total_ms for row in both])
            return table, len(both), score(np.array([ms[row.arch] for row in both if row.arch]), before)
    raise ConfigError(
        f"--again {again.name}: none of the other tables holds two of its architectures, measured under the "
        "same conditions; measure with the options of one of them, its --seed included, and another "
        "--lat-dataset-path"
    )


def _conditions(table: Table) -> list[str | None]:
    return [table.rows[0].conditions.get(name) for name in _CONDITIONS]


def _fitted(cell: Cell, rows: Sequence[Row]) -> Callable[[Floats], Floats]:
    x, ms = np.array([row.features for row in rows]), np.array([row.total_ms for row in rows])
    if cell.method == "recipe_2020":
        return recipe_2020(x, ms, np.array(cell.table.feature_norm), cell.table.lat_norm, cell.seed)
    return {"least_squares": least_squares, "depth_only": depth_only}[cell.method](x, ms)


def _predictor(cell: Cell, rows: Sequence[Row], sources: dict[str, LatencyPredictor]) -> LatencyPredictor:
    if cell.source is None:
        return LatencyPredictor.fit(rows, seed=cell.seed, test=False)
    if cell.source.name not in sources:
        sources[cell.source.name] = LatencyPredictor.fit(cell.source.rows, test=False)
    return sources[cell.source.name].transferred(rows, seed=cell.seed)


def _space(rows: Sequence[Row]) -> tuple[object, ...]:
    """Return what tables of one search space share: widths, depths, and range of the decoder's averages."""
    columns = dict(zip(FEATURE_NAMES, zip(*(row.features for row in rows), strict=True), strict=True))

    def parts() -> Iterator[object]:
        for name, values in columns.items():
            if not name.endswith("_avg"):
                yield frozenset(values)
            elif name.startswith("decoder"):
                yield min(values), max(values)

    return (all(row.arch for row in rows), *parts())
