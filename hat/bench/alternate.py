"""Time several cases in turn, A B A B, so that drift of the machine meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hat.latency.measure import nothing


@dataclass(frozen=True)
class Samples:
    """What one case took, one entry a round; entry i of two cases were taken one after the other."""

    ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Return the median in milliseconds."""
        return statistics.median(self.ms)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """Return the first and the third quartile in milliseconds."""
        if len(self.ms) < 2:
            return self.ms[0], self.ms[0]
        low, _, high = statistics.quantiles(self.ms, n=4, method="inclusive")
        return low, high


def ratio(one: Samples, other: Samples) -> float:
    """Return the median over rounds of how many times longer `one` took than `other`."""
    return statistics.median(a / b for a, b in zip(one.ms, other.ms, strict=True))


def alternate(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    calls: int = 1,
    settle_s: float = 0.0,
    sync: Callable[[], None] = nothing,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Samples]:
    """Return the times of all cases, each called in each round; every second round goes backwards.

    A turn of a case is `warmup` unmeasured calls and the median of `calls` measured ones. `settle_s` seconds
    pass before a turn: threads of another OpenMP runtime spin for 0.2 s after their work and would take the
    cores from the next case. `sync` waits until the device has done all its work, before and after each
    measured call: a GPU is given work and returns at once.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds):
        order: Sequence[str] = list(cases)[:: -1 if turn % 2 else 1]
        for name in order:
            if settle_s:
                pause(settle_s)
            for _ in range(warmup):
                cases[name]()
            ms = []
            for _ in range(calls):
                sync()
                start = clock()
                cases[name]()
                sync()
                ms.append(1e3 * (clock() - start))
            taken[name].append(statistics.median(ms))
    return {name: Samples(tuple(ms)) for name, ms in taken.items()}


def mean_of(series: Sequence[Mapping[str, Samples]]) -> dict[str, Samples]:
    """Return for each case the mean over several series, round by round."""
    means = {}
    for name in series[0]:
        rounds = zip(*(one[name].ms for one in series), strict=True)
        means[name] = Samples(tuple(map(statistics.fmean, rounds)))
    return means
