"""Learning rate as a pure function of the update number."""

import math
from dataclasses import dataclass
from typing import Literal

from hat.errors import ConfigError


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate"""

    lr_scheduler: Literal["inverse_sqrt", "cosine", "fixed"] = "inverse_sqrt"
    """schedule; cosine falls from --max-lr to --lr over --max-update, inverse_sqrt peaks at --lr"""
    lr: float = 5e-4
    """peak for inverse_sqrt and fixed, *minimum* for cosine"""
    max_lr: float | None = None
    """peak of the cosine schedule"""
    warmup_updates: int = 0
    """updates of linear warm-up"""
    warmup_init_lr: float = 1e-7
    """learning rate the warm-up starts from"""
    min_lr: float = -1.0
    """stop training once the learning rate falls to this value"""

    def __post_init__(self) -> None:
        if self.lr_scheduler == "cosine" and (self.max_lr is None or self.max_lr <= self.lr):
            raise ConfigError(
                f"the cosine schedule needs --max-lr above --lr (its minimum), got max-lr {self.max_lr} "
                f"and lr {self.lr}"
            )
        for name in ("warmup_updates", "warmup_init_lr", "lr"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"--{name.replace('_', '-')} must not be negative, got {getattr(self, name)}"
                )


def learning_rate(cfg: ScheduleConfig, update: int, max_update: int) -> float:
    """Return the learning rate of update `update`, counted from 0.

    Warm-up is linear, and 0 without warm-up.
    """
    peak = cfg.lr if cfg.max_lr is None or cfg.lr_scheduler != "cosine" else cfg.max_lr
    if update < cfg.warmup_updates:
        return cfg.warmup_init_lr + (peak - cfg.warmup_init_lr) * update / cfg.warmup_updates
    if cfg.lr_scheduler == "inverse_sqrt":
        return peak * math.sqrt(max(cfg.warmup_updates, 1) / max(update, 1))
    if cfg.lr_scheduler == "cosine":
        period = max(max_update - cfg.warmup_updates, 1)
        progress = min((update - cfg.warmup_updates) / period, 1.0)
        return cfg.lr + 0.5 * (peak - cfg.lr) * (1 + math.cos(math.pi * progress))
    return peak
