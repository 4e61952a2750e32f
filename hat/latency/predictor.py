"""Predict the latency of an architecture, in ms, and how far above that it may lie."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from hat.errors import CheckpointError, ConfigError, DataError, brief
from hat.latency.drift import Block, drifting_rows, find_blocks, row_weights
from hat.latency.linear import depth_only, least_squares
from hat.latency.members import NUM_MEMBERS, Members, fit_members, folds, transfer
from hat.latency.metrics import Floats, Scores, score
from hat.latency.network import Training
from hat.latency.predictor_config import PredictorConfig
from hat.latency.predictor_file import read_predictor, write_predictor
from hat.latency.table import Row
from hat.rng import rng_for, seed_for
from hat.space import FEATURE_NAMES, LAYER_FEATURE_NAMES, Arch, features, layer_features

MIN_ROWS = 10
COVERAGE = 0.95
BASELINES = {"depth_only": depth_only, "least_squares": least_squares}


class BoundScores(TypedDict):
    """An upper bound and the share of rows that stayed below it."""

    coverage: float
    above_percent: float  # of the prediction
    held: float


class Report(Scores, total=False):
    """Scores on rows that the training did not see; files of format 1 hold those of the first line only."""

    baselines: dict[str, Scores]
    rows: int  # that the scores are of
    bound: BoundScores | None  # None: too few rows for one
    drift: list[dict[str, float]]  # blocks of the table, rows counted from 0
    networks: bool  # False: they did not help and were left out


class TransferReport(Report, total=False):
    """Scores of a predictor that started from another device's."""

    old_drift: list[dict[str, float]]  # as drift, of the old device's table


class Model(Protocol):
    """What predicts: latencies in ms [rows] of features [rows, features]."""

    def predict(self, features: Floats) -> Floats: ...


