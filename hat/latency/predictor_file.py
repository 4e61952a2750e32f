"""Read and write predictor files without trusting them: plain values and tensors only, damage is an error."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hat.errors import CheckpointError, brief
from hat.files.atomic import digest_matches, write_with_digest
from hat.files.unpickle import foreign_name, read_foreign
from hat.latency.linear import Scaling
from hat.latency.members import NUM_MEMBERS, Members
from hat.latency.metrics import Floats
from hat.latency.network import Nets
from hat.latency.old_predictor import OldModel, format_1_model, released_model
from hat.space import FEATURE_NAMES, LAYER_FEATURE_NAMES

FORMAT = 2
MAX_BYTES = 1 << 28
MAX_LAYERS = 1000  # of a file; each costs time before any weight can prove it


class PredictorFile(NamedTuple):
    """What a predictor file holds."""

    model: Members | OldModel
    feature_names: Sequence[str]
    residuals: Sequence[float]  # none where the file has no bound
    report: Any
    conditions: Mapping[str, str]


def write_predictor(
    path: Path,
    members: Members,
    feature_names: Sequence[str],
    residuals: Sequence[float],
    extra: Mapping[str, Any],
) -> None:
    """Write one file whole or not at all, and a digest beside it."""
    content = {
        "format": FORMAT,
        "kind": "hat latency predictor",
        "feature_names": list(feature_names),
        "mean": members.scaling.mean.tolist(),
        "inverse_spread": members.scaling.inverse_spread.tolist(),
        "base": members.base.tolist(),
        "floor_ms": members.floor_ms,
        "weights": [weight.float() for weight in members.nets.weights],
        "biases": [bias.float() for bias in members.nets.biases],
        "residuals": list(residuals),
        **extra,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_with_digest(path, buffer.getvalue())


def read_predictor(path: Path, feature_norm: Sequence[float], lat_norm: float | None) -> PredictorFile:
    """Return what is in `path`: our format, the one before, or a bare state dict of the 2020 release.

    The normalisers are for the last. Raises CheckpointError.
    """
    content = read_plain(path)
    if "first_layer.weight" in content:
        if not feature_norm or lat_norm is None:
            raise CheckpointError(
                f"{path} is a predictor of the 2020 release, which does not carry its normalisers; give "
                "--feature-norm and --lat-norm as in configs/<task>/latency_predictor"
            )
        return PredictorFile(
            released_model(content, feature_norm, lat_norm, path), FEATURE_NAMES, (), None, {}
        )
    try:
        return _read_ours(content, path)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is no latency predictor or is damaged ({brief(repr(error))}); train it again with "
            "latency_predictor.py"
        ) from error


def _read_ours(content: dict[str, Any], path: Path) -> PredictorFile:
    report, conditions = content["report"], dict(content["conditions"])
    if type(report) not in (dict, type(None)):
        raise ValueError("a report that is none")
    if content["format"] == 1:
        return PredictorFile(format_1_model(content, path), FEATURE_NAMES, (), report, conditions)
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {brief(content['format'])}, this version reads 1 and {FORMAT}; train the "
            "predictor again"
        )
    names = content["feature_names"]
    if names not in (list(FEATURE_NAMES), list(LAYER_FEATURE_NAMES)):
        raise CheckpointError(f"{path} predicts from other features: {brief(names)}")
    count = len(names)
    scaling = Scaling(_finite(content["mean"], (count,)), _finite(content["inverse_spread"], (count,)))
    columns = scaling.columns(np.zeros((1, count))).shape[1]
    members = Members(
        scaling,
        _finite(content["base"], (NUM_MEMBERS, columns + 1)),
        float(_finite(content["floor_ms"], ())),
        _nets(content["weights"], content["biases"], count),
    )
    residuals = _finite(content["residuals"], (len(content["residuals"]),)).tolist()
    if members.floor_ms <= 0:
        raise ValueError("a lowest latency that is not above 0")
    return PredictorFile(members, names, residuals, report, conditions)


def _finite(value: Any, shape: tuple[int, ...]) -> Floats:
    numbers = np.array(value, dtype=np.float64)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        raise ValueError(f"numbers of shape {numbers.shape} where {shape} are expected, all finite")
    return numbers


def _nets(weights: Sequence[Any], biases: Sequence[Any], feature_dim: int) -> Nets:
    for value in (*weights, *biases):
        if not (torch.is_tensor(value) and value.is_floating_point() and bool(value.isfinite().all())):
            raise ValueError("weights that are no tensors of finite numbers")
    if len(weights) > MAX_LAYERS:
        raise ValueError(f"{len(weights)} layers, {MAX_LAYERS} are allowed")
    hidden = weights[0].size(2) if len(weights) > 1 else 1
    with torch.device("meta"):
        nets = Nets(NUM_MEMBERS, feature_dim, hidden, len(weights) - 2)
    state = {f"weights.{i}": weight.double() for i, weight in enumerate(weights)}
    state |= {f"biases.{i}": bias.double() for i, bias in enumerate(biases)}
    nets.load_state_dict(state, assign=True)
    return nets.requires_grad_(False)


def read_plain(path: Path) -> dict[str, Any]:
    """Return the checked content of a predictor file; raises CheckpointError."""
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
    matches = digest_matches(path, data)
    if matches is False:
        raise CheckpointError(f"{damaged} (its content does not have the SHA-256 in {path.name}.sha256)")
    content = read_foreign(path, data)
    if not isinstance(content, dict) or foreign_name(content):
        raise CheckpointError(damaged)
    return content
