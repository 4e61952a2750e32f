"""Linear models of latency: the two baselines of the report and the base the network corrects."""

from collections.abc import Callable

import numpy as np

from hat.arch.features import FEATURE_NAMES
from hat.latency.metrics import Floats

DEPTH = FEATURE_NAMES.index("decoder_layer_num")
REWEIGHTINGS = 3
RIDGE = 0.3  # in rows; holds 20 coefficients together below 100 rows, does nothing above 300


def depth_only(features: Floats, latency_ms: Floats) -> Callable[[Floats], Floats]:
    """Return a straight line on the decoder's depth, fitted by least squares."""
    return _plain(features[:, DEPTH : DEPTH + 1], latency_ms, lambda x: x[:, DEPTH : DEPTH + 1])


def least_squares(features: Floats, latency_ms: Floats) -> Callable[[Floats], Floats]:
    """Return a linear function of all features, fitted by least squares."""
    return _plain(features, latency_ms, lambda x: x)


def base_columns(features: Floats) -> Floats:
    """Return features, features times decoder depth, and ones: [rows, 2 * features + 1].

    The decoder's features are averages over its layers, so what a layer costs enters times the depth.
    """
    return np.hstack([features, features * features[:, DEPTH : DEPTH + 1], np.ones((len(features), 1))])


def fit_base(features: Floats, latency: Floats) -> Floats:
    """Return coefficients for `base_columns`, fitted to relative errors with a little ridge.

    Rows far off count less (iteratively reweighted least squares towards absolute errors), because tables
    hold blocks of rows measured on a busy device. Features that are constant get the coefficient 0.
    """
    columns = base_columns(features)[:, :-1]
    mean, spread = columns.mean(axis=0), column_spread(columns)
    spread[np.tile(np.isinf(column_spread(features)), 2)] = np.inf  # a constant times the depth is the depth
    scale = float(1 / np.mean(1 / latency))
    design = np.hstack([(columns - mean) / spread, np.ones((len(columns), 1))]) * (scale / latency)[:, None]
    penalty = np.sqrt(RIDGE) * np.eye(design.shape[1])
    penalty[-1] = 0  # the intercept is free
    weight = np.ones(len(design))
    for _ in range(1 + REWEIGHTINGS):
        left, right = np.vstack([design * weight[:, None], penalty]), np.append(weight, penalty[-1])
        solution = np.linalg.lstsq(left, right, rcond=None)[0]
        error = np.abs(design @ solution - 1)
        weight = 1 / np.sqrt(np.maximum(error, np.median(error) + 1e-9))
        weight /= np.sqrt(np.mean(weight**2))
    slopes = scale * solution[:-1] / spread
    return np.append(slopes, scale * solution[-1] - slopes @ mean)


def column_spread(columns: Floats) -> Floats:
    """Return each column's standard deviation, infinite where the column is constant."""
    spread = columns.std(axis=0)
    constant = spread <= 1e-9 * np.maximum(np.abs(columns).max(axis=0), 1e-300)
    return np.where(constant, np.inf, spread)


def _plain(
    columns: Floats, latency_ms: Floats, pick: Callable[[Floats], Floats]
) -> Callable[[Floats], Floats]:
    mean, spread = columns.mean(axis=0), column_spread(columns)
    design = np.hstack([(columns - mean) / spread, np.ones((len(columns), 1))])
    solution = np.linalg.lstsq(design, latency_ms, rcond=None)[0]
    return lambda x: ((pick(x) - mean) / spread) @ solution[:-1] + solution[-1]
