"""The fit behind a latency predictor: costs of layers, and a network for what they miss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hat.space import LAYER_FEATURE_NAMES, SIDES

Floats = NDArray[np.float64]
Chosen = NDArray[np.bool_]
Layers = Sequence[tuple[Floats, Floats]]  # weight [in, out] and bias [out] of each linear layer of a network
FOLDS = 5  # parts of the rows; each is left out once, to see how far the truth lies from a prediction
WIDTH, HIDDEN_LAYERS = 16, 2  # of the network
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 1000, 128, 5e-3, 0.1
CHECK_EVERY, PATIENCE = 20, 200  # steps between looks at the rows left out; steps without progress
NOISE = 0.5  # the network counts by how far its gain on rows left out exceeds NOISE / sqrt(rows)
LEAST_SHARE = 0.1  # of the network, if its gain may be chance
MAX_LOG_RATIO = float(np.log(4))  # far from the training rows a network may not run away from the sum
REWEIGHTINGS = 3
FAR_OFF = 2.0  # median errors; beyond, a row counts by its distance alone
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # in rows; leaving one row out chooses among them
_AT = {name: [i] for i, name in enumerate(LAYER_FEATURE_NAMES)}


def depth_only(features: Floats, latency_ms: Floats) -> Callable[[Floats], Floats]:
    """Return a straight line on the decoder's depth, fitted by least squares: a baseline."""
    (at,) = _AT["decoder_layer_num"]
    middle, off = features[:, at].mean(), features[:, at] - features[:, at].mean()
    slope = off @ latency_ms / max(off @ off, 1e-9)
    return lambda x: latency_ms.mean() + slope * (x[:, at] - middle)


@dataclass(frozen=True)
class Scaling:
    """What makes features comparable: mean and 1 / spread [features], the latter 0 if all rows agree."""

    mean: Floats
    inverse_spread: Floats

    @classmethod
    def of(cls, features: Floats) -> "Scaling":
        """Return the scaling of rows [rows, features]."""
        spread = features.std(axis=0)
        constant = spread <= 1e-9 * np.maximum(np.abs(features).max(axis=0), 1e-300)
        return cls(features.mean(axis=0), 1 / np.where(constant, np.inf, spread))

    def standard(self, features: Floats) -> Floats:
        """Return features less their mean, divided by their spread."""
        return (features - self.mean) * self.inverse_spread

    def columns(self, features: Floats) -> Floats:
        """Return what latency is a sum of, [rows, columns]; the last column is the decoder's depth. What a
        layer costs beyond the average layer enters times the number of layers, so a fit with few rows falls
        back to a line on the depth. A depth that was always the same counts as that one.
        """
        x, known = self.standard(features), np.where(self.inverse_spread > 0, features, self.mean)
        ends, costs = list[Floats](), list[Floats]()
        for side in SIDES:
            averages = [i for name, (i,) in _AT.items() if name.startswith(side) and name.endswith("_avg")]
            inner = x[:, [i for i in averages if i < x.shape[1]]]
            width, depth = x[:, _AT[f"{side}_embed_dim"]], known[:, _AT[f"{side}_layer_num"]]
            ends.append(width)
            costs.append(depth * np.hstack([width, inner, width * x[:, _AT[f"{side}_ffn_embed_dim_avg"]]]))
        spans = depth * ends[0] * x[:, _AT["decoder_arbitrary_ende_attn_avg"]]
        deep = x[:, _AT["encoder_layer_num"]]
        return np.hstack([*ends, deep, *costs, spans, depth * depth, depth])


