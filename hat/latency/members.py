"""The trained part of a predictor: five members that each left a fifth of the rows out."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hat.latency.linear import Scaling, fit_ridge
from hat.latency.metrics import Floats
from hat.latency.network import Nets, Training, train_nets

NUM_MEMBERS = 5
MIN_GAIN = 0.5  # networks must lower the error by this share over the root of the number of rows
MAX_LOG_RATIO = float(np.log(4))  # far from the training rows a network may not run away from its base


@dataclass(frozen=True)
class Members:
    """log latency in ms of member k = log base_k(x) + net_k(x); the prediction is their mean.

    The base is linear in `Scaling.columns`: what layers cost adds up. The network learns what that misses; it
    is left out (maps all to 0) where that is nothing.
    """

    scaling: Scaling
    base: Floats  # [members, columns + 1]
    floor_ms: float  # lowest value of a base
    nets: Nets

    def predict(self, features: Floats) -> Floats:
        """Return latencies in ms [rows] of features [rows, features]."""
        latency: Floats = np.exp(self.log_ms(features).mean(axis=0))
        return latency

    def log_ms(self, features: Floats) -> Floats:
        """Return the logarithm of the latency in ms, [members, rows], of features [rows, features]."""
        standard = self.scaling.standard(features)
        with torch.inference_mode():
            x = torch.from_numpy(standard).expand(len(self.base), -1, -1)
            ratio = self.nets(x).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).numpy()
        logs: Floats = np.log(self.base_ms(features)) + ratio
        return logs

    @property
    def has_networks(self) -> bool:
        """Return whether the networks are more than placeholders that map everything to 0."""
        return bool(self.nets.weights[-1].any())

    def base_ms(self, features: Floats) -> Floats:
        """Return the bases in ms [members, rows]."""
        columns = self.scaling.columns(features)
        latency: Floats = np.maximum(self.base[:, :-1] @ columns.T + self.base[:, -1:], self.floor_ms)
        return latency


def fit_members(
    features: Floats,
    ms: Floats,
    weight: Floats,
    cfg: Training,
    on_check: Callable[[int, float], object] | None = None,
) -> tuple[Members, Floats]:
    """Return members fitted to rows, and log(measured / predicted) [rows] by the member that left each out.

    The networks stay where they lower the error on rows left out by more than chance may. `features` [rows,
    features], latencies `ms` [rows], `weight` [rows] what a row counts.
    """
    scaling = Scaling.of(features)
    columns = scaling.columns(features)
    fold = folds(len(ms), cfg.seed)
    base = np.stack(
        [
            fit_ridge(columns[fold != k], ms[fold != k], weight[fold != k], free=columns.shape[1] - 1)
            for k in range(NUM_MEMBERS)
        ]
    )
    members = Members(scaling, base, float(ms.min() / 2), _no_nets(features))
    target = np.log(ms / members.base_ms(features))
    nets = train_nets(scaling.standard(features), target, fold, weight, cfg, on_check)
    nets = nets.double().requires_grad_(False)  # double: one row or many, the same result
    with_nets = replace(members, nets=nets)
    plain, corrected = (_left_out(m, features, ms, fold) for m in (members, with_nets))
    ratio = np.average(np.abs(corrected), weights=weight) / np.average(np.abs(plain), weights=weight)
    if ratio < 1 - MIN_GAIN / len(ms) ** 0.5:
        return with_nets, corrected
    return members, plain


def transfer(old: Members, features: Floats, ms: Floats, weight: Floats, seed: int) -> tuple[Members, Floats]:
    """Return members for another device, from those of an `old` one and few rows; all else as `fit_members`.

    Three ways are tried: the old latency times a constant; that plus additive costs and a line on the depth;
    the new rows alone. The one with the lowest error on rows left out is returned.
    """
    fold = folds(len(ms), seed)
    columns, old_ms = old.scaling.columns(features), old.base_ms(features)
    depth = columns.shape[1] - 1
    ratio = np.exp(old.log_ms(features)) / old_ms  # what the old networks add
    scaled, corrected, alone = [], [], []
    for k in range(NUM_MEMBERS):
        rows = fold != k
        target, count = ms[rows] / ratio[k, rows], weight[rows]
        scaled.append(_median(target / old_ms[k, rows], count) * old.base[k])
        with_old = np.hstack([columns, old_ms[k][:, None]])[rows]
        found = fit_ridge(with_old, target, count, free=(depth, depth + 1))
        corrected.append(np.delete(found, depth + 1) + found[depth + 1] * old.base[k])
        alone.append(fit_ridge(columns[rows], ms[rows], count, free=depth))
    old = replace(old, floor_ms=float(ms.min() / 2))
    tried = [replace(old, base=np.stack(base)) for base in (scaled, corrected)]
    tried.append(replace(old, base=np.stack(alone), nets=_no_nets(features)))
    residuals = [_left_out(members, features, ms, fold) for members in tried]
    best = int(np.argmin([np.average(np.abs(residual), weights=weight) for residual in residuals]))
    return tried[best], residuals[best]


def _median(values: Floats, weight: Floats) -> float:
    """Return the value with half of the weight on either side, the usual median where all weights agree."""
    order = np.argsort(values)
    below = np.cumsum(weight[order]) / np.sum(weight)
    low, high = (int(np.searchsorted(below, 0.5, side)) for side in ("left", "right"))
    return float(values[order][[low, min(high, len(order) - 1)]].mean())


def _no_nets(features: Floats) -> Nets:
    """Return the smallest networks; they map everything to 0."""
    return Nets(NUM_MEMBERS, features.shape[1], 1, 0).double().requires_grad_(False)


def folds(count: int, seed: int) -> NDArray[np.int64]:
    """Return which member leaves each of `count` rows out."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order.numpy() % NUM_MEMBERS


def _left_out(members: Members, features: Floats, ms: Floats, fold: NDArray[np.int64]) -> Floats:
    return np.log(ms) - members.log_ms(features)[fold, np.arange(len(ms))]
