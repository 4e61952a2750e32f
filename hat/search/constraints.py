"""Which architectures a search may score, by limits on latency, parameters and FLOPs, and which it finds. The
winner under each limit is chosen by loss, and by measured latencies on the predictor's device.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from hat.config import Options, flag_of, option
from hat.errors import Infeasible
from hat.files.journal import Journal
from hat.log import info
from hat.model.layers import count_macs, count_params
from hat.space import Arch, Gene, SearchSpace, arch_of_gene, gene_of

Point = tuple[float, ...]  # coordinates that are all to be made small
Score = Callable[[list[Arch]], list[float]]  # one number for each architecture: its loss, or its latency
Timer = Callable[[Sequence[Arch]], list["Measured"]]  # of each, all in one fresh process
ROUNDS = 4  # of following candidates, if no finalist keeps its limit
OBJECTIVES = {"latency": "predicted_ms", "params": "params", "flops": "flops"}  # fields of Candidate
_RULES = {  # option: field of Candidate, 1 if it is the highest value and -1 if it is the lowest
    "latency_constraint": ("bound_ms", 1),
    "latency_lower": ("predicted_ms", -1),
    "max_params": ("params", 1),
    "min_params": ("params", -1),
    "max_flops": ("flops", 1),
    "min_flops": ("flops", -1),
}
_UNITS = {"params": "parameters", "flops": "FLOPs"}  # of the others: ms


@dataclass(frozen=True)
class LimitOptions(Options):
    """Constraints beside the latency"""

    latency_lower: float | None = option(None, "lowest predicted latency in ms", low=0)
    max_params: float | None = option(None, low=0)
    """most parameters of the layers, without embeddings and output matrix, for example 2.5e6"""
    min_params: float | None = option(None, "fewest parameters of the layers", low=0)
    max_flops: float | None = option(None, low=0)
    """most FLOPs of one sentence of --profile-length, without the output matrix"""
    min_flops: float | None = option(None, "fewest FLOPs of one sentence of --profile-length", low=0)

    def beside_latency(self) -> bool:
        """Return whether parameters, FLOPs or a lowest latency are limited."""
        return any(getattr(self, each.name) is not None for each in fields(LimitOptions))


@dataclass(frozen=True)
class Candidate:
    """An architecture, the gene it was drawn as, what it costs, and its loss once it is scored."""

    arch: Arch
    gene: Gene
    predicted_ms: float
    bound_ms: float  # a measurement exceeds it rarely; the prediction if the predictor has no bound
    params: int  # of the layers
    flops: int
    loss: float = math.nan  # validation loss with inherited weights (base 2)
    trained: tuple[int, float] | None = None  # updates of its longest short training, and the loss after it

    @property
    def rank(self) -> tuple[float, float, Gene]:
        """Return what candidates are ordered by: the loss, then the predicted latency."""
        return self.loss, self.predicted_ms, self.gene

    def point(self, objectives: Sequence[str]) -> Point:
        """Return where the candidate lies: its loss, then the objectives."""
        return (self.loss, *(float(getattr(self, OBJECTIVES[name])) for name in objectives))

    def plain(self) -> dict[str, Any]:
        """Return architecture, loss and cost as plain values."""
        costs = {name: getattr(self, name) for name in ("predicted_ms", "bound_ms", "params", "flops")}
        more = dict(zip(("trained_updates", "trained_loss"), self.trained or (), strict=False))
        return {"arch": self.arch.to_yaml(), "loss": self.loss, **costs, **more}


class Pool:
    """The architectures that keep all limits: tells what they cost, and hands out each of them once.

    Args:
        space: search space of the architectures.
        predict_ms: returns the predicted latency of each architecture in ms; it is called for every draw.
        limits: limits on other things than the highest latency.
        upper_ms: highest latency in ms; `margin` times the prediction must keep it.
        margin: bound / prediction of the predictor; 1 lets the prediction decide.
        length: tokens of source and target for which FLOPs are counted.
        max_tries: draws in a row without a new architecture after which a draw gives up.
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
        max_tries: int = 1000,
    ) -> None:
        self.space, self._predict_ms, self._margin, self._length = space, predict_ms, margin, length
        values = {**vars(limits or LimitOptions()), "latency_constraint": upper_ms}
        self._limits = {name: values[name] for name in _RULES if values[name] not in (None, math.inf)}
        self._nearest = dict.fromkeys(self._limits, math.inf)  # times 1 or -1
        self._max_tries, self._taken = max_tries, set[Arch]()

    def candidates(self, genes: Mapping[Arch, Gene]) -> list[Candidate]:
        """Return what each architecture costs."""
        archs, length = list(genes), self._length
        return [
            Candidate(
                arch=arch,
                gene=genes[arch],
                predicted_ms=ms,
                bound_ms=self._margin * ms,
                params=count_params(arch, self.space),
                flops=2 * count_macs(arch, self.space, length),
            )
            for arch, ms in zip(archs, self._predict_ms(archs) if archs else [], strict=True)
        ]

    def keeps(self, candidate: Candidate) -> bool:
        """Return whether all limits are kept; remembers how near those came that keep not all of them."""
        kept = not math.isnan(candidate.predicted_ms)
        for name, limit in self._limits.items():
            field, sign = _RULES[name]
            value = sign * getattr(candidate, field)
            self._nearest[name] = min(self._nearest[name], value)
            kept = kept and value <= sign * limit
        return kept

    def initial(self, draw: Callable[[], Gene], count: int, first: Sequence[Arch] = ()) -> list[Candidate]:
        """Return up to `count` architectures: `first`, then random ones; the smallest if these are too few.
        Those of `first` that break a limit are left out. Raises Infeasible if nothing keeps the limits.
        """
        found = self.among(first, count)
        found += self.collect(draw, count - len(found))
        if len(found) < count:
            found += self.among([self.space.smallest()])
        if not found and not self._taken:
            raise Infeasible(self._refusal())
        return found

    def among(self, archs: Iterable[Arch], count: int | None = None) -> list[Candidate]:
        """Return those of `archs` that keep the limits and were never returned before, the first `count`."""
        found = self._allowed({arch: gene_of(arch, self.space) for arch in archs})
        return self.take(list(found.values())[:count])

    def collect(self, draw: Callable[[], Gene], count: int) -> list[Candidate]:
        """Return up to `count` architectures within the limits that were never returned before. Gives up
        after max_tries draws in a row brought none, so it draws about count * max_tries times at most.
        """
        return self.take(self.offer(draw, count))

    def offer(self, draw: Callable[[], Gene], count: int) -> list[Candidate]:
        """Return architectures as `collect` does, but leave them to be returned again: see `take`."""
        found: dict[Arch, Candidate] = {}
        failures = 0
        while len(found) < count and failures < self._max_tries:
            genes = [draw() for _ in range(min(count, self._max_tries - failures))]
            archs = [arch_of_gene(gene, self.space) for gene in genes]
            first = dict(zip(reversed(archs), reversed(genes), strict=True))  # gene drawn first of each
            new = self._allowed({arch: first[arch] for arch in archs if arch not in found})
            for arch in archs:
                if arch in new and len(found) < count:
                    found[arch] = new.pop(arch)
                    failures = 0
                else:
                    failures += 1
        return list(found.values())

    def take(self, found: list[Candidate]) -> list[Candidate]:
        """Never return these again; returns them."""
        self._taken.update(each.arch for each in found)
        return found

    def _allowed(self, genes: Mapping[Arch, Gene]) -> dict[Arch, Candidate]:
        new = {arch: gene for arch, gene in genes.items() if arch not in self._taken}
        return {each.arch: each for each in self.candidates(new) if self.keeps(each)}

    def _refusal(self) -> str:
        if not self._limits:
            return (
                f"no architecture with a known latency in {self._max_tries} tries; train the predictor again"
            )
        wanted, seen = [], []
        for name, limit in self._limits.items():
            field, sign = _RULES[name]
            nearest, unit = sign * self._nearest[name], _UNITS.get(field, "ms")
            wanted.append(f"{'under' if sign > 0 else 'above'} {limit:g} {unit}")
            bound = " (upper bound)" if field == "bound_ms" and self._margin > 1 else ""
            seen.append(f"{nearest:.1f} ms{bound}" if unit == "ms" else f"{nearest:g} {unit}")
        alone = list(self._limits) == ["latency_constraint"]
        return (
            f"no architecture {' and '.join(wanted)} in {self._max_tries} tries; "
            f"{'fastest seen' if alone else 'nearest seen, each alone:'} {', '.join(seen)}; "
            f"{'raise' if alone else 'loosen'} {' or '.join(map(flag_of, self._limits))}"
        )


