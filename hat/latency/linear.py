"""Linear models of latency: the two baselines of the report and the additive base the network corrects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hat.latency.metrics import Floats
from hat.space import FEATURE_NAMES, LAYER_FEATURE_NAMES

DEPTH = FEATURE_NAMES.index("decoder_layer_num")
REWEIGHTINGS = 3
FAR_OFF = 2.0  # median errors; beyond, a row counts by its distance alone
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # in rows; leaving one row out chooses among them
_ENCODER_WIDTH, _ENCODER_DEPTH, _DECODER_WIDTH = (
    FEATURE_NAMES.index(name) for name in ("encoder_embed_dim", "encoder_layer_num", "decoder_embed_dim")
)
_PER_LAYER = [
    [i for i, name in enumerate(LAYER_FEATURE_NAMES) if name.startswith(side) and name.endswith("_avg")]
    for side in ("encoder", "decoder")
]
_DEPTHS = (_ENCODER_DEPTH, DEPTH)
_FFN = [FEATURE_NAMES.index(f"{side}_ffn_embed_dim_avg") for side in ("encoder", "decoder")]
_SPAN = FEATURE_NAMES.index("decoder_arbitrary_ende_attn_avg")


def depth_only(features: Floats, latency_ms: Floats) -> Callable[[Floats], Floats]:
    """Return a straight line on the decoder's depth, fitted by least squares."""
    return _plain(features[:, DEPTH : DEPTH + 1], latency_ms, lambda x: x[:, DEPTH : DEPTH + 1])


def least_squares(features: Floats, latency_ms: Floats) -> Callable[[Floats], Floats]:
    """Return a sum of costs per layer, each linear in the layer's sizes, fitted by least squares.

    A cost of every layer is its average over the layers times their number.
    """
    return _plain(_additive(features), latency_ms, _additive)


def _additive(features: Floats) -> Floats:
    """Return what additive costs multiply, [rows, 12]: widths, depths, and depths times what layers have."""
    sides = []
    for side, width, depth in zip(_PER_LAYER, (_ENCODER_WIDTH, _DECODER_WIDTH), _DEPTHS, strict=True):
        averages = [i for i in side if i < len(FEATURE_NAMES)]
        layers = features[:, [depth]]
        sides += [features[:, [width]], layers, layers * features[:, [width, *averages]]]
    return np.hstack(sides)


@dataclass(frozen=True)
class Scaling:
    """What makes features comparable: mean and 1 / spread [features], the latter 0 where all rows agree."""

    mean: Floats
    inverse_spread: Floats

    @classmethod
    def of(cls, features: Floats) -> "Scaling":
        """Return the scaling of rows [rows, features]."""
        return cls(features.mean(axis=0), 1 / column_spread(features))

    def standard(self, features: Floats) -> Floats:
        """Return features less their mean, divided by their spread."""
        return (features - self.mean) * self.inverse_spread

    def columns(self, features: Floats) -> Floats:
        """Return what latency is a sum of, [rows, columns]; the last column is the decoder's depth.

        What a layer costs beyond the average layer enters times the number of layers, so a fit with few rows
        falls back to a line on the depth. A depth that was always the same counts as that one.
        """
        x = self.standard(features)
        known = np.where(self.inverse_spread > 0, features, self.mean)
        encoder_depth, depth = known[:, [_ENCODER_DEPTH]], known[:, [DEPTH]]
        wide_encoder, wide_decoder = x[:, [_ENCODER_WIDTH]], x[:, [_DECODER_WIDTH]]
        in_encoder, in_decoder = ([i for i in numbers if i < x.shape[1]] for numbers in _PER_LAYER)
        return np.hstack(
            [
                wide_encoder,
                wide_decoder,
                x[:, [_ENCODER_DEPTH]],
                encoder_depth * np.hstack([wide_encoder, x[:, in_encoder]]),
                encoder_depth * wide_encoder * x[:, [_FFN[0]]],
                depth * np.hstack([wide_decoder, x[:, in_decoder]]),
                depth * wide_decoder * x[:, [_FFN[1]]],
                depth * wide_encoder * x[:, [_SPAN]],
                depth * depth,
                depth,
            ]
        )


def fit_ridge(columns: Floats, latency: Floats, weight: Floats, free: int | Sequence[int]) -> Floats:
    """Return coefficients [columns + 1] of `columns` [rows, columns] and a constant, the constant last.

    Fitted to relative errors; a ridge holds all coefficients together but those of the constant and of column
    `free`. Its strength is the one with the lowest error on rows left out one at a time (closed form). Rows
    far off count less (Huber's loss, by iteratively reweighted least squares), because tables hold disturbed
    rows; `weight` [rows] says what is known of them beforehand. Constant columns get 0.
    """
    mean, spread = columns.mean(axis=0), column_spread(columns)
    scale = float(1 / np.mean(1 / latency))
    design = np.hstack([(columns - mean) / spread, np.ones((len(columns), 1))]) * (scale / latency)[:, None]
    penalty = np.ones(design.shape[1])
    penalty[np.atleast_1d(free)] = penalty[-1] = 0
    best, lowest = np.zeros(len(penalty)), np.inf
    for ridge in RIDGES:
        robust = np.ones(len(design))
        for _ in range(1 + REWEIGHTINGS):
            square = robust * weight
            moments = design.T @ (design * square[:, None]) + np.diag(ridge * penalty + 1e-9)
            influence = np.linalg.solve(moments, design.T * square)  # [columns + 1, rows]
            solution = influence.sum(axis=1)
            leverage = np.minimum(np.einsum("rc,cr->r", design, influence), 1 - 1e-6)
            error = np.abs(design @ solution - 1) / (1 - leverage)
            robust = 1 / np.maximum(error, FAR_OFF * np.median(error) + 1e-9)
            robust /= robust.mean()
        if np.mean(error * weight) < lowest:
            best, lowest = solution, float(np.mean(error * weight))
    slopes = scale * best[:-1] / spread
    return np.append(slopes, scale * best[-1] - slopes @ mean)


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