def split(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row numbers for training and test, 90 and 10 percent, at least two for the test."""
    order = np.array(rng_for(seed, "latency-split").sample(range(count), count))
    part = max(2, count // 10)
    return order[part:], order[:part]


class LatencyPredictor:
    """Predicts by a model; knows from rows its members left out how far the truth may lie above.

    A predictor of the release, or of format 1, was fitted without rows left out: it has no bound.
    """

    def __init__(
        self,
        model: Model,
        feature_names: Sequence[str],
        residuals: Sequence[float] = (),
        report: Report | None = None,
        conditions: Mapping[str, str] | None = None,
    ) -> None:
        self._model = model
        self._feature_names = tuple(feature_names)
        self._residuals = np.sort(np.array(residuals, dtype=np.float64))  # log(measured / predicted)
        self.report = report  # None for a predictor of the release
        self.conditions = dict(conditions or {})  # what all rows of the dataset share: device, threads, ...

    @classmethod
    def fit(
        cls,
        rows: Sequence[Row],
        cfg: PredictorConfig,
        seed: int,
        on_check: Callable[[int, float], object] | None = None,
    ) -> "LatencyPredictor":
        """Return a predictor trained on 90 percent of `rows`, with a report on the others; a pure function.

        `rows` stand in the order of measuring: blocks of drifting ones count less. `on_check(step, error on
        rows left out in percent)` is called during training. Raises DataError for fewer than 10 rows.
        """
        _check_enough(rows, MIN_ROWS, "train a predictor")
        train, test = split(len(rows), seed)
        train.sort()
        fitted, blocks = cls.fit_all([rows[i] for i in train], cfg, seed, on_check)
        drift = [Block(int(train[block.first]), int(train[block.last]), block.percent) for block in blocks]
        fitted.report = fitted._scores([rows[i] for i in train], [rows[i] for i in test], drift)
        return fitted

    @classmethod
    def fit_all(
        cls,
        rows: Sequence[Row],
        cfg: PredictorConfig,
        seed: int,
        on_check: Callable[[int, float], object] | None = None,
    ) -> tuple["LatencyPredictor", list[Block]]:
        """Return a predictor trained on all `rows`, without a report, and drifting blocks.

        Raises DataError for fewer than 8 rows.
        """
        _check_enough(rows, MIN_ROWS - 2, "train a predictor")
        names = LAYER_FEATURE_NAMES if all(row.arch for row in rows) else FEATURE_NAMES
        x, ms = _inputs(rows, names), _milliseconds(rows)
        blocks, weight = drifting_rows(x, ms)
        training = Training(
            max(4, cfg.hidden_dim // NUM_MEMBERS),
            cfg.hidden_layer_num,
            cfg.train_steps,
            cfg.bsz,
            cfg.predictor_lr,
            seed_for(seed, "latency-predictor"),
        )
        percent = on_check and (lambda step, error: on_check(step, 100 * error))
        members, residuals = fit_members(x, ms, weight, training, percent)
        return cls(members, names, residuals.tolist(), conditions=_shared_conditions(rows)), blocks

    def transferred(
        self, rows: Sequence[Row], seed: int, old_blocks: Sequence[Block] | None = None
    ) -> "LatencyPredictor":
        """Return a predictor for the device of `rows` from this one for another device.

        Its report is of each row as predicted by the member that left it out. `rows` stand in the order of
        measuring: from 24 on, blocks of drifting ones are found and count less, as they did in the old table,
        where they are `old_blocks` (None: those that this predictor's report tells of). Raises DataError for
        fewer than 10 rows or rows without the features this predictor reads, and CheckpointError where this
        one is not of the present format.
        """
        _check_enough(rows, MIN_ROWS, "transfer a predictor")
        if not isinstance(self._model, Members):
            raise CheckpointError(
                "only predictors trained by this version can be transferred; give the table (CSV) of the "
                "old device instead, or train its predictor again"
            )
        if len(self._feature_names) > len(FEATURE_NAMES) and not all(row.arch for row in rows):
            raise DataError(
                "the old predictor reads whole architectures, which the new table does not hold; give the "
                "table (CSV) of the old device instead of its predictor"
            )
        old = _blocks_of(self.report) if old_blocks is None else old_blocks
        x, ms, stream = _inputs(rows, self._feature_names), _milliseconds(rows), seed_for(seed, "transfer")
        blocks, weight = list[Block](), np.ones(len(rows))
        members, residuals = transfer(self._model, x, ms, weight, stream)
        for _ in range(2):  # again without the blocks, so that those do not hide themselves
            blocks = find_blocks(residuals)
            weight = row_weights(residuals, blocks)
            members, residuals = transfer(self._model, x, ms, weight, stream)
        fold = folds(len(rows), stream)
        report: TransferReport = {
            **_left_out_report(rows, ms / np.exp(residuals), fold, members.has_networks, blocks),
            "old_drift": [asdict(block) for block in old],
        }
        return LatencyPredictor(
            members, self._feature_names, residuals.tolist(), report, _shared_conditions(rows)
        )

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
        ConfigError where `coverage` is not from 0 to 1 or above `max_coverage`.
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

    def _scores(self, train: Sequence[Row], test: Sequence[Row], drift: Sequence[Block]) -> Report:
        x, ms, truth = _inputs(train, FEATURE_NAMES), _milliseconds(train), _milliseconds(test)
        predicted = self.predict_rows(test)
        bound: BoundScores | None = None
        if self.max_coverage >= COVERAGE:
            margin = self.margin()
            held = float(np.mean(truth <= predicted * margin))
            bound = {"coverage": COVERAGE, "above_percent": 100 * (margin - 1), "held": held}
        unseen = _inputs(test, FEATURE_NAMES)
        return {
            **score(predicted, truth),
            "baselines": {name: score(fit(x, ms)(unseen), truth) for name, fit in BASELINES.items()},
            "rows": len(test),
            "bound": bound,
            "drift": [asdict(block) for block in drift],
            "networks": isinstance(self._model, Members) and self._model.has_networks,
        }

    def save(self, path: str | Path) -> None:
        """Write the predictor with everything needed to use it, and a digest beside it.

        Raises CheckpointError for a predictor that was read from an older format.
        """
        if not isinstance(self._model, Members):
            raise CheckpointError(
                f"cannot write {path}: a predictor of an older format is kept as the file it came from; "
                "copy that file"
            )
        extra = {"report": self.report, "conditions": self.conditions}
        write_predictor(Path(path), self._model, self._feature_names, self._residuals.tolist(), extra)

    @classmethod
    def load(
        cls, path: str | Path, feature_norm: Sequence[float] = (), lat_norm: float | None = None
    ) -> "LatencyPredictor":
        """Return the predictor in `path`, one of ours or a bare state dict of the 2020 release.

        The normalisers are for the latter only; our files carry their own. Raises CheckpointError where the
        file is missing, damaged or something else.
        """
        found = read_predictor(Path(path), feature_norm, lat_norm)
        return cls(found.model, found.feature_names, found.residuals, found.report, found.conditions)

    @classmethod
    def from_release(
        cls, path: str | Path, feature_norm: Sequence[float], lat_norm: float
    ) -> "LatencyPredictor":
        """Return a predictor of the 2020 release; the normalisers stand in the release's YAML files."""
        return cls.load(path, feature_norm, lat_norm)


def _check_enough(rows: Sequence[Row], least: int, what: str) -> None:
    if len(rows) < least:
        raise DataError(
            f"{len(rows)} measured architectures are too few to {what}; measure at least {least}, better "
            "some hundreds (20 where a predictor of another device is at hand)"
        )


def _left_out_report(
    rows: Sequence[Row],
    predicted: Floats,
    fold: NDArray[np.int64],
    networks: bool,
    drift: Sequence[Block],
) -> Report:
    x, ms = _inputs(rows, FEATURE_NAMES), _milliseconds(rows)
    baselines = {}
    for name, fit in BASELINES.items():
        guess = np.empty(len(ms))
        for own in (fold == k for k in range(NUM_MEMBERS)):
            guess[own] = fit(x[~own], ms[~own])(x[own])
        baselines[name] = score(guess, ms)
    return {
        **score(predicted, ms),
        "baselines": baselines,
        "rows": len(ms),
        "bound": None,
        "drift": [asdict(block) for block in drift],
        "networks": networks,
    }


def _blocks_of(report: Report | None) -> list[Block]:
    """Return the drifting blocks that a report tells of; raises CheckpointError for one that is damaged."""
    try:
        told = report.get("drift", []) if report else []
        return [Block(int(each["first"]), int(each["last"]), float(each["percent"])) for each in told]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"the old predictor's report of drift is damaged ({brief(repr(error))}); train it again"
        ) from error


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
