"""Choose the winner under each limit: by loss, and by measured latencies on the predictor's device."""

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hat.files.journal import Journal
from hat.log import say
from hat.search.constraints import Scored
from hat.space import Arch

Timer = Callable[[Sequence[Arch]], list[float]]  # measured ms of each, all in one fresh process
ROUNDS = 4  # of following candidates, if no finalist keeps its limit


class Finalist(NamedTuple):
    """A candidate and its measured latencies, each from another process."""

    candidate: Scored
    measured_ms: tuple[float, ...]


@dataclass(frozen=True)
class Winner(Scored):
    """The architecture chosen under one limit, and what was measured for it."""

    measured_ms: float | None = None  # the highest of its measurements
    holds: bool | None = None  # whether that keeps the limit; None: not measured
    finalists: tuple[Finalist, ...] = ()

    @property
    def predicted_ms(self) -> float:
        """Return the predicted latency."""
        return self.cost.predicted_ms

    @property
    def bound_ms(self) -> float:
        """Return the latency that a measurement exceeds rarely."""
        return self.cost.bound_ms


def choose_finalists(
    ranked: Mapping[float, Sequence[Scored]],
    count: int,
    timer: Timer | None,
    tell: Callable[[str], object] = say,
) -> dict[float, Winner]:
    """Return the winner under each limit in ms.

    The winner is the best whose measured latency keeps the limit in two processes. If none of the first
    `count` does, those that follow and should keep it by the ratio of measured to predicted latency are
    measured too; if none keeps it at all, the winner is the fastest one measured. No architecture is measured
    more often than needed.

    Args:
        ranked: for each limit in ms the candidates that keep it as predicted, best first.
        count: candidates measured first, and in each further round.
        timer: measures architectures in a fresh process; None chooses by loss alone.
        tell: hears what a user should know.
    """
    if timer is None:
        firsts = {limit: tuple(Finalist(each, ()) for each in few[:count]) for limit, few in ranked.items()}
        return {limit: _winner(few[0].candidate, None, None, few) for limit, few in firsts.items()}
    measured: dict[Arch, tuple[float, ...]] = {}

    def measure(candidates: Iterable[Scored], times: int = 1) -> None:
        archs = dict.fromkeys(each.arch for each in candidates)
        new = [arch for arch in archs if len(measured.get(arch, ())) < times]
        for arch, ms in zip(new, timer(new) if new else [], strict=True):
            measured[arch] = (*measured.get(arch, ()), ms)

    def highest(candidate: Scored) -> float:
        return max(measured[candidate.arch])

    def first_within(candidates: Sequence[Scored], limit_ms: float) -> Scored | None:
        return next((each for each in candidates if highest(each) <= limit_ms), None)

    def choose(candidates: Sequence[Scored], limit_ms: float) -> tuple[Scored, list[Scored]]:
        tried = list(candidates[:count])
        for turn in range(ROUNDS + 1):
            while winner := first_within(tried, limit_ms):
                if len(measured[winner.arch]) > 1:
                    return winner, tried
                measure([winner], times=2)
            ratio = statistics.median(highest(each) / each.cost.predicted_ms for each in tried)
            likely = [each for each in candidates if ratio * each.cost.predicted_ms <= limit_ms]
            following = [each for each in likely if each not in tried][:count]
            if not following or turn == ROUNDS:
                break
            tell(
                f"none of {len(tried)} finalists measures within {limit_ms:g} ms (measured / predicted: "
                f"{ratio:.3f}); going on with {len(following)} predicted below {limit_ms / ratio:.2f} ms"
            )
            measure(following)
            tried += following
        fastest = min(tried, key=highest)  # above the limit, as none keeps it
        tell(
            f"none of {len(tried)} finalists measures within {limit_ms:g} ms, the fastest takes "
            f"{highest(fastest):.2f} ms; measure a larger latency dataset, or raise the limit"
        )
        return fastest, tried

    measure(each for few in ranked.values() for each in few[:count])
    leaders = [first_within(few[:count], limit) for limit, few in ranked.items()]
    measure((each for each in leaders if each), times=2)
    found = {}
    for limit_ms, candidates in ranked.items():
        winner, tried = choose(candidates, limit_ms)
        finalists = tuple(Finalist(each, measured[each.arch]) for each in tried)
        found[limit_ms] = _winner(winner, highest(winner), highest(winner) <= limit_ms, finalists)
    return found


def _winner(
    scored: Scored, measured_ms: float | None, holds: bool | None, finalists: tuple[Finalist, ...]
) -> Winner:
    return Winner(scored.arch, scored.loss, scored.cost, measured_ms, holds, finalists)


class DeviceTimer:
    """Measures architectures in fresh processes, and keeps each measurement in a journal if there is one.

    Args:
        measure: yields what holds `total_ms` and `conditions` for each architecture, all measured in one
            fresh process.
        asked: conditions that are asked for; measurements of others in the journal do not count.
        path: journal; a search that goes on takes measurements from there.
    """

    def __init__(
        self,
        measure: Callable[[Sequence[Arch]], Iterable[Any]],
        asked: Mapping[str, str],
        path: Path | None = None,
    ) -> None:
        self._measure, self._asked, self._path = measure, dict(asked), path
        self._processes: Counter[Arch] = Counter()  # in which each architecture was measured
        self._held: defaultdict[Arch, list[dict[str, Any]]] = defaultdict(list)
        self.conditions: dict[str, str] = {}  # of the last measurement
        if path is not None and path.exists():
            with Journal(path) as journal:
                for record in journal.records:
                    if record.get("asked") == self._asked:
                        self._held[Arch.from_yaml(record["arch"])].append(record)

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        """Return the latency of each architecture in ms, all measured in one fresh process.

        The n-th call with an architecture returns its n-th measurement under these conditions. Only those
        that the journal does not hold are made, and each is on disk before the next is made.
        """
        new = [arch for arch in archs if len(self._held[arch]) == self._processes[arch]]
        if len(new) < len(archs):
            say(f"{self._path}: {len(archs) - len(new)} of {len(archs)} finalists are measured already")
        start = time.perf_counter()
        for number, (arch, result) in enumerate(zip(new, self._measure(new) if new else [], strict=True), 1):
            if number == 1 < len(new):
                left = about((len(new) - 1) * (time.perf_counter() - start))
                say(f"finalists: {len(new) - 1} more to measure, {left}")
            if not self.conditions:
                facts = ", ".join(f"{name} {value}" for name, value in result.conditions.items())
                say(f"finalists are measured in fresh processes: {facts}")
            self.conditions = dict(result.conditions)
            self._keep(arch, result)
        found = [self._held[arch][self._processes[arch]] for arch in archs]
        self._processes.update(archs)
        self.conditions = found[-1]["conditions"]
        return [record["measured_ms"] for record in found]

    def _keep(self, arch: Arch, result: Any) -> None:
        record = {
            "arch": arch.to_yaml(),
            "process": self._processes[arch] + 1,
            "asked": self._asked,
            "measured_ms": result.total_ms,
            "conditions": dict(result.conditions),
        }
        if self._path is not None:
            with Journal(self._path) as journal:
                journal.append(record)
        self._held[arch].append(record)


def about(seconds: float) -> str:
    """Return a time in minutes, as it is expected."""
    return f"about {max(seconds / 60, 0.1):.1f} min"
