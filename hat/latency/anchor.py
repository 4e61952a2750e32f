"""Drift of the machine while a dataset is collected,
seen by timing one fixed architecture again and again.
"""

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
        """Re-time the anchor when it is due; a drift is confirmed by a second timing before it counts."""
        if self.now_ms and self._age < self.every:
            self._age += 1
            return
        self.now_ms = self.time_it().total_ms
        if self.reference_ms is None:
            self.reference_ms = self.now_ms
        if abs(self.drift_percent) > self.tolerance_percent:
            again = self.time_it().total_ms
            self.now_ms = min((self.now_ms, again), key=lambda ms: abs(ms - (self.reference_ms or ms)))
        self._age = 1

    @property
    def drift_percent(self) -> float:
        """Return how much slower the machine is than at the first row."""
        return 100 * (self.now_ms / self.reference_ms - 1) if self.reference_ms else 0.0

    @property
    def correction(self) -> float:
        """Return the factor that turns a latency measured now into one of the reference machine."""
        drifted = abs(self.drift_percent) > self.tolerance_percent
        return 1 / (1 + self.drift_percent / 100) if drifted else 1.0
