"""Predict latencies in ms and their bounds, and say what tables and predictors are valid for."""

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hat.errors import CheckpointError, ConfigError, DataError, brief
from hat.files.atomic import write_with_digest
from hat.files.tensors import read_verified
from hat.latency import costs
from hat.latency.costs import Chosen, CostModel, Floats, Scaling
from hat.log import info
from hat.rng import rng_for, seed_for
from hat.space import DIMS, FEATURE_NAMES, LAYER_FEATURE_NAMES, Arch, SearchSpace, features, layer_features

if TYPE_CHECKING:
    from hat.latency.table import Row

MIN_ROWS = 10
COVERAGE = 0.95
FORMAT = 3
_AGAIN = "train it again with latency_predictor.py"
OF_MODEL = ["space", "qkv_dim", "vocab_size", "source_len", "target_len", "beam"]
OF_DEVICE = ["device", "threads", "dtype", "torch", "runtime", "engine", "estimate", "anchor", "reference_ms"]
SHARED = [*OF_MODEL, *OF_DEVICE]  # by all rows of a table; the other conditions are of a single row
MINOR = ("torch", "engine", "estimate")  # what else changes a latency by little
VOCABULARY_SHARE = 0.05  # sizes that differ by less change a latency by little
_DIMS = {dim.choice_key for dim in DIMS}
# Scores on rows that training did not see; `rows`, their number; `baselines`, those of a line on the depth;
# `bound`, None or {coverage, above_percent of the prediction, held: share of the rows}.
Report = dict[str, Any]


