"""Row 7: latencies of simulated machines that drift, stutter, warm up slowly or have two speeds."""

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tally import Tally, count
from toy_rows import draw_arch

from hat.latency import measure
from hat.latency.collect import row_of_timing
from hat.latency.measure import TOGETHER, Anchor, MeasureConfig, Timing, Workload, drifting

CFG = MeasureConfig(30, 30)


ARCH = draw_arch(random.Random(1))
KINDS = ("5", "10", "17.7", "spikes", "modes", "slow", "clean")
ROWS = 60
ANCHOR_MS = 40.0


@dataclass(frozen=True)
class Fault:
    """How many times slower one repeat is; repeats are counted from the start of its row."""

    slower: Callable[[int, int, random.Random], float]  # (row, repeat, rng)
    first: int = ROWS  # rows that were measured in turn before a drift begins
    percent: float = 0.0


def fault_of(kind: str, rng: random.Random) -> Fault:
    if kind == "clean":
        return Fault(lambda row, repeat, rng: 1.0)
    if kind == "spikes":  # another process takes the core now and then
        share, height = rng.uniform(0.02, 0.2), rng.uniform(1.2, 4)
        return Fault(lambda row, repeat, rng: height if rng.random() < share else 1.0)
    if kind == "modes":  # for example two clock frequencies; the second is half of the repeats at most
        share, gap = rng.uniform(0.1, 0.5), rng.uniform(1.05, 1.25) ** rng.choice((-1, 1))
        return Fault(lambda row, repeat, rng: gap if rng.random() < share else 1.0)
    if kind == "slow":  # cold caches and clocks, before each row
        height, length = rng.uniform(0.1, 1), rng.uniform(1, 10)
        return Fault(lambda row, repeat, rng: 1 + height * math.exp(-repeat / length))
    percent, first, at = float(kind), rng.randrange((ROWS - 24) // TOGETHER), rng.randrange(10)
    length = rng.choice((0, 3, 10, 20))  # repeats over which the machine gets slower

    def slower(row: int, repeat: int, rng: random.Random) -> float:
        done = float(row // TOGETHER > first)
        if row // TOGETHER == first and repeat >= at:
            done = min(1.0, (repeat - at + 1) / (length + 1))
        return 1 + done * percent / 100

    return Fault(slower, first, percent)


class Machine:
    """A clock and two parts that let it run on, with the noise of a real quiet machine.

    The standard deviation of repeats varies between machines as it does between the rows of
    `latency_dataset/multi30kende_cpu_xeon_amx.csv`: median 0.55%, 95% of them below 1.4%.
    """

    def __init__(self, fault: Fault, rng: random.Random) -> None:
        self.fault, self.rng = fault, rng
        self.noise = min(0.0055 * math.exp(0.55 * rng.gauss(0, 1)), 0.03)
        self.now_s, self.row, self.looks = 0.0, 0, 0
        self.repeats: Counter[int] = Counter()  # of each row

    def part_ms(self, ms: float, repeat: int | None = None) -> float:
        repeat = self.repeats[self.row] if repeat is None else repeat
        slower = self.fault.slower(self.row, repeat, self.rng)
        return ms * slower * math.exp(self.noise * self.rng.gauss(0, 1))

    def time(self, rows_ms: dict[int, float], anchor: Anchor) -> list[Timing]:
        """Return what the real functions measure of rows that take so many milliseconds."""
        parts = {
            row: (self._part(row, 0.1 * ms), self._part(row, 0.9 * ms, 1)) for row, ms in rows_ms.items()
        }
        works = [Workload(*two) for two in parts.values()]
        return measure.time_in_turn(works, CFG, {}, int, lambda: self.now_s, anchor)

    def anchor(self) -> Anchor:
        """Return the anchor, timed on this machine before the first row."""
        self.row = -1
        run = self._run_anchor
        return Anchor(run, measure.reference_ms(run, int, int, lambda: self.now_s))

    def _part(self, row: int, ms: float, repeats: int = 0) -> Callable[[], None]:
        def run() -> None:
            self.row = row
            self.now_s += self.part_ms(ms) / 1e3
            self.repeats[row] += repeats

        return run

    def _run_anchor(self) -> None:
        """Meet the machine as it is now, but not what a row's own first repeats meet."""
        self.looks += 1
        self.now_s += self.part_ms(ANCHOR_MS, self.looks) / 1e3

    def truth(self, row: int) -> float:
        """Return the sum of the medians of many repeats, relative to the undisturbed machine."""
        self.row = row
        return sum(statistics.median(self.part_ms(ms, 10**6) for _ in range(801)) for ms in (0.1, 0.9))


def collect(kind: str, seed: int) -> tuple[bool, int, int, list[float], list[int]]:
    """Return what a collection of `ROWS` rows on one machine reported.

    Whether drift was said of a row; how many rows are unstable, and during how many a drift began; the errors
    of all others, relative to the machine of the first; and the repeats of each row.
    """
    rng = random.Random(f"{kind} {seed}")
    fault = fault_of(kind, rng)
    machine = Machine(fault, rng)
    anchor, true = machine.anchor(), 1.0 if fault.percent else machine.truth(0)
    drifts, errors, unstable, begun = list[float](), list[float](), 0, 0
    for start in range(0, ROWS, TOGETHER):
        rows_ms = {row: rng.uniform(20, 400) for row in range(start, min(ROWS, start + TOGETHER))}
        for (number, ms), timing in zip(rows_ms.items(), machine.time(rows_ms, anchor), strict=True):
            drifts.append(anchor.drift_percent(timing))
            if not timing.stable:
                unstable += 1
            elif number // TOGETHER == fault.first:
                begun += 1
            else:
                errors.append(row_of_timing(ARCH, timing, anchor).total_ms / ms / true - 1)
    flagged = any(drifting(drifts[:count]) for count in range(1, len(drifts) + 1))
    return flagged, unstable, begun, errors, [machine.repeats[row] for row in range(ROWS)]


@pytest.mark.parametrize("kind", KINDS)
def test_series(kind: str) -> None:
    """Drift is said, nothing else is, and what is said to be stable is right."""
    number = count(2 if kind == "modes" else 4, 143)
    with Tally(7, f"timing: {kind}") as tally:
        flagged, unstable, begun, errors, repeats = zip(
            *(collect(kind, seed) for seed in range(number)), strict=True
        )
        tally.injected, tally.survived = number, flagged.count(kind[0].isdigit())
        tally.lose("rows stored as unstable", sum(unstable))
        tally.lose("rows during which a drift began", sum(begun))
        sizes = [abs(error) for each in errors for error in each]
        assert tally.survived >= 0.95 * number
        assert sum(size <= 0.01 for size in sizes) >= 0.95 * len(sizes)
        assert max(sizes) < 0.05 or kind == "modes"  # seven repeats of one mode look like a quiet machine
        assert sum(unstable) <= (0.6 if kind == "modes" else 0.05) * ROWS * number
        median = statistics.median(row for each in repeats for row in each)
        assert median <= 12 or kind in ("modes", "spikes", "slow")


ENDLESS = {
    "slower with each repeat": Fault(lambda row, repeat, rng: 1.01**repeat),
    "two equal modes": Fault(lambda row, repeat, rng: rng.choice((1.0, 1.1))),
    "any length": Fault(lambda row, repeat, rng: rng.uniform(1, 3)),
}


@pytest.mark.parametrize("fault", ENDLESS.values(), ids=ENDLESS)
def test_what_does_not_settle_is_stored_as_unstable(fault: Fault) -> None:
    with Tally(7, "never settling") as tally:
        for seed in range(count(8, 40)):
            with tally.fault():
                machine = Machine(fault, random.Random(seed))
                anchor = machine.anchor()
                (timing,) = machine.time({0: 100.0}, anchor)
                row = row_of_timing(ARCH, timing, anchor)
                tally.lose("of them looked settled", int(row.conditions["stable"]))
                assert machine.now_s < 6 * CFG.budget_s, "the budget of each timing"
        assert tally.lost.total() <= 0.05 * tally.injected + 1


def test_a_short_slow_spell_is_no_drift() -> None:
    machine = Machine(Fault(lambda row, repeat, rng: 1.2 if row == 1 else 1.0), random.Random(1))
    anchor, drifts = machine.anchor(), list[float]()
    for number in range(30):
        (timing,) = machine.time({number: 100.0}, anchor)
        drifts.append(anchor.drift_percent(timing))
        scaled = row_of_timing(ARCH, timing, anchor).total_ms
        assert abs(scaled / 100 - 1) < 0.02, "scaled back while it lasts"
        assert not drifting(drifts) and (number == 1 or abs(drifts[-1]) < 2)
