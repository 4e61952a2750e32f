"""What one update trains and at which learning rate, as pure functions of the seed and the update number, so
that all processes and all resumed runs agree.
"""

import math
from dataclasses import dataclass
from typing import Literal

from hat.config import Options, option
from hat.errors import ConfigError
from hat.space import Arch, SearchSpace, draw_arch, draw_fair_arch


@dataclass(frozen=True)
class StepPlan:
    """What one update trains: each architecture on all batches of the update, with equal weight. If `distill`
    is above 0, the first architecture teaches the others, with this weight in their loss.
    """

    archs: tuple[Arch, ...]
    distill: float = 0.0


@dataclass(frozen=True)
class PolicyConfig(Options):
    """Policy of training a SuperTransformer"""

    policy: Literal["single", "sandwich", "sandwich-distill"] = "single"
    """what an update trains: single: one random SubTransformer, as in 2020; sandwich: the largest, the
    smallest and some random ones; sandwich-distill: the same, the largest teaching the others"""
    sandwich_random: int = option(1, low=0)
    """random SubTransformers of an update, beside the largest and the smallest"""
    fair_sampling: bool = option(False, "draw each choice of each dimension equally often, in random order")
    distill_share: float = option(1.0, above=0.0, high=1.0)
    """weight of the teacher's probabilities in the loss of the others; the rest is the reference"""

    def used(self) -> dict[str, object]:
        """Return the options that this policy uses, by their names in YAML."""
        random = {} if self.policy == "single" else {"sandwich-random": self.sandwich_random}
        share = {"distill-share": self.distill_share} if self.policy == "sandwich-distill" else {}
        return {"policy": self.policy, "fair-sampling": self.fair_sampling, **random, **share}

    def plan(self, space: SearchSpace, seed: int, update: int) -> StepPlan:
        """Return what update number `update` trains, counted from 0; a pure function. single is HAT 2020,
        section 3.2; sandwich and its distillation are those of Yu and Huang, "Universally Slimmable Networks"
        (2019).
        """
        draw = draw_fair_arch if self.fair_sampling else draw_arch
        if self.policy == "single":
            return StepPlan((draw(space, seed, update),))
        numbers = range(update * self.sandwich_random, (update + 1) * self.sandwich_random)
        archs = (space.largest(), space.smallest(), *(draw(space, seed, number) for number in numbers))
        return StepPlan(archs, self.distill_share if self.policy == "sandwich-distill" else 0.0)


@dataclass(frozen=True)
class ScheduleConfig(Options):
    """Learning rate"""

    lr_scheduler: Literal["inverse_sqrt", "cosine", "fixed"] = "inverse_sqrt"
    """schedule; cosine falls from --max-lr to --lr over --max-update, inverse_sqrt peaks at --lr"""
    lr: float = option(5e-4, "peak for inverse_sqrt and fixed, *minimum* for cosine", low=0.0)
    max_lr: float | None = option(None, "peak of the cosine schedule")
    warmup_updates: int = option(0, "updates of linear warm-up", low=0)
    warmup_init_lr: float = option(1e-7, "learning rate the warm-up starts from", low=0.0)
    min_lr: float = option(-1.0, "stop training once the learning rate falls to this value", role="lengthens")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr_scheduler == "cosine" and (self.max_lr is None or self.max_lr <= self.lr):
            got = f"got max-lr {self.max_lr} and lr {self.lr}"
            raise ConfigError(f"the cosine schedule needs --max-lr above --lr (its minimum), {got}")


def learning_rate(cfg: ScheduleConfig, update: int, max_update: int) -> float:
    """Return the learning rate of update `update`, counted from 0. Linear from `warmup_init_lr` to the peak
    during the warm-up, then by the schedule.
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