def kept(limit_ms: float | None, measured_ms: float | None, interval_ms: float | None) -> bool | None:
    """Return whether a latency keeps a limit; None if one of them is unknown, or if the limit lies within the
    interval of the measurement, so that it is open.
    """
    if limit_ms is None or measured_ms is None or 0 < abs(measured_ms - limit_ms) < (interval_ms or 0.0):
        return None
    return measured_ms <= limit_ms


def in_ms(value: float, interval: float | None = None) -> str:
    """Return a latency in words, with its interval if that is known."""
    digits = 1 if value >= 10 else 2
    return f"{value:.{digits}f}{'' if interval is None else f' +- {interval:.{digits}f}'} ms"


class Measured(NamedTuple):
    """A latency in ms, and how far it may be off."""

    measured_ms: float
    measured_interval_ms: float


@dataclass(frozen=True)
class Finalist(Candidate):
    """A candidate under a limit, as it was measured; that of a winner also holds all that were tried."""

    limit_ms: float | None = None
    measured_ms: float | None = None
    measured_interval_ms: float | None = None
    finalists: tuple["Finalist", ...] = ()

    @property
    def holds(self) -> bool | None:
        """Return whether the latency keeps the limit, see `kept`."""
        return kept(self.limit_ms, self.measured_ms, self.measured_interval_ms)

    def plain(self) -> dict[str, Any]:
        """Return architecture, loss, cost and measurement as plain values."""
        measured = {name: getattr(self, name) for name in Measured._fields}
        return {**super().plain(), **measured, "within": self.holds}


