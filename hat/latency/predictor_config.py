"""Options of the latency predictor."""

import math
from dataclasses import dataclass

from hat.errors import ConfigError
from hat.space import FEATURE_NAMES


@dataclass(frozen=True)
class PredictorConfig:
    """Latency predictor"""

    lat_dataset_path: str | None = None
    """CSV file of measured latencies; the same name without _all is read where only that exists"""
    feature_norm: tuple[float, ...] = ()
    """normalisers of the 2020 recipe, without effect: training here finds its own"""
    lat_norm: float | None = None
    """normaliser of the 2020 recipe in ms, without effect: training here finds its own"""
    feature_dim: int = 10
    """number of averaged features; 10"""
    hidden_dim: int = 400
    """width of the hidden layers, shared out among the five networks of the ensemble"""
    hidden_layer_num: int = 3
    """number of hidden layers after the first"""
    ckpt_path: str | None = None
    """predictor file"""
    train_steps: int = 5000
    """most updates; training ends earlier when the error on rows left out no longer falls"""
    bsz: int = 128
    """rows per update"""
    predictor_lr: float = 1e-3
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
        norm = self.feature_norm
        if norm and (len(norm) != len(FEATURE_NAMES) or not all(0 < value < math.inf for value in norm)):
            raise ConfigError(
                f"--feature-norm must hold {len(FEATURE_NAMES)} numbers above 0, got {list(norm)}"
            )
        if self.lat_norm is not None and not 0 < self.lat_norm < math.inf:
            raise ConfigError(f"--lat-norm must be above 0 ms, got {self.lat_norm}")
