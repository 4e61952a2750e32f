"""Which architectures a search may score: limits on latency, parameters and FLOPs, and draws within them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, NamedTuple

from hat.config import Options, flag_of, option
from hat.errors import ConfigError, Infeasible
from hat.model.count import count_macs, count_params
from hat.space import Arch, Gene, SearchSpace, arch_of_gene, gene_of

Score = Callable[[list[Arch]], list[float]]  # one number for each architecture: its loss, or its latency


@dataclass(frozen=True)
class LimitOptions(Options):
    """Constraints beside the latency"""

    latency_lower: float | None = option(None, low=0)
    """lowest predicted latency in ms"""
    max_params: float | None = option(None, low=0)
    """most parameters of the layers, without embeddings and output matrix, for example 2.5e6"""
    min_params: float | None = option(None, low=0)
    """fewest parameters of the layers"""
    max_flops: float | None = option(None, low=0)
    """most FLOPs of one sentence of --profile-length, without the output matrix"""
    min_flops: float | None = option(None, low=0)
    """fewest FLOPs of one sentence of --profile-length"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high in (("min_params", "max_params"), ("min_flops", "max_flops")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ConfigError(f"{flag_of(low)} {least:g} is above {flag_of(high)} {most:g}")

    def beside_latency(self) -> bool:
        """Return whether parameters, FLOPs or a lowest latency are limited."""
        names = LimitOptions.__dataclass_fields__
        return any(getattr(self, name) is not None for name in names)


class Cost(NamedTuple):
    """What an architecture costs; known without scoring it."""

    predicted_ms: float
    bound_ms: float  # a measurement exceeds it rarely; the prediction if the predictor has no bound
    params: int  # of the layers
    flops: int


@dataclass(frozen=True)
class Scored:
    """An architecture, its validation loss with inherited weights (base 2), and its cost."""

    arch: Arch
    loss: float
    cost: Cost

    def plain(self) -> dict[str, Any]:
        """Return architecture, loss and cost as plain values."""
        return {"arch": self.arch.to_yaml(), "loss": self.loss, **self.cost._asdict()}


class _Rule(NamedTuple):
    flag: str
    number: int  # place in Cost
    limit: float
    upper: bool
    unit: str

    def holds(self, cost: Cost) -> bool:
        value = cost[self.number]
        return value <= self.limit if self.upper else value >= self.limit  # nan holds neither

    @property
    def words(self) -> str:
        return f"{'under' if self.upper else 'above'} {self.limit:g} {self.unit}"


class Constraints:
    """Tells what architectures cost and which of them keep all limits.

    Args:
        space: search space of the architectures.
        predict_ms: returns the predicted latency of each architecture in ms; it is called for every draw.
        limits: limits on other things than the highest latency.
        upper_ms: highest latency in ms; `margin` times the prediction must keep it.
        margin: bound / prediction of the predictor; 1 lets the prediction decide.
        length: tokens of source and target for which FLOPs are counted.
    """

    def __init__(
        self,
        space: SearchSpace,
        predict_ms: Score,
        limits: LimitOptions | None = None,
        upper_ms: float = math.inf,
        *,
        margin: float = 1.0,
        length: int = 30,
    ) -> None:
        self.space, self._predict_ms, self._margin, self._length = space, predict_ms, margin, length
        limits = limits or LimitOptions()
        rules = [
            ("--latency-constraint", 1, upper_ms, True, "ms"),
            ("--latency-lower", 0, limits.latency_lower, False, "ms"),
            ("--max-params", 2, limits.max_params, True, "parameters"),
            ("--min-params", 2, limits.min_params, False, "parameters"),
            ("--max-flops", 3, limits.max_flops, True, "FLOPs"),
            ("--min-flops", 3, limits.min_flops, False, "FLOPs"),
        ]
        self._rules = [
            _Rule(flag, number, limit, upper, unit)
            for flag, number, limit, upper, unit in rules
            if limit is not None and limit < math.inf
        ]
        self._nearest = [math.inf if rule.upper else -math.inf for rule in self._rules]

    def costs(self, archs: Sequence[Arch]) -> list[Cost]:
        """Return what each architecture costs."""
        predicted = self._predict_ms(list(archs)) if archs else []
        return [
            Cost(
                ms,
                self._margin * ms,
                count_params(arch, self.space),
                2 * count_macs(arch, self.space, self._length),
            )
            for arch, ms in zip(archs, predicted, strict=True)
        ]

    def keeps(self, cost: Cost) -> bool:
        """Return whether all limits are kept; remembers how near those came that keep not all of them."""
        for number, rule in enumerate(self._rules):
            choose = min if rule.upper else max
            self._nearest[number] = choose(self._nearest[number], cost[rule.number])
        return not math.isnan(cost.predicted_ms) and all(rule.holds(cost) for rule in self._rules)

    def within(self, archs: Sequence[Arch]) -> list[Arch]:
        """Return those of the architectures that keep all limits, in their order."""
        return [arch for arch, cost in zip(archs, self.costs(archs), strict=True) if self.keeps(cost)]

    def refusal(self, tries: int) -> str:
        """Return what to tell a user if none of `tries` architectures kept the limits."""
        if not self._rules:
            return f"no architecture with a known latency in {tries} tries; train the predictor again"
        wanted = " and ".join(rule.words for rule in self._rules)
        flags = " or ".join(rule.flag for rule in self._rules)
        if [rule.flag for rule in self._rules] == ["--latency-constraint"]:
            what = f"{self._nearest[0]:.1f} ms" + (" (upper bound)" if self._margin > 1 else "")
            return f"no architecture {wanted} in {tries} tries; fastest seen {what}; raise {flags}"
        seen = ", ".join(
            f"{nearest:g} {rule.unit} ({rule.flag.removeprefix('--')})"
            for rule, nearest in zip(self._rules, self._nearest, strict=True)
        )
        return f"no architecture {wanted} in {tries} tries; nearest seen, each alone: {seen}; loosen {flags}"


