"""Drift of the machine while a dataset is collected, seen by short searches that are timed with every row."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hat.latency.measure import MeasureConfig, Timing, work_of
from hat.model.transformer import Transformer

ROWS = 10  # whose common drift is worth saying


@dataclass
class Anchor:
    """Compares the machine now with the machine before the first row.

    The anchor runs between the repeats of each row (`hat.latency.measure.sample_ms`). Rows during which it
    surely took longer or shorter than `reference_ms`, its time before the first row, by `tolerance_percent`
    and more are scaled back; so are all whose repeats had to be scaled by it, and all of a drift that lasts.
    """

    reference_ms: float
    steps: tuple[int, ...] = ()  # of the decoder, in each of its searches
    tolerance_percent: float = 1.5
    drifting_percent: float = 3.0
    now_ms: float = field(default=0.0, init=False)
    _corrects: bool = field(default=False, init=False)
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=ROWS), init=False)

    def see(self, timing: Timing) -> None:
        """Take note of a row that was timed with the anchor."""
        pace = timing.pace
        assert pace is not None
        self.now_ms = pace.median_ms
        slower, faster = (1 + sign * self.tolerance_percent / 100 for sign in (1, -1))
        beyond = pace.low_ms > slower * self.reference_ms or pace.high_ms < faster * self.reference_ms
        self._last.append(self.drift_percent)
        self._corrects = pace.scaled or beyond or self.drifting

    @property
    def drift_percent(self) -> float:
        """Return how much slower the machine was at the last row than before the first one."""
        return 100 * (self.now_ms / self.reference_ms - 1) if self.now_ms else 0.0

    @property
    def correction(self) -> float:
        """Return the factor that turns a latency measured now into one of the reference machine."""
        return 1 / (1 + self.drift_percent / 100) if self._corrects else 1.0

    @property
    def drifting(self) -> bool:
        """Return whether all of the last rows were slower, or all were faster, than before the first."""
        slower, faster = min(self._last, default=0.0), max(self._last, default=0.0)
        return len(self._last) == ROWS and max(slower, -faster) > self.drifting_percent


def anchor_of(
    largest: Transformer, smallest: Transformer, cfg: MeasureConfig
) -> tuple[Callable[[], object], tuple[int, int]]:
    """Return an anchor, and its decoder steps with either model.

    One model alone would not do: other work slows one that reads its weights from memory more than one whose
    weights stay in the caches.
    """
    steps = max(2, cfg.target_len // 8), max(2, cfg.target_len // 3)
    runs = [
        work_of(model, replace(cfg, target_len=count)).decode
        for model, count in zip((largest, smallest), steps, strict=True)
    ]
    return lambda: [run() for run in runs], steps
