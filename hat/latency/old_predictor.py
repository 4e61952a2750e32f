"""Predictors of the 2020 release and of our format 1: one network that reads the ten averaged features."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hat.errors import CheckpointError, brief
from hat.latency.linear import DEPTH
from hat.latency.metrics import Floats
from hat.latency.network import LatencyNet
from hat.space import FEATURE_NAMES

MAX_LOG_RATIO = math.log(4)


class OldModel:
    """latency_ms = lat_norm * net(x) of the release, lat_norm * base(x) * exp(net(x)) of format 1.

    x = features / feature_norm; the base is linear in the features and in features times decoder depth.
    """

    def __init__(
        self,
        net: LatencyNet,
        feature_norm: Sequence[float],
        lat_norm: float,
        base: Sequence[float] = (),
        floor: float = 0.0,
    ) -> None:
        self._net = net.double().eval().requires_grad_(False)  # double: one row or many, the same result
        self._feature_norm = np.array(feature_norm, dtype=np.float64)
        self._lat_norm = lat_norm
        self._base = np.array(base, dtype=np.float64)
        self._floor = floor  # lowest value of the base, in lat_norm

    def predict(self, features: Floats) -> Floats:
        """Return latencies in ms [rows] of unnormalised features [rows, 10]."""
        x = features / self._feature_norm
        with torch.inference_mode():
            out: Floats = self._net(torch.from_numpy(x)).numpy()
        if not self._base.size:
            return out * self._lat_norm
        columns = np.hstack([x, x * x[:, DEPTH : DEPTH + 1], np.ones((len(x), 1))])
        base = np.maximum(columns @ self._base, self._floor)
        return self._lat_norm * base * np.exp(np.clip(out, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def released_model(
    state: dict[str, Any], feature_norm: Sequence[float], lat_norm: float, path: Path
) -> OldModel:
    """Return the predictor of a bare state dict; raises CheckpointError where it does not fit."""
    _check_norm(feature_norm, f"{path}: feature-norm")
    return OldModel(net_of(state, path), feature_norm, float(lat_norm))


def format_1_model(content: Mapping[str, Any], path: Path) -> OldModel:
    """Return the predictor of a file of format 1; raises CheckpointError, KeyError, TypeError, ValueError."""
    if content["feature_names"] != list(FEATURE_NAMES):
        raise CheckpointError(f"{path} predicts from other features: {brief(content['feature_names'])}")
    _check_norm(content["feature_norm"], f"{path}: feature_norm")
    net = net_of(content["model"], path)
    sizes = (net.first_layer.out_features, len(net.layers))
    numbers = [content["lat_norm"], *content["base"], content["floor"]]
    base_size = {"log_ratio": 2 * len(FEATURE_NAMES) + 1, "latency": 0}[content["target"]]
    if (
        sizes != (content["hidden_dim"], content["hidden_layer_num"])
        or len(content["base"]) != base_size
        or not all(type(n) is float and math.isfinite(n) for n in numbers)
        or content["lat_norm"] <= 0
    ):
        raise ValueError("sizes or numbers that contradict each other")
    return OldModel(net, content["feature_norm"], content["lat_norm"], content["base"], content["floor"])


def net_of(state: dict[str, Any], path: Path) -> LatencyNet:
    """Return the network of a state dict, which gives the sizes; raises CheckpointError where none fits."""
    wrong = f"{path}: not the weights of a latency predictor"
    for name, value in state.items():
        if not (torch.is_tensor(value) and value.is_floating_point() and bool(value.isfinite().all())):
            raise CheckpointError(f"{wrong}: {brief(name)} is not a tensor of finite numbers")
    first = state.get("first_layer.weight")
    if first is None or first.dim() != 2 or first.shape[1] != len(FEATURE_NAMES) or not first.shape[0]:
        raise CheckpointError(f"{wrong}: first_layer.weight must be [hidden, {len(FEATURE_NAMES)}]")
    hidden_layers = sum(name.startswith("layers.") and name.endswith(".weight") for name in state)
    with torch.device("meta"):
        net = LatencyNet(first.shape[1], first.shape[0], hidden_layers)
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {str(name): tuple(value.shape) for name, value in state.items()}
    if expected != found:
        first_wrong = next(n for n in (*expected, *found) if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{wrong}: {brief(first_wrong)} has shape {found.get(first_wrong)}, expected "
            f"{expected.get(first_wrong)}"
        )
    net.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    return net


def _check_norm(norm: Sequence[float], name: str) -> None:
    if len(norm) != len(FEATURE_NAMES) or not all(0 < value < math.inf for value in norm):
        raise CheckpointError(
            f"{name} must hold {len(FEATURE_NAMES)} numbers above 0, got {brief(list(norm))}"
        )