def choose_finalists(
    ranked: Mapping[float, Sequence[Candidate]],
    count: int,
    timer: Timer | None,
    tell: Callable[[str], object] = info,
) -> dict[float, Finalist]:
    """Return the winner under each limit in ms.

    The winner is the best whose measured latency keeps the limit, see `kept`. If none of the first `count`
    does, those that follow and should keep it by the ratio of measured to predicted latency are measured too.
    If none keeps it at all, the winner is the best of which that is open, or else the fastest one measured.
    `ranked` holds for each limit the candidates that keep it as predicted, best first. `timer` measures
    architectures in a fresh process; None chooses by loss alone. `tell` hears what a user should know.
    """
    tried = {limit_ms: list(few[:count]) for limit_ms, few in ranked.items()}
    measured: dict[Arch, Measured] = {}

    def new() -> list[Arch]:
        archs = dict.fromkeys(each.arch for few in tried.values() for each in few)
        return [arch for arch in archs if arch not in measured]

    while timer and (archs := new()):
        measured |= zip(archs, timer(archs), strict=True)
        for limit_ms, few in tried.items():
            if len(few) > ROUNDS * count or any(kept(limit_ms, *measured[each.arch]) for each in few):
                continue
            ratio = statistics.median(sum(measured[each.arch]) / each.predicted_ms for each in few)
            likely = [each for each in ranked[limit_ms] if ratio * each.predicted_ms <= limit_ms]
            if following := [each for each in likely if each not in few][:count]:
                tell(
                    f"none of {len(few)} finalists measures within {limit_ms:g} ms (measured with interval / "
                    f"predicted: {ratio:.3f}); going on with {len(following)} predicted below "
                    f"{limit_ms / ratio:.2f} ms"
                )
                few += following
    winners = {}
    for limit_ms, some in tried.items():
        limit = limit_ms if limit_ms < math.inf else None
        finalists = [Finalist(**vars(each), limit_ms=limit) for each in some]
        if timer:
            finalists = [replace(each, **measured[each.arch]._asdict()) for each in finalists]
        best = next((each for wanted in (True, None) for each in finalists if each.holds is wanted), None)
        best = best or min(finalists, key=lambda each: each.measured_ms or math.inf)
        if best.limit_ms and best.measured_ms and not best.holds:
            found = in_ms(best.measured_ms, best.measured_interval_ms)
            what = f"the best that may takes {found}, so this limit is open"
            if best.holds is False:
                what = f"the fastest takes {found}; measure a larger latency dataset, or raise the limit"
            tell(f"none of {len(finalists)} finalists measures within {limit_ms:g} ms, {what}")
        winners[limit_ms] = replace(best, finalists=tuple(finalists))
    return winners


class DeviceTimer:
    """Measures architectures in fresh processes, and keeps each measurement in a journal if there is one.
    `measure` yields what holds `total_ms`, `interval_ms` and `conditions` for each architecture, all measured
    in one fresh process. A search that goes on takes from the journal what was measured under the conditions
    `asked`.
    """

    def __init__(
        self,
        measure: Callable[[Sequence[Arch]], Iterable[Any]],
        asked: Mapping[str, str],
        journal: Journal | None = None,
    ) -> None:
        self._measure, self._asked, self._journal = measure, dict(asked), journal
        self._held: dict[Arch, dict[str, Any]] = {}
        self.conditions: dict[str, str] = {}  # of the last measurement
        for record in journal.records if journal else ():
            if record.get("asked") == self._asked and Measured._fields[1] in record:
                self._held[Arch.from_yaml(record["arch"])] = record

    def __call__(self, archs: Sequence[Arch]) -> list[Measured]:
        """Return the latency of each architecture; those that no journal holds share one fresh process."""
        new = [arch for arch in archs if arch not in self._held]
        if self._journal and (held := len(archs) - len(new)):
            info(f"{self._journal.path}: {held} of {len(archs)} finalists are measured already")
        for arch, result in zip(new, self._measure(new) if new else [], strict=True):
            measured = Measured(result.total_ms, result.interval_ms)._asdict()
            record = {"arch": arch.to_yaml(), "asked": self._asked, **measured}
            record["conditions"] = dict(result.conditions)
            if self._journal:
                self._journal.append(record)
            self._held[arch] = record
            if not self.conditions:
                self.conditions = record["conditions"]
                facts = ", ".join(f"{name} {value}" for name, value in self.conditions.items())
                info(f"finalists are measured in fresh processes: {facts}")
        found = [self._held[arch] for arch in archs]
        self.conditions = found[-1]["conditions"]
        return [Measured(*(record[name] for name in Measured._fields)) for record in found]
