"""Speed of the machine while a dataset is collected, seen by short searches between the turns of its rows."""

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hat.latency.work import MeasureConfig, work_of
from hat.model.transformer import Transformer

ROWS = 24  # whose common drift is worth saying
DRIFTING_PERCENT = 3.0
TOLERANCE_PERCENT = 1.0
NEAR = 2  # looks to either side of a time: one alone says as much of itself as of the machine


@dataclass
class Anchor:
    """Looks at the machine now and then, and compares it with the machine before the first row, when `run`
    took `reference_ms`.
    """

    run: Callable[[], object]
    reference_ms: float
    steps: tuple[int, ...] = ()  # of the decoder, in each of its searches
    looks_ms: list[float] = field(default_factory=list, init=False)
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=ROWS), init=False)

    def around_ms(self, look: int) -> float:
        """Return what the looks before and after what ran between `look` and the next one say."""
        return middle(self.looks_ms[max(0, look + 1 - NEAR) : look + 1 + NEAR])

    def slower(self, around_ms: Sequence[float]) -> float:
        """Return how many times slower than at the reference the machine was during a row; 1 unless all
        the time it was slower, or faster.
        """
        slow, fast = (self.reference_ms * (1 + sign * TOLERANCE_PERCENT / 100) for sign in (1, -1))
        surely = min(around_ms) > slow or max(around_ms) < fast
        return statistics.median(around_ms) / self.reference_ms if surely else 1.0

    def see(self, now_ms: float) -> None:
        """Take note of what `run` took during a row."""
        self._last.append(100 * (now_ms / self.reference_ms - 1))

    @property
    def drift_percent(self) -> float:
        """Return how much slower the machine was at the last row than before the first one."""
        return self._last[-1] if self._last else 0.0

    @property
    def drifting(self) -> bool:
        """Return whether all of the last rows were slower, or all were faster, than before the first."""
        slower, faster = min(self._last, default=0.0), max(self._last, default=0.0)
        return len(self._last) == ROWS and max(slower, -faster) > DRIFTING_PERCENT


def middle(looks_ms: Sequence[float]) -> float:
    """Return the mean of the middle half.

    Like a median it is not moved by what disturbs a few looks; on a machine with two speeds it does not jump
    between them.
    """
    cut = len(looks_ms) // 4
    return statistics.fmean(sorted(looks_ms)[cut : len(looks_ms) - cut])


class AnchorRun(NamedTuple):
    """What an anchor runs, its decoder steps with the largest and the smallest model, and what fills the
    caches between two looks: their whole searches.
    """

    run: Callable[[], object]
    steps: tuple[int, int]
    between: Callable[[], object]


def anchor_run(largest: Transformer, smallest: Transformer, cfg: MeasureConfig) -> AnchorRun:
    """Return short searches with both models.

    One model alone would not do: other work slows one that reads its weights from memory more than one whose
    weights stay in the caches.
    """
    ends = largest, smallest
    steps = max(2, cfg.target_len // 8), max(2, cfg.target_len // 3)
    short = [work_of(model, replace(cfg, target_len=count)) for model, count in zip(ends, steps, strict=True)]
    whole = [work_of(model, cfg) for model in ends]
    return AnchorRun(lambda: [work.decode() for work in short], steps, lambda: [w.decode() for w in whole])
