"""Drift of the machine while a dataset is collected,
seen by timing one fixed architecture again and again.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from hat.latency.measure import Timing


@dataclass
class Anchor:
    """Compares the machine now with the machine at the first row.

    `time_it` measures the anchor architecture. Rows whose block of measurements drifted by more than
    `tolerance_percent` are scaled back; smaller differences are the noise of the anchor itself.
    """

    time_it: Callable[[], Timing]
    every: int = 20
    tolerance_percent: float = 3.0
    reference_ms: float | None = None  # taken from the file when a collection is resumed
    now_ms: float = field(default=0.0, init=False)
    _age: int = field(default=0, init=False)

    def check(self) -> None:
        """Re-time the anchor when it is due.

        The reference, and a drift before it counts, are medians of three timings: every row that is scaled
        back shares their error. Timings that did not settle tell nothing, unless there are no others.
        """
        if self.now_ms and self._age < self.every:
            self._age += 1
            return
        self._age = 1
        timings = [self.time_it()]
        if self.reference_ms is None or self._drifts(timings[0].total_ms):
            timings += [self.time_it(), self.time_it()]
        known = [timing.total_ms for timing in timings if timing.stable]
        if not known and self.now_ms:
            return
        self.now_ms = statistics.median(known or [timing.total_ms for timing in timings])
        if self.reference_ms is None:
            self.reference_ms = self.now_ms

    def _drifts(self, ms: float) -> bool:
        return self.reference_ms is not None and (
            abs(ms / self.reference_ms - 1) > self.tolerance_percent / 100
        )

    @property
    def drift_percent(self) -> float:
        """Return how much slower the machine is than at the first row."""
        return 100 * (self.now_ms / self.reference_ms - 1) if self.reference_ms else 0.0

    @property
    def correction(self) -> float:
        """Return the factor that turns a latency measured now into one of the reference machine."""
        return 1 / (1 + self.drift_percent / 100) if self._drifts(self.now_ms) else 1.0
