"""Predict the latency of an architecture, in ms, and how far above that it may lie."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from hat.errors import CheckpointError, ConfigError, DataError, brief
from hat.files.atomic import digest_matches, write_with_digest
from hat.files.tensors import read_foreign
from hat.latency.costs import (
    FOLDS,
    MAX_LOG_RATIO,
    CostModel,
    Floats,
    Scaling,
    apply_network,
    depth_only,
    fit_costs,
    folds,
    least_squares,
    transfer_costs,
)
from hat.latency.drift import Block, drifting_rows, find_blocks, row_weights
from hat.latency.table import Row, read_table
from hat.rng import rng_for, seed_for
from hat.space import FEATURE_NAMES, LAYER_FEATURE_NAMES, Arch, features, layer_features

MIN_ROWS = 10
COVERAGE = 0.95
BASELINES = {"depth_only": depth_only, "least_squares": least_squares}
FORMAT = 3  # 2: five members instead of one; 1: a network of the release on top of a linear base
MAX_BYTES = 1 << 28
_DEPTH = FEATURE_NAMES.index("decoder_layer_num")


class Scores(TypedDict):
    """Agreement of predicted with measured latencies on one set of rows."""

    mape_percent: float
    rmse_ms: float
    kendall_tau: float


# Scores on rows that the training did not see; `rows`, their number; `baselines`, scores of each; `bound`,
# None or {coverage, above_percent of the prediction, held: share of the rows}; `drift`, blocks of the table,
# rows counted from 0; if the predictor started from another device's, `old_drift`, the blocks of its table.
Report = dict[str, Any]


class LatencyPredictor:
    """Predicts latencies, and from rows left out of the training how far the truth may lie above.

    A sum of what layers cost, times the exponential of a small network (docs/predictor.md). Predictors of the
    2020 release, and of format 1, were fitted without rows left out: they have no bound.

    Attributes:
        report: scores on rows that the training did not see; None if there were none.
        conditions: what all rows of the table share: device, threads, number format, lengths, ...
        drift: blocks of the table that were measured while the device was slower or faster.
        unseen: (measured, predicted) latency in ms of each row that the report is of; empty after loading.
    """

    unseen: tuple[tuple[float, float], ...] = ()

    def __init__(
        self,
        model: "CostModel | _AveragesModel",
        feature_names: Sequence[str],
        residuals: Sequence[float] = (),
        report: Report | None = None,
        conditions: Mapping[str, str] | None = None,
        drift: Sequence[Block] = (),
    ) -> None:
        self._model = model
        self._feature_names = tuple(feature_names)
        self._residuals = np.sort(np.array(residuals, dtype=np.float64))  # log(measured / predicted)
        self.report, self.conditions, self.drift = report, dict(conditions or {}), tuple(drift)

    @classmethod
    def fit(
        cls, table: Sequence[Row] | str | Path, *, seed: int = 1, test: bool = True
    ) -> "LatencyPredictor":
        """Return a predictor trained on a latency table; a pure function, 0.5 s for 2,000 rows.

        Args:
            table: rows in the order of measuring, or a CSV file. Blocks of drifting rows count less.
            seed: seed of the split, the initial weights and the batches.
            test: keep a tenth of the rows out, for the report; else all are learnt and there is no report.

        Raises DataError for fewer than 10 rows.
        """
        rows = _rows_of(table)
        _check_enough(rows, MIN_ROWS if test else MIN_ROWS - 2, "train a predictor")
        train, unseen = split(len(rows), seed) if test else (np.arange(len(rows)), np.arange(0))
        train.sort()
        chosen, others = ([rows[i] for i in part] for part in (train, unseen))
        names = LAYER_FEATURE_NAMES if all(row.arch for row in rows) else FEATURE_NAMES
        x, ms = _inputs(chosen, names), _milliseconds(chosen)
        blocks, weight = drifting_rows(x, ms)
        model, residuals = fit_costs(x, ms, weight, seed_for(seed, "latency-predictor"))
        drift = [Block(int(train[block.first]), int(train[block.last]), block.percent) for block in blocks]
        found = cls(model, names, residuals.tolist(), None, _shared_conditions(rows), drift)
        if test:
            raw = _inputs(chosen, FEATURE_NAMES)
            baselines = {
                name: fit(raw, ms)(_inputs(others, FEATURE_NAMES)) for name, fit in BASELINES.items()
            }
            found.report = found._report(others, found.predict_rows(others), baselines, bound=True)
        return found

    def transferred(
        self,
        table: Sequence[Row] | str | Path,
        *,
        seed: int = 1,
    ) -> "LatencyPredictor":
        """Return a predictor for the device of `table` from this one for another device; 20 rows do.

        Its report is of each row as predicted without the row's fold. Rows stand in the order of measuring:
        from 24 on, blocks of drifting ones are found and count less. Raises DataError for fewer than 10 rows
        or rows without the features this predictor reads, CheckpointError if this one is of format 1 or of
        the release.
        """
        rows = _rows_of(table)
        _check_enough(rows, MIN_ROWS, "transfer a predictor")
        if not isinstance(self._model, CostModel):
            raise CheckpointError(
                "only predictors trained by this version can be transferred; give the table (CSV) of the "
                "old device instead, or train its predictor again"
            )
        if len(self._feature_names) > len(FEATURE_NAMES) and not all(row.arch for row in rows):
            raise DataError(
                "the old predictor reads whole architectures, which the new table does not hold; give the "
                "table (CSV) of the old device instead of its predictor"
            )
        x, ms, stream = _inputs(rows, self._feature_names), _milliseconds(rows), seed_for(seed, "transfer")
        blocks, weight = list[Block](), np.ones(len(rows))
        model, residuals = transfer_costs(self._model, x, ms, weight, stream)
        for _ in range(2):  # again without the blocks, so that those do not hide themselves
            blocks = find_blocks(residuals)
            weight = row_weights(residuals, blocks)
            model, residuals = transfer_costs(self._model, x, ms, weight, stream)
        found = LatencyPredictor(
            model, self._feature_names, residuals.tolist(), None, _shared_conditions(rows), blocks
        )
        raw = _inputs(rows, FEATURE_NAMES)
        baselines = {name: np.empty(len(rows)) for name in BASELINES}
        for (name, fit), out in (
            (each, out) for each in BASELINES.items() for out in folds(len(rows), stream)
        ):
            baselines[name][out] = fit(raw[~out], ms[~out])(raw[out])
        found.report = found._report(rows, ms / np.exp(residuals), baselines, bound=False)
        found.report["old_drift"] = [asdict(block) for block in self.drift]
        return found

    def predict_ms(self, arch: Arch) -> float:
        """Return the predicted latency of one architecture in ms."""
        return self.predict_many([arch])[0]

    def predict_many(self, archs: Sequence[Arch]) -> list[float]:
        """Return the predicted latency of each architecture in ms."""
        per_layer = len(self._feature_names) > len(FEATURE_NAMES)
        raw = np.array([layer_features(arch) if per_layer else features(arch) for arch in archs])
        values: list[float] = self.predict_features(raw).tolist()
        return values

    def predict_rows(self, rows: Sequence[Row]) -> Floats:
        """Return the predicted latency in ms of the architecture of each row of a table [rows]."""
        return self.predict_features(_inputs(rows, self._feature_names))

    def predict_features(self, raw: Floats) -> Floats:
        """Return latencies in ms [rows] of features [rows, features] that this predictor reads."""
        return self._model.predict(raw.reshape(-1, len(self._feature_names)))

    @property
    def max_coverage(self) -> float:
        """Return the highest coverage `upper_ms` can promise; 0 for a predictor without a bound."""
        return len(self._residuals) / (len(self._residuals) + 1)

    def upper_ms(self, arch: Arch, coverage: float = COVERAGE) -> float:
        """Return a latency in ms that a measurement of `arch` exceeds with probability 1 - coverage."""
        return self.predict_ms(arch) * self.margin(coverage)

    def upper_many(self, archs: Sequence[Arch], coverage: float = COVERAGE) -> list[float]:
        """Return `upper_ms` of each architecture."""
        margin = self.margin(coverage)
        return [ms * margin for ms in self.predict_many(archs)]

    def margin(self, coverage: float = COVERAGE) -> float:
        """Return bound / prediction: the conformal quantile of measured / predicted on rows left out.

        It holds for architectures drawn like those rows (Vovk et al. 2005, Barber et al. 2021). Raises
        ConfigError if `coverage` is not between 0 and 1, or above `max_coverage`.
        """
        if not 0 < coverage < 1:
            raise ConfigError(f"the coverage of a bound must lie between 0 and 1, got {coverage}")
        count = len(self._residuals)
        rank = math.ceil((count + 1) * coverage - 1e-9)
        if rank > count:
            raise ConfigError(
                "this predictor has no upper bound: it is of the 2020 release or of an earlier version; "
                "train one with latency_predictor.py"
                if not count
                else f"a bound of coverage {coverage} needs {math.ceil(coverage / (1 - coverage))} rows left "
                f"out, this predictor has {count}; ask for at most {self.max_coverage:.3f} or measure more"
            )
        return math.exp(self._residuals[max(rank, 1) - 1])

    def _report(
        self, rows: Sequence[Row], predicted: Floats, baselines: Mapping[str, Floats], *, bound: bool
    ) -> Report:
        truth = _milliseconds(rows)
        self.unseen = tuple(zip(truth.tolist(), predicted.tolist(), strict=True))
        found = None
        if bound and self.max_coverage >= COVERAGE:
            margin = self.margin()
            held = float(np.mean(truth <= predicted * margin))
            found = {"coverage": COVERAGE, "above_percent": 100 * (margin - 1), "held": held}
        return {
            **score(predicted, truth),
            "baselines": {name: score(guess, truth) for name, guess in baselines.items()},
            "rows": len(truth),
            "bound": found,
            "drift": [asdict(block) for block in self.drift],
        }

    def save(self, path: str | Path) -> None:
        """Write the predictor with everything needed to use it, and a digest beside it.

        Raises CheckpointError for a predictor that was read from format 1 or from the release.
        """
        model = self._model
        if not isinstance(model, CostModel):
            raise CheckpointError(
                f"cannot write {path}: a predictor of an older format is kept as the file it came from; "
                "copy that file"
            )
        content = {
            "format": FORMAT,
            "kind": "hat latency predictor",
            "feature_names": list(self._feature_names),
            "mean": model.scaling.mean.tolist(),
            "inverse_spread": model.scaling.inverse_spread.tolist(),
            "base": model.base.tolist(),
            "floor_ms": model.floor_ms,
            "weights": [torch.tensor(weight) for weight in model.weights],
            "biases": [torch.tensor(bias) for bias in model.biases],
            "residuals": self._residuals.tolist(),
            "report": self.report,
            "drift": [asdict(block) for block in self.drift],
            "conditions": self.conditions,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_with_digest(Path(path), buffer.getvalue())

    @classmethod
    def load(
        cls, path: str | Path, feature_norm: Sequence[float] = (), lat_norm: float | None = None
    ) -> "LatencyPredictor":
        """Return the predictor in a file: ours of formats 1 to 3, or bare weights of the 2020 release.

        Args:
            path: file.
            feature_norm, lat_norm: normalisers of a released predictor, which stand in the YAML files of the
                release; our files carry their own.

        Raises CheckpointError if the file is missing, damaged or something else.
        """
        path = Path(path)
        content = _read(path)
        try:
            if "first_layer.weight" in content:
                return cls(_released_model(content, feature_norm, lat_norm, path), FEATURE_NAMES)
            return _predictor_in(content, path)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise CheckpointError(
                f"{path} is no latency predictor or is damaged ({brief(repr(error))}); train it again with "
                "latency_predictor.py"
            ) from error


def split(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row numbers for training and test, 90 and 10 percent, at least two for the test."""
    order = np.array(rng_for(seed, "latency-split").sample(range(count), count))
    part = max(2, count // 10)
    return order[part:], order[:part]


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

    A tie in `predicted` counts as no answer, as if a coin ordered the pair: tau-a if all measured values
    differ, Somers' D of the prediction in general. 0 if one side holds a single value. Quadratic in time,
    linear in memory: 20,000 values take about a second.
    """
    agreement = untied = 0.0
    for i in range(len(measured) - 1):
        order = np.sign(measured[i + 1 :] - measured[i])
        agreement += float(np.sign(predicted[i + 1 :] - predicted[i]) @ order)
        untied += float(order @ order)
    return agreement / untied if untied else 0.0


def trained_predictor(
    table: str | Path, *, transfer_from: str | Path | None = None, seed: int = 1
) -> LatencyPredictor:
    """Return a predictor of a table (CSV), started from another device's table or predictor if one is given.

    Raises DataError or CheckpointError if a file is missing or damaged.
    """
    rows = read_table(table)
    if transfer_from is None:
        return LatencyPredictor.fit(rows, seed=seed)
    if Path(transfer_from).suffix != ".csv":
        return LatencyPredictor.load(transfer_from).transferred(rows, seed=seed)
    old = read_table(transfer_from)
    if not all(row.arch for row in rows):
        old = [replace(row, arch=None) for row in old]  # both by the ten features
    return LatencyPredictor.fit(old, seed=seed, test=False).transferred(rows, seed=seed)


def is_released(path: str | Path) -> bool:
    """Return whether a file holds bare weights of the 2020 release; False if it is missing or damaged."""
    try:
        return Path(path).exists() and "first_layer.weight" in _read(Path(path))
    except CheckpointError:
        return False


class _AveragesModel:
    """latency_ms = lat_norm * net(x) of the release, lat_norm * base(x) * exp(net(x)) of format 1.

    x = the ten features / feature_norm; the base is linear in x and in x times decoder depth.
    """

    def __init__(
        self,
        state: Mapping[str, Any],
        norm: Sequence[float],
        lat_norm: float,
        base: Sequence[float],
        floor: float,
    ) -> None:
        hidden = sum(name.startswith("layers.") and name.endswith(".weight") for name in state)
        names = ["first_layer", *(f"layers.{number}" for number in range(hidden)), "predict"]
        if set(state) != {f"{name}.{part}" for name in names for part in ("weight", "bias")}:
            raise ValueError("not the weights of a latency predictor")
        width = len(FEATURE_NAMES)
        self._weights, self._biases = list[Floats](), list[Floats]()
        for name in names:
            bias = _finite(state[f"{name}.bias"], (1 if name == "predict" else len(state[f"{name}.bias"]),))
            self._weights.append(_finite(state[f"{name}.weight"], (len(bias), width)).T)
            self._biases.append(bias)
            width = len(bias)
        self._norm, self._lat_norm = _finite(norm, (len(FEATURE_NAMES),)), float(lat_norm)
        self._base, self._floor = _finite(base, (len(base),)), float(floor)  # floor in lat_norm
        if not (self._norm > 0).all() or not 0 < self._lat_norm < math.inf or not math.isfinite(self._floor):
            raise ValueError("normalisers must be above 0")

    def predict(self, features: Floats) -> Floats:
        """Return latencies in ms [rows] of features [rows, 10]."""
        x = features / self._norm
        out = apply_network(self._weights, self._biases, x)
        if not self._base.size:
            return self._lat_norm * out
        columns = np.hstack([x, x * x[:, _DEPTH : _DEPTH + 1], np.ones((len(x), 1))])
        base = np.maximum(columns @ self._base, self._floor)
        latency: Floats = self._lat_norm * base * np.exp(np.clip(out, -MAX_LOG_RATIO, MAX_LOG_RATIO))
        return latency


def _released_model(
    state: Mapping[str, Any], norm: Sequence[float], lat_norm: float | None, path: Path
) -> _AveragesModel:
    if len(norm) == 0 or lat_norm is None:
        raise CheckpointError(
            f"{path} is a predictor of the 2020 release, which does not carry its normalisers; give "
            "--feature-norm and --lat-norm as in configs/<task>/latency_predictor"
        )
    return _AveragesModel(state, norm, lat_norm, (), 0.0)


def _predictor_in(content: Mapping[str, Any], path: Path) -> LatencyPredictor:
    """Return the predictor of a file of ours; any error of a type that `load` names means damage."""
    version, names = content["format"], content["feature_names"]
    report, conditions = content["report"], dict(content["conditions"])
    if type(report) not in (dict, type(None)):
        raise ValueError("a report that is none")
    if version not in (1, 2, FORMAT):
        raise CheckpointError(
            f"{path} has format {brief(version)}, this version reads 1 to {FORMAT}; train the predictor again"
        )
    if names not in (list(FEATURE_NAMES), list(LAYER_FEATURE_NAMES)):
        raise CheckpointError(f"{path} predicts from other features: {brief(names)}")
    if version == 1:
        sizes = {"log_ratio": 2 * len(FEATURE_NAMES) + 1, "latency": 0}
        if len(content["base"]) != sizes[content["target"]]:
            raise ValueError("a base of another size")
        old = (content[name] for name in ("model", "feature_norm", "lat_norm", "base", "floor"))
        return LatencyPredictor(_AveragesModel(*old), FEATURE_NAMES, (), report, conditions)
    count, members = len(names), 1 if version == FORMAT else FOLDS
    scaling = Scaling(_finite(content["mean"], (count,)), _finite(content["inverse_spread"], (count,)))
    columns = scaling.columns(np.zeros((1, count))).shape[1]
    weights, biases = [], []
    for weight, bias in zip(content["weights"], content["biases"], strict=True):
        width = weight.shape[2]
        weights.append(_finite(weight, (members, count, width)))
        biases.append(_finite(bias, (members, 1, width)))
        count = width
    if not weights or count != 1:
        raise ValueError("a network without one output")
    floor_ms = float(_finite(content["floor_ms"], ()))
    if floor_ms <= 0:
        raise ValueError("a lowest latency that is not above 0")
    model = CostModel(
        scaling, _finite(content["base"], (members, columns + 1)), floor_ms, tuple(weights), tuple(biases)
    )
    residuals = _finite(content["residuals"], (len(content["residuals"]),)).tolist()
    told = content["drift"] if version == FORMAT else (report or {}).get("drift", [])
    drift = [Block(int(each["first"]), int(each["last"]), float(each["percent"])) for each in told]
    return LatencyPredictor(model, names, residuals, report, conditions, drift)


def _finite(value: Any, shape: tuple[int, ...]) -> Floats:
    numbers = np.array(value.double().numpy() if torch.is_tensor(value) else value, dtype=np.float64)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        raise ValueError(f"numbers of shape {numbers.shape} where {shape} are expected, all finite")
    return numbers


def _read(path: Path) -> dict[str, Any]:
    """Return the checked content of a predictor file, plain values and tensors only."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path} has more than {MAX_BYTES} bytes; that is no latency predictor")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read the latency predictor {path}: {error.strerror}; check --ckpt-path, or train one "
            "with latency_predictor.py"
        ) from error
    damaged = (
        f"{path} is damaged or no predictor file; restore it from a copy or run latency_predictor.py again"
    )
    if digest_matches(path, data) is False:
        raise CheckpointError(f"{damaged} (its content does not have the SHA-256 in {path.name}.sha256)")
    content = read_foreign(path, data)
    if not isinstance(content, dict):
        raise CheckpointError(damaged)
    return content


def _rows_of(table: Sequence[Row] | str | Path) -> Sequence[Row]:
    return read_table(table) if isinstance(table, str | Path) else table


def _check_enough(rows: Sequence[Row], least: int, what: str) -> None:
    if len(rows) < least:
        raise DataError(
            f"{len(rows)} measured architectures are too few to {what}; measure at least {least}, better "
            "some hundreds (20 if a predictor of another device is at hand)"
        )


def _inputs(rows: Sequence[Row], names: Sequence[str]) -> Floats:
    per_layer = len(names) > len(FEATURE_NAMES)
    return np.array([layer_features(row.arch) if per_layer and row.arch else row.features for row in rows])


def _milliseconds(rows: Sequence[Row]) -> Floats:
    return np.array([row.total_ms for row in rows], dtype=np.float64)


def _shared_conditions(rows: Sequence[Row]) -> dict[str, str]:
    first = rows[0].conditions
    return {
        name: value for name, value in first.items() if all(row.conditions.get(name) == value for row in rows)
    }
