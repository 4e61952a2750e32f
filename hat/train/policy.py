"""What one update of a SuperTransformer trains: a strategy gives the architectures of each update."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, Protocol

from hat.errors import ConfigError
from hat.space import Arch, SearchSpace, draw_arch, draw_fair_arch

Draw = Callable[[SearchSpace, int, int], Arch]  # space, seed, number of the draw


@dataclass(frozen=True)
class PolicyConfig:
    """Policy of training a SuperTransformer"""

    policy: Literal["single", "sandwich", "sandwich-distill"] = "single"
    """what an update trains: single: one random SubTransformer, as in 2020; sandwich: the largest, the
    smallest and some random ones; sandwich-distill: the same, the largest teaching the others"""
    sandwich_random: int = 1
    """random SubTransformers of an update, beside the largest and the smallest"""
    fair_sampling: bool = False
    """draw each choice of each dimension equally often, in random order"""
    distill_share: float = 1.0
    """share of the teacher's probabilities in what the others learn; the rest is the reference"""

    def __post_init__(self) -> None:
        if self.sandwich_random < 0:
            raise ConfigError(f"--sandwich-random must not be negative, got {self.sandwich_random}")
        if not 0 < self.distill_share <= 1:
            raise ConfigError(
                f"--distill-share must be above 0 and at most 1, got {self.distill_share}; "
                "--policy sandwich trains without a teacher"
            )

    def counting(self) -> dict[str, object]:
        """Return the options that this policy reads, by their flags."""
        found: dict[str, object] = {"--policy": self.policy, "--fair-sampling": self.fair_sampling}
        if self.policy != "single":
            found["--sandwich-random"] = self.sandwich_random
        if self.policy == "sandwich-distill":
            found["--distill-share"] = self.distill_share
        return found

    def unused(self, *, alone: bool) -> list[str]:
        """Return the flags that were given and change nothing, `alone` where one architecture is trained."""
        counting = {} if alone else self.counting()
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        flags = [f"--{name.replace('_', '-')}" for name in given]
        return [flag for flag in flags if flag not in counting]


@dataclass(frozen=True)
class Lesson:
    """What one update trains: each architecture on all its batches, with equal weight.

    With `distill` above 0 the first one teaches the others: so large a share of what they learn are its
    probabilities.
    """

    archs: tuple[Arch, ...]
    distill: float = 0.0


class Policy(Protocol):
    """A way to train a SuperTransformer."""

    def lesson(self, space: SearchSpace, seed: int, update: int) -> Lesson:
        """Return what an update trains: a pure function, so all ranks and all resumes agree."""
        ...


@dataclass(frozen=True)
class Single:
    """One random architecture for each update (HAT 2020, section 3.2)."""

    draw: Draw = draw_arch

    def lesson(self, space: SearchSpace, seed: int, update: int) -> Lesson:
        """Return the one architecture."""
        return Lesson((self.draw(space, seed, update),))


@dataclass(frozen=True)
class Sandwich:
    """The largest, the smallest and random ones in each update; the largest may teach the others.

    The sandwich rule and in-place distillation of Yu and Huang, "Universally Slimmable Networks" (2019).
    """

    num_random: int
    distill: float = 0.0
    draw: Draw = draw_arch

    def lesson(self, space: SearchSpace, seed: int, update: int) -> Lesson:
        """Return the largest, the smallest, then the random ones."""
        first = update * self.num_random
        drawn = (self.draw(space, seed, first + number) for number in range(self.num_random))
        return Lesson((space.largest(), space.smallest(), *drawn), self.distill)


def policy_of(cfg: PolicyConfig) -> Policy:
    """Return the strategy that the options ask for."""
    draw = draw_fair_arch if cfg.fair_sampling else draw_arch
    if cfg.policy == "single":
        return Single(draw)
    return Sandwich(cfg.sandwich_random, cfg.distill_share if cfg.policy == "sandwich-distill" else 0.0, draw)
