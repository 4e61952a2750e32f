"""How well predicted latencies agree with measured ones."""

import math
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Scores(TypedDict):
    """Agreement on one set of rows."""

    mape_percent: float
    rmse_ms: float
    kendall_tau: float


def score(predicted_ms: Floats, measured_ms: Floats) -> Scores:
    """Return mean absolute percentage error (percent), root mean square error (ms) and Kendall's tau."""
    error = predicted_ms - measured_ms
    return {
        "mape_percent": float(100 * np.mean(np.abs(error) / measured_ms)),
        "rmse_ms": float(np.sqrt(np.mean(error**2))),
        "kendall_tau": kendall_tau(predicted_ms, measured_ms),
    }


def kendall_tau(predicted: Floats, measured: Floats) -> float:
    """Return (pairs ordered alike - pairs ordered otherwise) / pairs that differ in `measured`, -1 to 1.

    A tie in `predicted` counts as no answer, as if a coin ordered the pair: tau-a where all measured values
    differ, Somers' D of the prediction in general. 0 where one side holds a single value.
    """
    agreement, _, untied = _pairs(predicted, measured)
    return agreement / untied if untied else 0.0


def kendall_tau_b(first: Floats, second: Floats) -> float:
    """Return Kendall's tau-b, -1 to 1; 0 where one side holds a single value.

    It leaves ties out on both sides, so a prediction that answers only easy pairs (depth alone ties a sixth
    of them) can score above one that answers all: see `kendall_tau`.
    """
    agreement, untied_first, untied_second = _pairs(first, second)
    return agreement / math.sqrt(untied_first * untied_second) if untied_first and untied_second else 0.0


def _pairs(first: Floats, second: Floats) -> tuple[float, float, float]:
    """Return agreements less disagreements, and untied pairs of either side.

    Quadratic in time, linear in memory: 20,000 pairs take about a second.
    """
    agreement = untied_first = untied_second = 0.0
    for i in range(len(first) - 1):
        a = np.sign(first[i + 1 :] - first[i])
        b = np.sign(second[i + 1 :] - second[i])
        agreement += float(a @ b)
        untied_first += float(a @ a)
        untied_second += float(b @ b)
    return agreement, untied_first, untied_second
