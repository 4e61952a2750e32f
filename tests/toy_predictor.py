"""Latency predictors that cost no time: 20 ms for each decoder layer, and random weights as released."""

from pathlib import Path

import torch
from torch import Tensor, nn

from hat.latency.predictor import LatencyPredictor
from hat.latency.table import row_of
from hat.space import Arch, DecoderArch, EncoderArch


def save_predictor(path: Path) -> None:
    """Write one that answers for any space, in well under a second."""
    encoder, rows = EncoderArch(640, (1024,) * 6, (8,) * 6), []
    for depth in [*range(1, 7)] * 4:
        decoder = DecoderArch(640, (1024,) * depth, (8,) * depth, (8,) * depth, (1,) * depth)
        rows.append(row_of(Arch(encoder, decoder), (5.0, 0.1), (20.0 * depth, 0.1), {}))
    LatencyPredictor.fit(rows).save(path)


def released_weights(hidden: int, hidden_layers: int = 1) -> dict[str, Tensor]:
    """Return weights under the names of the release: Linear-ReLU, hidden_layers times Linear-ReLU, Linear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Module()
        net.first_layer = nn.Linear(10, hidden)
        net.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(hidden_layers))
        net.predict = nn.Linear(hidden, 1)
    return net.state_dict()
