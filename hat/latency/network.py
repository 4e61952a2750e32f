"""The network of the 2020 predictor, and several narrow ones of its kind trained side by side."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hat.latency.metrics import Floats

CHECK_EVERY = 20  # updates between two looks at the rows left out
PATIENCE = 5  # looks without progress of any network before the learning rate falls
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


class Nets(nn.Module):
    """`count` networks of one shape, computed at once; each is a LatencyNet in all but memory layout.

    Made with all parameters 0, so that they map everything to 0.
    """

    def __init__(self, count: int, feature_dim: int, hidden_dim: int, hidden_layers: int) -> None:
        super().__init__()
        sizes = [feature_dim, *[hidden_dim] * (hidden_layers + 1), 1]
        shapes = list(zip(sizes, sizes[1:], strict=False))
        self.weights = nn.ParameterList(torch.zeros(count, *shape) for shape in shapes)
        self.biases = nn.ParameterList(torch.zeros(count, 1, width) for _, width in shapes)

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draw all weights but those of the last layer, so that the networks still map everything to 0."""
        for weight in list(self.weights)[:-1]:
            bound = (3 / weight.size(1)) ** 0.5  # keeps the variance of what passes
            weight.uniform_(-bound, bound, generator=rng)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [count, rows, feature_dim] to [count, rows]."""
        *inner, last = zip(self.weights, self.biases, strict=True)
        for weight, bias in inner:
            x = F.relu(torch.baddbmm(bias, x, weight))
        out: Tensor = torch.baddbmm(last[1], x, last[0]).squeeze(-1)
        return out


@dataclass(frozen=True)
class Training:
    """What `train_nets` needs besides the data; `hidden_dim` is the width of one network."""

    hidden_dim: int
    hidden_layers: int
    max_steps: int
    batch_size: int
    learning_rate: float
    seed: int


def train_nets(
    features: Floats,
    target: Floats,
    fold: NDArray[np.int64],
    weight: Floats,
    cfg: Training,
    on_check: Callable[[int, float], object] | None = None,
) -> Nets:
    """Return one network for each row of `target` [count, rows], from `features` [rows, features].

    Network k learns from the rows whose `fold` [rows] is not k; the weights with the lowest error on those
    whose fold is k are returned, the untrained ones included. The loss is the absolute error, which learns
    the median, weighted by `weight` [rows]. `on_check(step, mean error)` is called every few updates. The
    global random state is left alone.
    """
    count, unit = len(target), float(np.median(np.abs(target))) or 1.0
    rng = torch.Generator().manual_seed(cfg.seed)
    nets = Nets(count, features.shape[1], cfg.hidden_dim, cfg.hidden_layers)
    nets.initialise(rng)
    x = torch.tensor(features, dtype=torch.float32).expand(count, -1, -1)
    y = torch.tensor(target / unit, dtype=torch.float32)
    importance = torch.tensor(weight, dtype=torch.float32)
    left_out = torch.as_tensor(fold) == torch.arange(count)[:, None]
    held_weight = importance * left_out / (importance * left_out).sum(1, keepdim=True)
    rows = [torch.nonzero(~own).squeeze(1) for own in left_out]
    batch_size = min(cfg.batch_size, *map(len, rows))
    optimizer = torch.optim.AdamW(
        nets.parameters(), lr=cfg.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
    )

    @torch.no_grad()
    def errors() -> Tensor:
        error: Tensor = ((nets(x) - y).abs() * held_weight).sum(1)
        return error

    best = {name: value.clone() for name, value in nets.state_dict().items()}
    lowest, rate, failures = errors(), 0, 0
    for step in range(1, cfg.max_steps + 1):
        batch = torch.stack([own[torch.randperm(len(own), generator=rng)[:batch_size]] for own in rows])
        optimizer.zero_grad()
        error = (nets(x[0][batch]) - y.gather(1, batch)).abs()
        (error * importance[batch]).mean(1).sum().backward()
        optimizer.step()
        if step % CHECK_EVERY and step != cfg.max_steps:
            continue
        now = errors()
        better = now < lowest
        for name, value in nets.state_dict().items():
            best[name][better] = value[better]
        failures = 0 if bool(better.any()) else failures + 1
        lowest = torch.minimum(now, lowest)
        if on_check:
            on_check(step, float(lowest.mean()) * unit)
        if failures == PATIENCE:
            rate, failures = rate + 1, 0
            if rate == len(RATES):
                break
            nets.load_state_dict(best)
            for group in optimizer.param_groups:
                group["lr"] = cfg.learning_rate * RATES[rate]
    nets.load_state_dict(best)
    with torch.no_grad():
        nets.weights[-1] *= unit
        nets.biases[-1] *= unit
    return nets