def fit_ridge(columns: Floats, latency: Floats, free: int | Sequence[int] = -2) -> Floats:
    """Return coefficients [columns + 1] of `columns` [rows, columns] and a constant, the last, fitted to
    relative errors. A ridge holds all but the constant and `free` (default: the last column); its strength
    has the lowest error on rows left out one by one. Disturbed rows count less; constant columns get 0.
    """
    scaling, scale = Scaling.of(columns), float(1 / np.mean(1 / latency))
    design = np.hstack([scaling.standard(columns), np.ones((len(columns), 1))]) * (scale / latency)[:, None]
    penalty = np.ones(design.shape[1])
    penalty[np.atleast_1d(free)] = penalty[-1] = 0
    best, lowest = np.zeros(len(penalty)), np.inf
    for ridge in RIDGES:
        robust = np.ones(len(design))
        for _ in range(1 + REWEIGHTINGS):
            moments = design.T @ (design * robust[:, None]) + np.diag(ridge * penalty + 1e-9)
            influence = np.linalg.solve(moments, design.T * robust)  # [columns + 1, rows]
            solution = influence.sum(axis=1)
            leverage = np.minimum(np.einsum("rc,cr->r", design, influence), 1 - 1e-6)
            error = np.abs(design @ solution - 1) / (1 - leverage)
            robust = 1 / np.maximum(error, FAR_OFF * np.median(error) + 1e-9)
            robust /= robust.mean()
        if np.mean(error) < lowest:
            best, lowest = solution, float(np.mean(error))
    slopes = scale * best[:-1] * scaling.inverse_spread
    return np.append(slopes, scale * best[-1] - slopes @ scaling.mean)


def sum_of(columns: Floats, base: Floats, floor_ms: float) -> Floats:
    """Return `columns` [rows, columns] times coefficients of `fit_ridge`, in ms and at least the floor."""
    return np.asarray(np.maximum(columns @ base[:-1] + base[-1], floor_ms))


def apply_network(layers: Layers, x: Floats) -> Floats:
    """Return the output [..., rows] of a network of linear layers with ReLU, for x [..., rows, in]."""
    *inner, (weight, bias) = layers
    for hidden, shift in inner:
        x = np.maximum(x @ hidden + shift, 0)
    return np.asarray((x @ weight + bias)[..., 0])


@dataclass(frozen=True)
class CostModel:
    """latency in ms = base(x) * exp(network(x)); base(x) = columns(x) @ base[:-1] + base[-1]."""

    scaling: Scaling
    base: Floats  # [columns + 1]
    floor_ms: float  # lowest value of the base
    layers: Layers

    def predict(self, features: Floats) -> Floats:
        """Return latencies in ms [rows] of features [rows, features]."""
        ratio = apply_network(self.layers, self.scaling.standard(features))
        return np.asarray(self.base_ms(features) * np.exp(ratio.clip(-MAX_LOG_RATIO, MAX_LOG_RATIO)))

    def base_ms(self, features: Floats) -> Floats:
        """Return what the costs of layers add up to, in ms [rows]."""
        return sum_of(self.scaling.columns(features), self.base, self.floor_ms)


def groups_of(features: Floats) -> NDArray[np.int64]:
    """Return a number for each row: one for each architecture, or for each row if those are below FOLDS."""
    known: dict[bytes, int] = {}
    groups = np.array([known.setdefault(row.tobytes(), len(known)) for row in features])
    return groups if len(known) >= FOLDS else np.arange(len(features))


def folds(features: Floats, seed: int) -> Chosen:
    """Return [FOLDS, rows]: whether each row is left out of each fold."""
    groups = groups_of(features)
    order = torch.randperm(int(groups.max()) + 1, generator=torch.Generator().manual_seed(seed))
    return np.asarray(order.numpy()[groups] % FOLDS == np.arange(FOLDS)[:, None])


def fit_costs(features: Floats, ms: Floats, seed: int) -> tuple[CostModel, Floats]:
    """Return a model of all rows, and log(measured / predicted) [rows] as predicted without each row's fold.
    The network learns log(measured / base); five more fits, each without a fifth of the rows, say how long to
    train it and how much of it to use: its gain on rows left out less what chance may give.
    """
    scaling, out, floor_ms = Scaling.of(features), folds(features, seed), float(ms.min() / 2)
    columns, x = scaling.columns(features), scaling.standard(features)
    used = np.vstack([~out, np.ones(len(ms), dtype=bool)])
    bases = [fit_ridge(columns[rows], ms[rows]) for rows in used]
    target = np.log(ms / np.stack([sum_of(columns, base, floor_ms) for base in bases]))  # [FOLDS + 1, rows]
    layers = _train(x, target, used, seed)
    plain, network = target[:-1].T[out.T], apply_network(layers, x)[:-1].T[out.T]
    before, after = (float(np.mean(np.abs(rest))) for rest in (plain, plain - network))
    gain = 1 - after / before if before > 0 else 0.0
    share = float(np.clip(1 - NOISE / len(ms) ** 0.5 / max(gain, 1e-9), LEAST_SHARE, 1))
    *inner, last = ((each[-1], shift[-1, 0]) for each, shift in layers)
    scaled = (*inner, (share * last[0], share * last[1]))
    return CostModel(scaling, bases[-1], floor_ms, scaled), plain - share * network


