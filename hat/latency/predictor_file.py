"""Read predictor files without trusting them: plain values and tensors only, damage is an error."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from hat.arch.features import FEATURE_NAMES
from hat.errors import CheckpointError
from hat.files.atomic import digest_matches
from hat.latency.network import LatencyNet

MAX_BYTES = 1 << 28


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
    try:
        if matches is None and zipfile.is_zipfile(io.BytesIO(data)):  # torch does not compare the CRCs itself
            broken = zipfile.ZipFile(io.BytesIO(data)).testzip()
            if broken:
                raise CheckpointError(f"{damaged} (wrong checksum of {broken})")
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch's readers raise a dozen types, depending on where the damage is
        raise CheckpointError(f"{damaged} ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise CheckpointError(damaged)
    return content


def net_of(state: dict[str, Any], path: Path) -> LatencyNet:
    """Return the network of a state dict, which gives the sizes; raises CheckpointError where none fits."""
    wrong = f"{path}: not the weights of a latency predictor"
    for name, value in state.items():
        if not (torch.is_tensor(value) and value.is_floating_point() and bool(value.isfinite().all())):
            raise CheckpointError(f"{wrong}: {name} is not a tensor of finite numbers")
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
            f"{wrong}: {first_wrong} has shape {found.get(first_wrong)}, expected {expected.get(first_wrong)}"
        )
    net.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    return net
