"""Predict the latency of an architecture, in ms, from its ten features."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

from hat.arch.config import Arch
from hat.arch.features import FEATURE_NAMES, features
from hat.errors import CheckpointError, ConfigError, DataError
from hat.files.atomic import write_with_digest
from hat.latency.linear import base_columns, depth_only, fit_base, least_squares
from hat.latency.metrics import Floats, Scores, score
from hat.latency.network import LatencyNet, Training, train_net
from hat.latency.predictor_file import net_of, read_plain
from hat.latency.table import Row
from hat.rng import rng_for, seed_for

FORMAT = 1
MIN_ROWS = 10
MAX_LOG_RATIO = math.log(4)  # far from the training rows the network may not run away from the base


@dataclass(frozen=True)
class PredictorConfig:
    """Latency predictor"""

    lat_dataset_path: str | None = None
    """CSV file of measured latencies; the same name without _all is read where only that exists"""
    feature_norm: tuple[float, ...] = ()
    """numbers the ten features are divided by (default: the largest of each in the dataset)"""
    lat_norm: float | None = None
    """latency in ms that counts as 1 (default: the largest in the dataset)"""
    feature_dim: int = 10
    """number of features; 10"""
    hidden_dim: int = 400
    """width of the hidden layers"""
    hidden_layer_num: int = 3
    """number of hidden layers after the first"""
    ckpt_path: str | None = None
    """predictor file"""
    train_steps: int = 5000
    """most updates; training ends earlier when the validation error no longer falls"""
    bsz: int = 128
    """rows per update"""
    predictor_lr: float = 3e-4
    """initial learning rate of Adam"""

    def __post_init__(self) -> None:
        counts = {"train-steps": self.train_steps, "bsz": self.bsz, "hidden-dim": self.hidden_dim}
        for name, count in counts.items():
            if not 1 <= count <= 1_000_000:
                raise ConfigError(f"--{name} must be from 1 to 1000000, got {count}")
        if not 0 <= self.hidden_layer_num <= 100:
            raise ConfigError(f"--hidden-layer-num must be from 0 to 100, got {self.hidden_layer_num}")
        if not 0 < self.predictor_lr < 1:
            raise ConfigError(f"--predictor-lr must lie between 0 and 1, got {self.predictor_lr}")
        if self.feature_dim != len(FEATURE_NAMES):
            raise ConfigError(
                f"--feature-dim must be {len(FEATURE_NAMES)}, the features are fixed; got {self.feature_dim}"
            )
        if self.feature_norm:
            _check_norm(self.feature_norm, "--feature-norm", ConfigError)
        if self.lat_norm is not None and not 0 < self.lat_norm < math.inf:
            raise ConfigError(f"--lat-norm must be above 0 ms, got {self.lat_norm}")


class Report(TypedDict):
    """Scores on the test rows, which neither training nor early stopping saw."""

    mape_percent: float
    rmse_ms: float
    kendall_tau: float
    baselines: dict[str, Scores]


def split(count: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Return row numbers for training, validation and test, about 80/10/10 percent, at least two each."""
    order = np.array(rng_for(seed, "latency-split").sample(range(count), count))
    part = max(2, count // 10)
    return order[2 * part :], order[part : 2 * part], order[:part]


class LatencyPredictor:
    """latency_ms = lat_norm * base(x) * exp(net(x)) with x = features / feature_norm.

    `base` is linear in the features and in features times decoder depth; the network of HAT 2020 (section
    3.2) learns what it misses. A predictor of the release has no base: latency_ms = lat_norm * net(x).
    """

    def __init__(
        self,
        net: LatencyNet,
        feature_norm: Sequence[float],
        lat_norm: float,
        base: Sequence[float] = (),
        floor: float = 0.0,
        report: Report | None = None,
        conditions: Mapping[str, str] | None = None,
    ) -> None:
        self._net = net.double().eval().requires_grad_(False)  # double: one row or many, the same result
        self._feature_norm = np.array(feature_norm, dtype=np.float64)
        self._lat_norm = lat_norm
        self._base = np.array(base, dtype=np.float64)
        self._floor = floor  # lowest value of the base, in lat_norm
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
        """Return a predictor trained on 80 percent of `rows`; a pure function of its arguments.

        `on_check(step, validation MAPE in percent, roughly)` is called during training. Raises DataError for
        fewer than 10 rows.
        """
        if len(rows) < MIN_ROWS:
            raise DataError(
                f"{len(rows)} measured architectures are too few for a predictor; measure at least "
                f"{MIN_ROWS}, some hundreds for a good one"
            )
        raw = np.array([row.features for row in rows], dtype=np.float64)
        ms = np.array([row.total_ms for row in rows], dtype=np.float64)
        train, valid, test = split(len(rows), seed)
        norm = cfg.feature_norm or tuple(value or 1.0 for value in np.abs(raw).max(axis=0).tolist())
        lat_norm = float(cfg.lat_norm or ms.max())
        x, latency = raw / np.array(norm), ms / lat_norm
        base = fit_base(x[train], latency[train])
        floor = float(latency[train].min() / 2)
        log_ratio = np.log(latency / np.maximum(base_columns(x) @ base, floor))
        training = Training(
            cfg.hidden_dim,
            cfg.hidden_layer_num,
            cfg.train_steps,
            cfg.bsz,
            cfg.predictor_lr,
            seed_for(seed, "latency-predictor"),
        )
        percent = on_check and (lambda step, error: on_check(step, 100 * error))
        net = train_net(x, log_ratio, train, valid, training, percent)
        fitted = cls(net, norm, lat_norm, base.tolist(), floor, conditions=_shared_conditions(rows))
        baselines = {"depth_only": depth_only, "least_squares": least_squares}
        fitted.report = {
            **score(fitted.predict_features(raw[test]), ms[test]),
            "baselines": {
                name: score(model(raw[train], ms[train])(raw[test]), ms[test])
                for name, model in baselines.items()
            },
        }
        return fitted

    def predict_ms(self, arch: Arch) -> float:
        """Return the predicted latency of one architecture in ms."""
        return self.predict_many([arch])[0]

    def predict_many(self, archs: Sequence[Arch]) -> list[float]:
        """Return the predicted latency of each architecture in ms."""
        values: list[float] = self.predict_features(np.array([features(arch) for arch in archs])).tolist()
        return values

    def predict_features(self, raw: Floats) -> Floats:
        """Return latencies in ms [rows] of unnormalised features [rows, 10]."""
        x = raw.reshape(-1, len(FEATURE_NAMES)) / self._feature_norm
        with torch.inference_mode():
            out: Floats = self._net(torch.from_numpy(x)).numpy()
        if not self._base.size:
            return out * self._lat_norm
        base = np.maximum(base_columns(x) @ self._base, self._floor)
        return self._lat_norm * base * np.exp(np.clip(out, -MAX_LOG_RATIO, MAX_LOG_RATIO))

    def save(self, path: str | Path) -> None:
        """Write the predictor with everything needed to use it, and a digest beside it."""
        state = {name: value.float() for name, value in self._net.state_dict().items()}
        content = {
            "format": FORMAT,
            "kind": "hat latency predictor",
            "feature_names": list(FEATURE_NAMES),
            "feature_norm": self._feature_norm.tolist(),
            "lat_norm": self._lat_norm,
            "hidden_dim": self._net.first_layer.out_features,
            "hidden_layer_num": len(self._net.layers),
            "target": "log_ratio" if self._base.size else "latency",
            "base": self._base.tolist(),
            "floor": self._floor,
            "report": self.report,
            "conditions": self.conditions,
            "model": state,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_with_digest(Path(path), buffer.getvalue())

    @classmethod
    def load(
        cls, path: str | Path, feature_norm: Sequence[float] = (), lat_norm: float | None = None
    ) -> "LatencyPredictor":
        """Return the predictor in `path`, one of ours or a bare state dict of the 2020 release.

        The normalisers are for the latter only; our files carry their own. Raises CheckpointError where the
        file is missing, damaged or something else.
        """
        path = Path(path)
        content = read_plain(path)
        if "first_layer.weight" in content:
            if not feature_norm or lat_norm is None:
                raise CheckpointError(
                    f"{path} is a predictor of the 2020 release, which does not carry its normalisers; give "
                    "--feature-norm and --lat-norm as in configs/<task>/latency_predictor"
                )
            _check_norm(feature_norm, f"{path}: feature-norm", CheckpointError)
            return cls(net_of(content, path), feature_norm, float(lat_norm))
        try:
            return _from_content(cls, content, path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{path} is no latency predictor or is damaged ({error!r}); train it again with "
                "latency_predictor.py"
            ) from error

    @classmethod
    def from_release(
        cls, path: str | Path, feature_norm: Sequence[float], lat_norm: float
    ) -> "LatencyPredictor":
        """Return a predictor of the 2020 release; the normalisers stand in the release's YAML files."""
        return cls.load(path, feature_norm, lat_norm)


def _from_content(cls: type[LatencyPredictor], content: dict[str, Any], path: Path) -> LatencyPredictor:
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {content['format']!r}, this version reads {FORMAT}; train the predictor again"
        )
    if content["feature_names"] != list(FEATURE_NAMES):
        raise CheckpointError(f"{path} predicts from other features: {content['feature_names']}")
    _check_norm(content["feature_norm"], f"{path}: feature_norm", CheckpointError)
    net = net_of(content["model"], path)
    sizes = (net.first_layer.out_features, len(net.layers))
    numbers = [content["lat_norm"], *content["base"], content["floor"]]
    base_size = {"log_ratio": 2 * len(FEATURE_NAMES) + 1, "latency": 0}[content["target"]]
    if (
        sizes != (content["hidden_dim"], content["hidden_layer_num"])
        or len(content["base"]) != base_size
        or not all(type(n) is float and math.isfinite(n) for n in numbers)
        or content["lat_norm"] <= 0
        or type(content["report"]) not in (dict, type(None))
    ):
        raise ValueError("sizes or numbers that contradict each other")
    return cls(
        net,
        content["feature_norm"],
        content["lat_norm"],
        content["base"],
        content["floor"],
        content["report"],
        content["conditions"],
    )


def _check_norm(norm: Sequence[float], name: str, kind: type[ConfigError] | type[CheckpointError]) -> None:
    if len(norm) != len(FEATURE_NAMES) or not all(0 < value < math.inf for value in norm):
        raise kind(f"{name} must hold {len(FEATURE_NAMES)} numbers above 0, got {list(norm)}")


def _shared_conditions(rows: Sequence[Row]) -> dict[str, str]:
    first = rows[0].conditions
    return {
        name: value for name, value in first.items() if all(row.conditions.get(name) == value for row in rows)
    }