class Found(NamedTuple):
    """An architecture that keeps the limits, and the gene it was drawn as."""

    gene: Gene
    arch: Arch
    cost: Cost


class Pool:
    """Hands out architectures that keep the limits, each once in its life."""

    def __init__(self, constraints: Constraints, max_tries: int) -> None:
        self._constraints, self._max_tries = constraints, max_tries
        self._space = constraints.space
        self._taken: set[Arch] = set()

    def initial(self, draw: Callable[[], Gene], count: int, first: Sequence[Arch] = ()) -> list[Found]:
        """Return up to `count` architectures: `first`, then random ones; the smallest if these are too few.

        Those of `first` that break a limit are left out. Raises Infeasible if nothing keeps the limits.
        """
        found = self.among(first, count)
        found += self.collect(draw, count - len(found))
        if len(found) < count:
            found += self.among([self._space.smallest()])
        if not found and not self._taken:
            raise Infeasible(self._constraints.refusal(self._max_tries))
        return found

    def among(self, archs: Sequence[Arch], count: int | None = None) -> list[Found]:
        """Return those of `archs` that keep the limits and were never returned before, the first `count`."""
        genes = cycle([gene_of(arch, self._space) for arch in archs])
        found = self.offer(lambda: next(genes), len(archs), max_tries=len(archs))[:count] if archs else []
        self.take(found)
        return found

    def collect(self, draw: Callable[[], Gene], count: int) -> list[Found]:
        """Return up to `count` architectures within the limits that were never returned before.

        Gives up after max_tries draws in a row brought none, so it draws about count * max_tries times
        at most.
        """
        found = self.offer(draw, count)
        self.take(found)
        return found

    def offer(self, draw: Callable[[], Gene], count: int, max_tries: int | None = None) -> list[Found]:
        """Return architectures as `collect` does, but leave them to be returned again: see `take`."""
        max_tries = max_tries or self._max_tries
        found: dict[Arch, Found] = {}
        failures = 0
        while len(found) < count and failures < max_tries:
            genes = [draw() for _ in range(min(count, max_tries - failures))]
            archs = [arch_of_gene(gene, self._space) for gene in genes]
            unseen = list(dict.fromkeys(a for a in archs if a not in self._taken and a not in found))
            allowed = {
                arch: cost
                for arch, cost in zip(unseen, self._constraints.costs(unseen), strict=True)
                if self._constraints.keeps(cost)
            }
            for gene, arch in zip(genes, archs, strict=True):
                if len(found) < count and arch in allowed and arch not in found:
                    found[arch] = Found(gene, arch, allowed[arch])
                    failures = 0
                else:
                    failures += 1
        return list(found.values())

    def take(self, found: Sequence[Found]) -> None:
        """Never return these again."""
        self._taken.update(each.arch for each in found)
