"""Choose the winner under each limit: by loss, and by measured latencies on the predictor's device."""

import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hat.files.journal import Journal
from hat.log import info
from hat.search.constraints import Candidate
from hat.space import Arch

Timer = Callable[[Sequence[Arch]], list[float]]  # measured ms of each, all in one fresh process
ROUNDS = 4  # of following candidates, if no finalist keeps its limit


class Finalist(NamedTuple):
    """A candidate and its measured latencies, each from another process."""

    candidate: Candidate
    measured_ms: tuple[float, ...]


@dataclass(frozen=True)
class Winner(Candidate):
    """The architecture chosen under one limit, and what was measured for it."""

    measured_ms: float | None = None  # the highest of its measurements
    holds: bool | None = None  # whether that keeps the limit; None: not measured, or there is no limit
    finalists: tuple[Finalist, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return architecture, loss, cost and measurement as plain values."""
        return {**super().plain(), "measured_ms": self.measured_ms, "within": self.holds}


def choose_finalists(
    ranked: Mapping[float, Sequence[Candidate]],
    count: int,
    timer: Timer | None,
    tell: Callable[[str], object] = info,
) -> dict[float, Winner]:
    """Return the winner under each limit in ms.

    The winner is the best whose measured latency keeps the limit in two processes. If none of the first
    `count` does, those that follow and should keep it by the ratio of measured to predicted latency are
    measured too; if none keeps it at all, the winner is the fastest one measured. No architecture is measured
    more often than needed.

    `ranked` holds for each limit the candidates that keep it as predicted, best first. `timer` measures
    architectures in a fresh process; None chooses by loss alone. `tell` hears what a user should know.
    """
    tried = {limit_ms: list(few[:count]) for limit_ms, few in ranked.items()}
    measured: defaultdict[Arch, tuple[float, ...]] = defaultdict(tuple)

    def highest(candidate: Candidate) -> float:
        return max(measured[candidate.arch])

    def best_within(limit_ms: float) -> Candidate | None:
        return next((each for each in tried[limit_ms] if highest(each) <= limit_ms), None)

    wanted = {each.arch: 1 for few in tried.values() for each in few} if timer else {}
    while timer and wanted:
        archs = [arch for arch, times in wanted.items() if len(measured[arch]) < times]
        for arch, ms in zip(archs, timer(archs) if archs else [], strict=True):
            measured[arch] += (ms,)
        wanted = {}
        for limit_ms, few in tried.items():
            if best := best_within(limit_ms):
                if len(measured[best.arch]) == 1:
                    wanted[best.arch] = 2
                continue
            ratio = statistics.median(highest(each) / each.predicted_ms for each in few)
            likely = [each for each in ranked[limit_ms] if ratio * each.predicted_ms <= limit_ms]
            following = [each for each in likely if each not in few][:count]
            if following and len(few) <= ROUNDS * count:
                tell(
                    f"none of {len(few)} finalists measures within {limit_ms:g} ms (measured / predicted: "
                    f"{ratio:.3f}); going on with {len(following)} predicted below {limit_ms / ratio:.2f} ms"
                )
                few += following
                wanted |= {each.arch: 1 for each in following if each.arch not in wanted}
    winners = {}
    for limit_ms, few in tried.items():
        best = best_within(limit_ms) if timer else few[0]
        if best is None:
            best = min(few, key=highest)
            tell(
                f"none of {len(few)} finalists measures within {limit_ms:g} ms, the fastest takes "
                f"{highest(best):.2f} ms; measure a larger latency dataset, or raise the limit"
            )
        measured_ms = highest(best) if timer else None
        holds = None if measured_ms is None or limit_ms == math.inf else measured_ms <= limit_ms
        finalists = tuple(Finalist(each, measured[each.arch]) for each in few)
        winners[limit_ms] = Winner(**vars(best), measured_ms=measured_ms, holds=holds, finalists=finalists)
    return winners


class DeviceTimer:
    """Measures architectures in fresh processes, and keeps each measurement in a journal if there is one.

    `measure` yields what holds `total_ms` and `conditions` for each architecture, all measured in one fresh
    process. A search that goes on takes from the journal what was measured under the conditions `asked`.
    """

    def __init__(
        self,
        measure: Callable[[Sequence[Arch]], Iterable[Any]],
        asked: Mapping[str, str],
        journal: Journal | None = None,
    ) -> None:
        self._measure, self._asked, self._journal = measure, dict(asked), journal
        self._processes: Counter[Arch] = Counter()  # in which each architecture was measured
        self._held: defaultdict[Arch, list[dict[str, Any]]] = defaultdict(list)
        self.conditions: dict[str, str] = {}  # of the last measurement
        for record in journal.records if journal else ():
            if record.get("asked") == self._asked:
                self._held[Arch.from_yaml(record["arch"])].append(record)

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        """Return the latency of each architecture in ms, all measured in one fresh process.

        The n-th call with an architecture returns its n-th measurement under these conditions. Only those
        that the journal does not hold are made, and each is on disk before the next is made.
        """
        new = [arch for arch in archs if len(self._held[arch]) == self._processes[arch]]
        if self._journal and (held := len(archs) - len(new)):
            info(f"{self._journal.path}: {held} of {len(archs)} finalists are measured already")
        start = time.perf_counter()
        for arch, result in zip(new, self._measure(new) if new else [], strict=True):
            record = {
                "arch": arch.to_yaml(),
                "process": self._processes[arch] + 1,
                "asked": self._asked,
                "measured_ms": result.total_ms,
                "conditions": dict(result.conditions),
            }
            if self._journal:
                self._journal.append(record)
            self._held[arch].append(record)
            if not self.conditions:
                self.conditions = record["conditions"]
                facts = ", ".join(f"{name} {value}" for name, value in self.conditions.items())
                left_s = (len(new) - 1) * (time.perf_counter() - start)
                left = f"{len(new) - 1} more, {about(left_s)}"
                info(f"finalists are measured in fresh processes: {facts}; {left}")
        found = [self._held[arch][self._processes[arch]] for arch in archs]
        self._processes.update(archs)
        self.conditions = found[-1]["conditions"]
        return [record["measured_ms"] for record in found]


def about(seconds: float) -> str:
    """Return a time in minutes, as it is expected."""
    return f"about {max(seconds / 60, 0.1):.1f} min"
