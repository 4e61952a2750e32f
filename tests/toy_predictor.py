"""A latency predictor trained on a few made-up rows: 20 ms for each decoder layer."""

from pathlib import Path

from hat.latency.predictor import LatencyPredictor
from hat.latency.predictor_config import PredictorConfig
from hat.latency.table import row_of
from hat.space import Arch, DecoderArch, EncoderArch


def save_predictor(path: Path) -> None:
    """Write one that answers for any space, in well under a second."""
    rows = [
        row_of(
            Arch(
                EncoderArch(640, (1024,) * 6, (8,) * 6),
                DecoderArch(640, (1024,) * depth, (8,) * depth, (8,) * depth, (1,) * depth),
            ),
            (5.0, 0.1),
            (20.0 * depth, 0.1),
            {},
        )
        for depth in range(1, 7)
        for _ in range(4)
    ]
    LatencyPredictor.fit(rows, PredictorConfig(hidden_dim=8, hidden_layer_num=1, train_steps=2), 1).save(path)