class LatencyPredictor:
    """Predicts latencies, as a sum of what layers cost times the exponential of a small network, and how far
    the truth may lie above, which predictors of 2020 do not know (docs/predictor.md). `report` holds scores
    on rows that the training did not see, if any; `conditions` what all rows of the table share.
    """

    unseen: tuple[tuple[float, float], ...] = ()  # (measured, predicted) ms of what the report is of, if new

    def __init__(
        self,
        model: CostModel | Callable[[Floats], Floats],
        residuals: Sequence[float] | Floats = (),
        conditions: Mapping[str, str] | None = None,
        report: Report | None = None,
    ) -> None:
        self._model, self._predict = model, model.predict if isinstance(model, CostModel) else model
        self._count = len(model.scaling.mean if isinstance(model, CostModel) else FEATURE_NAMES)
        self._residuals = np.sort(np.array(residuals, dtype=np.float64))  # log(measured / predicted)
        self.report, self.conditions = report, dict(conditions or {})

    @classmethod
    def fit(
        cls, table: "Sequence[Row] | str | Path", *, seed: int = 1, test: bool = True, mixed: bool = False
    ) -> "LatencyPredictor":
        """Return a predictor trained on rows, or on those of a CSV file: a pure function of them and `seed`,
        0.3 s for 2,000. With `test` a tenth is kept out for the report, else there is none. Raises DataError
        for fewer than 10 rows, ConfigError if they were measured in different ways and may not be `mixed`.
        """
        x, ms, conditions = _data(table, MIN_ROWS if test else MIN_ROWS - 2, mixed=mixed)
        out = np.zeros(len(ms), dtype=bool)
        if test:  # at least two; rows of one architecture are not on both sides
            groups = costs.groups_of(x)
            count = int(groups.max()) + 1
            order = rng_for(seed, "latency-split").sample(range(count), count)
            enough = np.searchsorted(np.cumsum(np.bincount(groups)[order]), max(2, len(ms) // 10)) + 1
            out = np.isin(groups, order[:enough])
        model, residuals = costs.fit_costs(x[~out], ms[~out], seed_for(seed, "latency-predictor"))
        found = cls(model, residuals, conditions)
        if test:
            found._take_scores(x, ms, found.predict_features(x), [out])
            if found.report and found.max_coverage >= COVERAGE:
                margin = found.margin()
                held = float(np.mean([truth <= guess * margin for truth, guess in found.unseen]))
                bound = {"coverage": COVERAGE, "above_percent": 100 * (margin - 1), "held": held}
                found.report["bound"] = bound
        return found

    def transferred(
        self, table: "Sequence[Row] | str | Path", *, seed: int = 1, mixed: bool = False
    ) -> "LatencyPredictor":
        """Return a predictor for the device of `table` from this one for another device; 20 rows do. Its
        report is of each row as predicted without its fold. Raises DataError for fewer than 10 rows or
        missing features, ConfigError for rows of other models, CheckpointError if this one is of the release.
        """
        old, stream = self._own_model, seed_for(seed, "transfer")
        x, ms, conditions = _data(table, MIN_ROWS, self._count, mixed)
        wanted = {name: conditions[name] for name in OF_MODEL if name in conditions}
        check_valid("the table or predictor of the old device", self.conditions, wanted)
        model, residuals = costs.transfer_costs(old, x, ms, stream)
        found = LatencyPredictor(model, residuals, conditions)
        found._take_scores(x, ms, ms / np.exp(residuals), costs.folds(x, stream))
        return found

    def _take_scores(self, x: Floats, ms: Floats, own: Floats, parts: Sequence[Chosen] | Chosen) -> None:
        order = np.concatenate([np.flatnonzero(out) for out in parts])  # of rows left out, part by part
        line = np.concatenate([costs.depth_only(x[~out], ms[~out])(x[out]) for out in parts])
        self.unseen = tuple(zip(ms[order].tolist(), own[order].tolist(), strict=True))
        self.report = score(own[order], ms[order]) | {"rows": len(order), "bound": None}
        self.report["baselines"] = {"depth_only": score(line, ms[order])}

    def predict_ms(self, arch: Arch) -> float:
        """Return the predicted latency of one architecture in ms."""
        return self.predict_many([arch])[0]

    def predict_many(self, archs: Sequence[Arch]) -> list[float]:
        """Return the predicted latency of each architecture in ms."""
        read = layer_features if self._count > len(FEATURE_NAMES) else features
        values: list[float] = self.predict_features(np.array([read(arch) for arch in archs])).tolist()
        return values

    def predict_rows(self, rows: "Sequence[Row]") -> Floats:
        """Return the predicted latency in ms of the architecture of each row of a table [rows]."""
        return self.predict_features(_data(rows, 1, self._count)[0])

    def predict_features(self, raw: Floats) -> Floats:
        """Return latencies in ms [rows] of features [rows, features] that this predictor reads."""
        return self._predict(raw.reshape(-1, self._count))

    @property
    def max_coverage(self) -> float:
        """Return the highest coverage `upper_ms` can promise; 0 for a predictor without a bound."""
        return len(self._residuals) / (len(self._residuals) + 1)

    def upper_ms(self, arch: Arch, coverage: float | None = None) -> float:
        """Return the latency in ms that a measurement exceeds with probability 1 - coverage, see `margin`."""
        return self.predict_ms(arch) * self.margin(coverage)

    def margin(self, coverage: float | None = None) -> float:
        """Return bound / prediction: the conformal quantile of measured / predicted on rows left out (Vovk et
        al. 2005, Barber et al. 2021). None is 95%, or as much as can be promised; ConfigError for more.
        """
        if not (count := len(self._residuals)):
            raise ConfigError(f"a predictor of the 2020 release has no upper bound; {_AGAIN}")
        coverage = min(COVERAGE, self.max_coverage) if coverage is None else coverage
        if not 0 < coverage < 1:
            raise ConfigError(f"the coverage of a bound must lie between 0 and 1, got {coverage}")
        rank = math.ceil((count + 1) * coverage - 1e-9)
        if rank > count:
            least = math.ceil(coverage / (1 - coverage))
            what = f"a bound of coverage {coverage} needs {least} rows left out, this predictor has {count}"
            raise ConfigError(f"{what}; ask for at most {self.max_coverage:.3f} or measure more")
        return math.exp(self._residuals[max(rank, 1) - 1])

    def save(self, path: str | Path) -> None:
        """Write the predictor, and a digest beside it; raises CheckpointError for one of the release."""
        model = self._own_model
        scaling, names = model.scaling, list(LAYER_FEATURE_NAMES[: self._count])
        content = {"format": FORMAT, "kind": "hat latency predictor", "feature_names": names}
        content |= {"mean": scaling.mean.tolist(), "inverse_spread": scaling.inverse_spread.tolist()}
        content |= {"floor_ms": model.floor_ms, "residuals": self._residuals.tolist()}
        content["base"] = [model.base.tolist()]  # one axis more, as files of format 2 held five models
        content["weights"] = [torch.tensor(weight[None]) for weight, _ in model.layers]
        content["biases"] = [torch.tensor(bias[None, None]) for _, bias in model.layers]
        content |= {"report": self.report, "conditions": self.conditions}
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_with_digest(Path(path), buffer.getvalue())

    @property
    def _own_model(self) -> CostModel:
        if not isinstance(self._model, CostModel):
            what = "a predictor of the 2020 release can only predict; copy its file"
            raise CheckpointError(f"{what}, or give the table (CSV) of the old device instead")
        return self._model

    @classmethod
    def load(
        cls, path: str | Path, feature_norm: Sequence[float] = (), lat_norm: float | None = None
    ) -> "LatencyPredictor":
        """Return the predictor in our file, or one of 2020, with normalisers; CheckpointError for another."""
        content = _read(Path(path))
        try:
            if "first_layer.weight" in content:
                found = cls(_released(content, feature_norm, lat_norm or 0.0))
            else:
                found = cls(**_own(content))
            if not np.isfinite(found.predict_features(np.ones(found._count))).all():
                raise ValueError("predicts no number")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            why = f"is no latency predictor or is damaged ({brief(repr(error))})"
            raise CheckpointError(f"{path} {why}; {_AGAIN}") from error
        return found


def _read(path: Path) -> dict[str, Any]:
    advice = "check --ckpt-path, or train one with latency_predictor.py"
    content, _ = read_verified(path, "the latency predictor", advice)
    return content if isinstance(content, dict) else {}


def is_released(path: str | Path) -> bool:
    """Return whether a file holds bare weights of the 2020 release; False if it is missing or damaged."""
    try:
        return "first_layer.weight" in _read(Path(path))
    except CheckpointError:
        return False


def _released(state: Mapping[str, Any], norm: Sequence[float], lat_norm: float) -> Callable[[Floats], Floats]:
    # Linear-ReLU, Linear-ReLU for each of `layers`, Linear
    hidden = sum(name.startswith("layers.") and name.endswith(".weight") for name in state)
    names = ["first_layer", *(f"layers.{number}" for number in range(hidden)), "predict"]
    if len(norm) != len(FEATURE_NAMES) or not min(*norm, lat_norm) > 0:
        what = "a predictor of the 2020 release does not carry its normalisers, which are above 0; give "
        raise CheckpointError(f"{what}--feature-norm and --lat-norm as in configs/<task>/latency_predictor")
    arrays = {name: tensor.double().numpy().T for name, tensor in state.items()}
    layers = [(arrays[f"{name}.weight"], arrays[f"{name}.bias"]) for name in names]
    return lambda features: lat_norm * costs.apply_network(layers, features / np.array(norm))


def _own(content: Mapping[str, Any]) -> dict[str, Any]:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
    numbers = ("mean", "inverse_spread", "base", "residuals")
    mean, inverse_spread, (base,), residuals = (np.array(content[name], dtype=float) for name in numbers)
    if content["feature_names"] != list(LAYER_FEATURE_NAMES[: len(mean)]) or not np.isfinite(residuals).all():
        raise ValueError("other features, or residuals that are no numbers")
    both = zip(content["weights"], content["biases"], strict=True)
    layers = [(weight.double().numpy()[0], bias.double().numpy()[0, 0]) for weight, bias in both]
    model = CostModel(Scaling(mean, inverse_spread), base, float(content["floor_ms"]), layers)
    report = content["report"] and dict(content["report"])
    return {"model": model, "residuals": residuals, "conditions": content["conditions"], "report": report}


def _rows(table: "Sequence[Row] | str | Path") -> "Sequence[Row]":
    from hat.latency.table import read_table  # late: who only predicts reads no table

    return read_table(table) if isinstance(table, str | Path) else table


def _data(
    table: "Sequence[Row] | str | Path", least: int, count: int | None = None, mixed: bool = True
) -> tuple[Floats, Floats, dict[str, str]]:
    # features [rows, features], by default of whole architectures if all rows hold them, ms, and conditions
    rows = _rows(table)
    if len(rows) < least:
        what = f"{len(rows)} measured architectures are too few for a predictor; measure at least {least}"
        raise DataError(f"{what}, better some hundreds (20 if a predictor of another device is at hand)")
    shared = [{name: row.conditions[name] for name in SHARED if name in row.conditions} for row in rows]
    for number, here in enumerate(shared if not mixed else (), 1):
        unknown = dict.fromkeys({*SHARED} - {"space"}, "unknown")
        if found := differences(unknown | shared[0], unknown | here):
            what = f"the first row was measured with {found[0].replace('here it', f'that of row {number}')}"
            raise ConfigError(f"{what}; keep such rows in tables of their own, or give --mixed")
    archs = [row.arch for row in rows if row.arch]
    known = len(archs) == len(rows)
    whole = known if count is None else count > len(FEATURE_NAMES)
    if whole and not known:
        what = "the predictor reads whole architectures, which the table does not hold"
        raise DataError(f"{what}; give the table (CSV) of the old device instead of its predictor")
    x = [layer_features(arch) for arch in archs] if whole else [row.features for row in rows]
    common = set.intersection(*(set(row.conditions.items()) for row in rows))
    conditions = {name: value for name, value in rows[0].conditions.items() if (name, value) in common}
    return np.array(x), np.array([row.total_ms for row in rows]), conditions


def trained_predictor(
    table: str | Path, *, transfer_from: str | Path | None = None, seed: int = 1, mixed: bool = False
) -> LatencyPredictor:
    """Return a predictor of a table (CSV), started from another device's table or predictor if given."""
    rows = _rows(table)
    if transfer_from is None:
        return LatencyPredictor.fit(rows, seed=seed, mixed=mixed)
    if Path(transfer_from).suffix != ".csv":
        return LatencyPredictor.load(transfer_from).transferred(rows, seed=seed, mixed=mixed)
    averages = not all(row.arch for row in rows)  # then both by the ten features
    old = [replace(row, arch=None) if averages else row for row in _rows(transfer_from)]
    learnt = LatencyPredictor.fit(old, seed=seed, test=False, mixed=mixed)
    return learnt.transferred(rows, seed=seed, mixed=mixed)


def score(predicted_ms: Floats, measured_ms: Floats) -> dict[str, Any]:
    """Return mean absolute percentage error (percent), root mean square error (ms) and Kendall's tau."""
    error = predicted_ms - measured_ms
    mape, rmse = float(100 * np.mean(np.abs(error) / measured_ms)), float(np.sqrt(np.mean(error**2)))
    return {"mape_percent": mape, "rmse_ms": rmse, "kendall_tau": kendall_tau(predicted_ms, measured_ms)}


def kendall_tau(predicted: Floats, measured: Floats) -> float:
    """Return (pairs ordered alike - pairs ordered otherwise) / pairs that differ in `measured`: tau-a, or
    Somers' D if there are ties. 0 if one side holds a single value. 20,000 values take about a second.
    """
    agreement = untied = 0.0
    for i in range(len(measured) - 1):
        order = np.sign(measured[i + 1 :] - measured[i])
        agreement += float(np.sign(predicted[i + 1 :] - predicted[i]) @ order)
        untied += float(order @ order)
    return agreement / untied if untied else 0.0


def conditions_of_space(space: SearchSpace, vocab_size: int) -> dict[str, str]:
    """Return the conditions of a table that are those of a task; the space as JSON."""
    choices = {dim.choice_key: sorted(set(space[dim])) for dim in DIMS}
    text = json.dumps(choices, separators=(",", ":"))
    return {"space": text, "qkv_dim": str(space.qkv_dim), "vocab_size": str(vocab_size)}


def described(conditions: Mapping[str, str]) -> dict[str, str]:
    """Return conditions with one entry for each dimension of the space, such as `4, 8`."""
    known = dict(conditions)
    choices = json.loads(known.pop("space", "{}"))
    if "source_len" in known:  # older tables hold one length
        known.setdefault("target_len", known["source_len"])
    return known | {key: ", ".join(map(str, values)) for key, values in choices.items()}


def differences(held: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return the conditions of `held` that `here` are others, such as `beam 5, here it is 2`."""
    old, new = described(held), described(here)
    other = {name: value for name, value in new.items() if old.get(name, value) != value}
    return [f"{name} {old[name]}, here it is {value}" for name, value in other.items()]


def check_valid(of: str, conditions: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raise ConfigError if `of` is not valid for conditions `here`; say what is unknown or changes little."""
    old, new = {"runtime": "torch"} | described(conditions), described(here)  # at first there was no other
    unknown = sorted(set(new) - set(old) - _DIMS) + ["the search space"] * bool(_DIMS & set(new) - set(old))
    if unknown:
        info(f"{of} does not say what it is valid for, which could not be checked: {', '.join(unknown)}")
    for name in [name for name in new if name in old]:
        held, value = old[name], new[name]
        if held == value or name in _DIMS and set(value.split(", ")) <= set(held.split(", ")):
            continue
        text = f"{of} is valid for {name} {held}, here it is {value}"
        near = name == "vocab_size" and abs(int(value) / int(held) - 1) <= VOCABULARY_SHARE
        if name not in MINOR and not near:
            again = "measure a table for this with latency_dataset.py, and train a predictor on it"
            raise ConfigError(f"{text}; {again}")
        info(f"{text}, which changes latencies by little")