def _train(x: Floats, target: Floats, used: Chosen, seed: int) -> Layers:
    # Network k learns target[k] from the rows used[k]; the layers of all have one axis in front. All stop
    # when those with rows left out have the lowest error there. The absolute error learns the median.
    count, unit = len(target), float(np.median(np.abs(target))) or 1.0
    rng = torch.Generator().manual_seed(seed)
    sizes = [x.shape[1], *[WIDTH] * HIDDEN_LAYERS, 1]
    parameters = []
    for inner, outer in zip(sizes, sizes[1:], strict=False):
        scale = (3 / inner) ** 0.5 if outer > 1 else 0.0  # the untrained network gives 0
        for bound, rows in ((scale, inner), (float(scale > 0), 1)):
            initial = bound * (2 * torch.rand(rows, outer, generator=rng) - 1)
            parameters.append(initial.repeat(count, 1, 1).requires_grad_())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    arrays = x, target / unit, used, ~used[:-1]
    inputs, wanted, counts, tests = (torch.tensor(each, dtype=torch.float32) for each in arrays)

    def error(rows: Tensor | slice) -> Tensor:
        h = inputs[rows].expand(count, -1, -1)
        for number in range(0, len(parameters), 2):
            h = torch.baddbmm(parameters[number + 1], F.relu(h) if number else h, parameters[number])
        return (h.squeeze(-1) - wanted[:, rows]).abs()

    best, lowest, at = parameters, float("inf"), 0
    for step in range(1, STEPS + 1):
        rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=rng)
        optimizer.zero_grad()
        (error(rows) * counts[:, rows]).mean(1).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % CHECK_EVERY:
            continue
        with torch.no_grad():
            now = float((error(slice(None))[:-1] * tests).sum() / tests.sum())
        if now < lowest:
            best, lowest, at = [each.detach().clone() for each in parameters], now, step
        elif step - at >= PATIENCE:
            break
    found = [each.detach().double().numpy() for each in best]
    return [*zip(found[:-2:2], found[1:-2:2], strict=True), (unit * found[-2], unit * found[-1])]


def transfer_costs(old: CostModel, features: Floats, ms: Floats, seed: int) -> tuple[CostModel, Floats]:
    """Return a model for another device from an `old` one and few rows, of three the best on rows left out:
    the old latency times a constant; that plus additive costs and a line on the depth; the new rows alone.
    """
    old = replace(old, floor_ms=float(ms.min() / 2))
    columns, old_ms, old_base = old.scaling.columns(features), old.predict(features), old.base_ms(features)
    depth = columns.shape[1] - 1

    def scaled(rows: Chosen) -> CostModel:
        return replace(old, base=old.base * np.median(ms[rows] / old_ms[rows]))

    def corrected(rows: Chosen) -> CostModel:
        both, target = np.hstack([columns, old_base[:, None]])[rows], (ms * old_base / old_ms)[rows]
        found = fit_ridge(both, target, free=(depth, depth + 1))
        return replace(old, base=np.delete(found, depth + 1) + found[depth + 1] * old.base)

    tried = [fit_costs(features, ms, seed)]
    for way in (scaled, corrected):
        rest = np.empty(len(ms))
        for out in folds(features, seed):
            rest[out] = np.log(ms[out] / way(~out).predict(features[out]))
        tried.append((way(np.ones(len(ms), dtype=bool)), rest))
    return min(tried, key=lambda each: float(np.mean(np.abs(each[1]))))
