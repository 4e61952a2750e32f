"""The 2020 predictor network and the training of its weights."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.latency.linear import column_spread
from hat.latency.metrics import Floats

CHECK_EVERY = 20  # updates between two looks at the validation rows
PATIENCE = 8  # looks without progress before the learning rate falls
RATES = (1.0, 0.3, 0.1)  # of the initial learning rate; training ends when the last one brings nothing
WEIGHT_DECAY = 1e-2


class LatencyNet(nn.Module):
    """Linear-ReLU, `hidden_layers` times Linear-ReLU, Linear; parameter names are those of the release."""

    def __init__(self, feature_dim: int, hidden_dim: int, hidden_layers: int) -> None:
        super().__init__()
        self.first_layer = nn.Linear(feature_dim, hidden_dim)
        self.layers = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(hidden_layers))
        self.predict = nn.Linear(hidden_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [..., feature_dim] to one number each, [...]."""
        h = F.relu(self.first_layer(x))
        for layer in self.layers:
            h = F.relu(layer(h))
        out: Tensor = self.predict(h)
        return out.squeeze(-1)


@dataclass(frozen=True)
class Training:
    """What `train_net` needs besides the data."""

    hidden_dim: int
    hidden_layers: int
    max_steps: int
    batch_size: int
    learning_rate: float
    seed: int


def train_net(
    features: Floats,
    target: Floats,
    train: Floats,
    valid: Floats,
    cfg: Training,
    on_check: Callable[[int, float], object] | None = None,
) -> LatencyNet:
    """Return a network for features [rows, features] -> target [rows]; `train` and `valid` are row numbers.

    The loss is the absolute error: it learns the median, which blocks of rows measured on a busy device do
    not move. The weights with the lowest error on `valid` are returned, the untrained ones (output: the
    median) included.
    `on_check(step, validation error)` is called every few updates. The global random state is left alone.
    """
    mean, spread = features[train].mean(axis=0), column_spread(features[train])
    center = float(np.median(target[train]))
    unit = float(np.mean(np.abs(target[train] - center))) or 1.0
    x = torch.tensor((features - mean) / spread, dtype=torch.float32)
    y = torch.tensor((target - center) / unit, dtype=torch.float32)
    rng = torch.Generator().manual_seed(cfg.seed)
    with torch.device("meta"):  # the usual initialisation would draw from the global random state
        net = LatencyNet(features.shape[1], cfg.hidden_dim, cfg.hidden_layers)
    _initialise(net.to_empty(device="cpu"), rng)
    optimizer = torch.optim.AdamW(net.parameters(), lr=cfg.learning_rate, weight_decay=WEIGHT_DECAY)
    rows, valid_rows = torch.as_tensor(train), torch.as_tensor(valid)
    order, rate, failures = rows[:0], 0, 0
    best, best_error = copy.deepcopy(net.state_dict()), _error(net, x[valid_rows], y[valid_rows])
    for step in range(1, cfg.max_steps + 1):
        if len(order) < min(cfg.batch_size, len(rows)):
            order = rows[torch.randperm(len(rows), generator=rng)]
        batch, order = order[: cfg.batch_size], order[cfg.batch_size :]
        optimizer.zero_grad()
        F.l1_loss(net(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % CHECK_EVERY and step != cfg.max_steps:
            continue
        error = _error(net, x[valid_rows], y[valid_rows])
        if on_check:
            on_check(step, error * unit)
        failures += 1
        if error < best_error:
            best, best_error, failures = copy.deepcopy(net.state_dict()), error, 0
        if failures == PATIENCE:
            rate, failures = rate + 1, 0
            net.load_state_dict(best)
            if rate == len(RATES):
                break
            for group in optimizer.param_groups:
                group["lr"] = cfg.learning_rate * RATES[rate]
    net.load_state_dict(best)
    return _folded(net, mean, spread, center, unit)


@torch.no_grad()
def _initialise(net: LatencyNet, rng: torch.Generator) -> None:
    for module in net.modules():
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            module.weight.uniform_(-bound, bound, generator=rng)
            module.bias.uniform_(-bound, bound, generator=rng)
    net.predict.weight.zero_()  # the untrained network leaves the base as it is
    net.predict.bias.zero_()


@torch.no_grad()
def _error(net: LatencyNet, x: Tensor, y: Tensor) -> float:
    return float(F.l1_loss(net(x), y))


@torch.no_grad()
def _folded(net: LatencyNet, mean: Floats, spread: Floats, center: float, unit: float) -> LatencyNet:
    """Return the network with the standardisation moved into its first and last layer, so it needs none.

    Features that were constant have infinite spread: their weights become 0.
    """
    net = net.double()
    net.first_layer.weight /= torch.tensor(spread)
    net.first_layer.bias.sub_(net.first_layer.weight @ torch.tensor(mean))
    net.predict.weight *= unit
    net.predict.bias.mul_(unit).add_(center)
    return net.float()
