"""The rows of a latency table beside what a predictor says of them, and whether it learnt from them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hat.latency.costs import Floats
from hat.latency.predictor import MIN_ROWS, LatencyPredictor, score, split
from hat.latency.table import Row
from hat.report.run import Latencies

_SAME = 1e-4  # relative difference of scores that are of the same rows, on whatever machine


def latencies_of(
    predictor: LatencyPredictor, rows: Sequence[Row], config: Mapping[str, Any], table: str
) -> Latencies:
    """Return the rows to show: those that training left out, or all where it cannot be told which these are.

    `config` is what latency_predictor.py wrote beside the predictor, `table` the name of the file of `rows`.
    Nothing that it says is believed: rows may have been appended since, or the file may be another.
    """
    ms = np.array([row.total_ms for row in rows], dtype=np.float64)
    predicted = predictor.predict_rows(rows)
    report: Mapping[str, Any] = predictor.report or {}
    seed = config.get("seed")
    unseen = _left_out(predicted, ms, report, seed if isinstance(seed, int) else 1)
    learnt: bool | None = None
    if unseen:
        learnt = False
        source = f"{len(unseen)} of the {len(rows)} rows of {table}, which the predictor did not learn from"
    elif config.get("transfer-from"):
        learnt = True if report.get("rows") == len(rows) else None  # some were appended
        source = (
            f"the {len(rows)} rows of {table}; the predictor started from one of another device and learnt "
            f"from all {report.get('rows', len(rows))} rows that it was given of this one, its scores are of "
            "each row as predicted without it"
        )
    else:
        source = (
            f"the {len(rows)} rows of {table}; which of them the predictor learnt from is not known, as its "
            "scores are those of other rows"
        )
    shown = unseen or list(range(len(rows)))
    return Latencies(
        tuple(ms[shown].tolist()),
        tuple(predicted[shown].tolist()),
        report,
        predictor.conditions,
        source,
        learnt,
    )


def _left_out(predicted: Floats, ms: Floats, report: Mapping[str, Any], seed: int) -> list[int]:
    """Return the numbers of the rows that the scores of a report are of, none where they are of others.

    The table may have had fewer rows at training; a tenth of them was left out.
    """
    known = [report.get(name) for name in ("mape_percent", "rmse_ms")]
    held = report.get("rows")  # not in files of format 1
    most, least = (min(len(ms), 10 * held + 9), MIN_ROWS) if isinstance(held, int) else (len(ms), len(ms))
    for count in range(most, least - 1, -1):
        test = split(count, seed)[1]
        if isinstance(held, int) and len(test) != held:
            break
        found = score(predicted[test], ms[test])
        pairs = zip(known, (found["mape_percent"], found["rmse_ms"]), strict=True)
        if all(isinstance(a, int | float) and math.isclose(a, b, rel_tol=_SAME) for a, b in pairs):
            rows: list[int] = test.tolist()
            return rows
    return []
