"""The predictor of HAT 2020, trained as the release trains it, to compare with."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.latency.costs import Floats

HIDDEN_DIM, HIDDEN_LAYERS = 400, 3
STEPS, BATCH_SIZE, LEARNING_RATE = 5000, 128, 1e-5


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


def recipe_2020(
    features: Floats, latency_ms: Floats, feature_norm: Floats, lat_norm: float, seed: int
) -> Callable[[Floats], Floats]:
    """Return a function from features [rows, 10] to latencies in ms [rows].

    Mean squared error of latency / lat_norm on batches of 128 rows (all, where there are fewer), 5,000 steps
    of Adam, no early stopping. The global random state is left alone.
    """
    x = torch.tensor(features / feature_norm, dtype=torch.float32)
    y = torch.tensor(latency_ms / lat_norm, dtype=torch.float32)
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # the usual initialisation of linear layers, seeded
        torch.manual_seed(seed)
        net = LatencyNet(x.size(1), HIDDEN_DIM, HIDDEN_LAYERS)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
    for _ in range(STEPS):
        rows = torch.randperm(len(x), generator=rng)[:BATCH_SIZE]
        optimizer.zero_grad()
        F.mse_loss(net(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def predict(unseen: Floats) -> Floats:
        with torch.inference_mode():
            out = net(torch.tensor(unseen / feature_norm, dtype=torch.float32))
        latency: Floats = out.double().numpy() * lat_norm
        return latency

    return predict
