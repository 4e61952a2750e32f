"""Say at the beginning of a search how long it will take, from how long its first scores took."""

import time
from collections.abc import Callable, Mapping

from hat.log import say

TIMED = 3  # scores, after one that warms up


class Forecast:
    """Hears of each score, and tells once how long each stage takes."""

    def __init__(
        self, tell: Callable[[str], object] = say, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._tell, self._clock = tell, clock
        self._stages: Mapping[str, int] = {}
        self._at_once, self._count, self._start = 1, 0, 0.0

    def expect(self, stages: Mapping[str, int], at_once: int) -> None:
        """Take note of how many architectures each stage is still to score, `at_once` at a time."""
        self._stages, self._at_once = stages, at_once

    def scored(self) -> None:
        """Count one score of this process."""
        self._count += 1
        if self._count == 1:
            self._start = self._clock()
        elif self._count == 1 + TIMED:
            each_s = (self._clock() - self._start) / TIMED / self._at_once
            stages = [
                f"{name}: {count} evaluations, {about(count * each_s)}"
                for name, count in self._stages.items()
                if count
            ]
            self._tell("; ".join(stages))


def about(seconds: float) -> str:
    """Return a time in minutes, as it is expected."""
    return f"about {max(seconds / 60, 0.1):.1f} min"
