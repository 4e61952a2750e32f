"""Which architectures a search may score: limits on latency, parameters and FLOPs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hat.errors import ConfigError
from hat.model.count import count_macs, count_params
from hat.space import Arch, SearchSpace


@dataclass(frozen=True)
class LimitOptions:
    """Constraints"""

    latency_constraints: tuple[float, ...] = ()
    """several highest latencies in ms instead of the one of --latency-constraint; one YAML file for each"""
    latency_lower: float | None = None
    """lowest predicted latency in ms"""
    max_params: float | None = None
    """most parameters of the layers, without embeddings and output matrix, for example 2.5e6"""
    min_params: float | None = None
    """fewest parameters of the layers"""
    max_flops: float | None = None
    """most FLOPs of one sentence of --profile-length, without the output matrix"""
    min_flops: float | None = None
    """fewest FLOPs of one sentence of --profile-length"""

    def __post_init__(self) -> None:
        for limit in self.latency_constraints:
            if not 0 < limit < math.inf:
                raise ConfigError(f"--latency-constraints must be above 0 ms, got {limit}")
        if len(set(self.latency_constraints)) < len(self.latency_constraints):
            raise ConfigError(f"--latency-constraints names a limit twice: {self.latency_constraints}")
        for name in ("latency_lower", "max_params", "min_params", "max_flops", "min_flops"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')} must not be negative, got {value}")
        for low, high in (("min_params", "max_params"), ("min_flops", "max_flops")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ConfigError(
                    f"--{low.replace('_', '-')} {least:g} is above --{high.replace('_', '-')} {most:g}"
                )

    def beside_latency(self) -> bool:
        """Return whether parameters, FLOPs or a lowest latency are limited."""
        names = ("latency_lower", "max_params", "min_params", "max_flops", "min_flops")
        return any(getattr(self, name) is not None for name in names)


def known_ms(limit_ms: float) -> float | None:
    """Return a latency limit as files name it: None for infinity, where only other things are limited."""
    return limit_ms if limit_ms < math.inf else None


def under(limit_ms: float) -> str:
    """Return a latency limit in words."""
    return f"under {limit_ms:g} ms" if limit_ms < math.inf else "at any latency"


class Cost(NamedTuple):
    """What an architecture costs; known without scoring it."""

    predicted_ms: float
    bound_ms: float  # latency that a measurement exceeds rarely; the prediction where there is no bound
    params: int  # of the layers
    flops: int


class _Rule(NamedTuple):
    flag: str
    value: Callable[[Cost], float]
    limit: float
    upper: bool
    unit: str

    def holds(self, cost: Cost) -> bool:
        value = self.value(cost)
        return value <= self.limit if self.upper else value >= self.limit  # nan holds neither

    @property
    def words(self) -> str:
        return f"{'under' if self.upper else 'above'} {self.limit:g} {self.unit}"


class Gate:
    """Tells which architectures keep all limits, and remembers how near the refused ones came.

    A latency limit is kept by `margin` times the prediction, the upper bound of a predictor that has one.
    """

    def __init__(
        self,
        space: SearchSpace,
        limits: LimitOptions,
        upper_ms: float = math.inf,
        *,
        margin: float = 1.0,
        length: int = 30,
    ) -> None:
        self._space, self._margin, self._length = space, margin, length
        rules = [
            ("latency-constraint", _bound_ms, upper_ms, True, "ms"),
            ("latency-lower", _predicted_ms, limits.latency_lower, False, "ms"),
            ("max-params", _params, limits.max_params, True, "parameters"),
            ("min-params", _params, limits.min_params, False, "parameters"),
            ("max-flops", _flops, limits.max_flops, True, "FLOPs"),
            ("min-flops", _flops, limits.min_flops, False, "FLOPs"),
        ]
        self._rules = [
            _Rule(flag, value, limit, upper, unit)
            for flag, value, limit, upper, unit in rules
            if limit is not None and limit < math.inf
        ]
        self._nearest = {rule.flag: math.inf if rule.upper else -math.inf for rule in self._rules}

    def cost(self, arch: Arch, predicted_ms: float) -> Cost:
        """Return what `arch` costs, given its predicted latency."""
        params = count_params(arch, self._space)
        flops = 2 * count_macs(arch, self._space, self._length)
        return Cost(predicted_ms, self._margin * predicted_ms, params, flops)

    def __call__(self, archs: Sequence[Arch], predicted_ms: Sequence[float]) -> list[bool]:
        """Return for each architecture whether it keeps all limits."""
        allowed = []
        for arch, ms in zip(archs, predicted_ms, strict=True):
            cost = self.cost(arch, ms)
            allowed.append(ms == ms and all(rule.holds(cost) for rule in self._rules))
            for rule in self._rules:
                value, nearest = rule.value(cost), self._nearest[rule.flag]
                if value < nearest if rule.upper else value > nearest:
                    self._nearest[rule.flag] = value
        return allowed

    def refusal(self, tries: int) -> str:
        """Return what to tell a user when none of `tries` architectures kept the limits."""
        if not self._rules:
            return f"no architecture with a known latency in {tries} tries; train the predictor again"
        wanted = " and ".join(rule.words for rule in self._rules)
        flags = " or ".join(f"--{rule.flag}" for rule in self._rules)
        (first, *others) = self._rules
        if first.flag == "latency-constraint" and not others:
            what = f"{self._nearest[first.flag]:.1f} ms" + (" (upper bound)" if self._margin > 1 else "")
            return f"no architecture {wanted} in {tries} tries; fastest seen {what}; raise {flags}"
        seen = ", ".join(f"{self._nearest[rule.flag]:g} {rule.unit} ({rule.flag})" for rule in self._rules)
        return f"no architecture {wanted} in {tries} tries; nearest seen, each alone: {seen}; loosen {flags}"


def _bound_ms(cost: Cost) -> float:
    return cost.bound_ms


def _predicted_ms(cost: Cost) -> float:
    return cost.predicted_ms


def _params(cost: Cost) -> float:
    return cost.params


def _flops(cost: Cost) -> float:
    return cost.flops
