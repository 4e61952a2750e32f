"""Several models timed in turn, on a clock that the test moves."""

import math
import random
from collections.abc import Callable, Iterable
from itertools import chain, repeat

import pytest

from hat.latency.measure import ENOUGH, TURNS, MeasureConfig, Timing, Work, time_in_turn

CFG = MeasureConfig(17, 17, row_budget_s=1.0)
STEPS = 4


def nothing() -> None:
    """Stand for what waits for a device."""


class Clock:
    """Time that passes only while something runs, `slower` times as slow as on a machine at rest."""

    def __init__(self, slower: Iterable[float] = ()) -> None:
        self.now_s, self.slower, self.ran = 0.0, chain(slower, repeat(1.0)), list[int]()

    def __call__(self) -> float:
        return self.now_s

    def work(self, number: int) -> Work:
        """Return a model whose encoder takes 1 ms more than its number, and all steps ten times as much."""

        def run(mark: Callable[[], object]) -> None:
            self.ran.append(number)
            for part in range(1 + STEPS):
                if part:
                    mark()
                ms = (1.0 + number) * (10.0 / STEPS if part else 1.0)
                self.now_s += next(self.slower) * ms / 1e3

        return run

    def time(self, count: int, cfg: MeasureConfig = CFG, anchor: int = 0) -> list[Timing]:
        works = [self.work(number) for number in range(count + anchor)]
        return time_in_turn(works[:count], cfg, {"beam": "5"}, nothing, self, works[count:])


def test_each_has_equally_many_turns_and_a_quiet_machine_needs_the_fewest() -> None:
    clock = Clock()
    timings = clock.time(3)
    assert [timing.total_ms for timing in timings] == pytest.approx([11, 22, 33])
    assert [timing.encoder_ms for timing in timings] == pytest.approx([1, 2, 3])
    assert clock.ran == [0, 1, 2] * ENOUGH
    for timing in timings:
        assert timing.interval_ms < 1e-6 and timing.anchor_ms is None
        assert timing.conditions == {"beam": "5", "iterations": str(ENOUGH)}


def test_what_other_work_adds_does_not_count() -> None:
    """Every search is disturbed, but not every step."""
    busy = [3.0 if n % 3 == 0 else 1.0 for n in range(1000)]
    for timing, ms in zip(Clock(busy).time(4), (11, 22, 33, 44), strict=True):
        assert timing.total_ms == pytest.approx(ms)


@pytest.mark.parametrize("slower", [0.8, 1.0, 1.3])
def test_a_latency_at_the_speed_of_another_anchor(slower: float) -> None:
    for timing in Clock(repeat(slower)).time(2, anchor=2):
        assert timing.anchor_ms == pytest.approx(slower * (33 + 44))
        at = timing.at_speed(33 + 44)
        assert at.total_ms == pytest.approx(timing.total_ms / slower)
        assert at.interval_ms == pytest.approx(0, abs=1e-6)


def test_the_interval_is_how_far_halves_lie_apart_and_that_of_the_anchor_comes_on_top() -> None:
    for repeats in ([[1.0, 9.0], [1.0, 9.5]] * 4, [[1.0, 9.0]] * 4 + [[1.0, 9.5]] * 4):
        assert Timing.of(repeats, {}).interval_ms == pytest.approx(0.5)
    with_anchor = Timing(1.0, 9.0, 0.0, 0.0, 0.5, {}, anchor_ms=50.0, anchor_percent=2.0)
    at = with_anchor.at_speed(100.0)
    assert (at.total_ms, at.interval_ms) == pytest.approx((20.0, 2 * (0.5 + 0.2)))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("slower", [1.0, 2.0, 7.0])
def test_the_budget_is_kept_whatever_else_runs(count: int, slower: float) -> None:
    rng = random.Random(1)
    noise = (slower * (1 + rng.random()) for _ in repeat(None))  # never known well enough
    clock = Clock(noise)
    clock.time(count, MeasureConfig(17, 17, row_budget_s=3.0, interval_percent=0, max_iterations=10**6))
    assert 0.8 * 3.0 * count <= clock.now_s <= 1.2 * 3.0 * count


def test_a_small_budget_leaves_some_turns_and_few_iterations_are_kept() -> None:
    rng = random.Random(1)
    (timing,) = Clock(1 + rng.random() for _ in repeat(None)).time(
        1, MeasureConfig(17, 17, row_budget_s=1e-3)
    )
    assert timing.conditions["iterations"] == str(TURNS)
    for most in (1, 2, 3, 20):
        patient = MeasureConfig(17, 17, max_iterations=most, row_budget_s=math.inf, interval_percent=0)
        (timing,) = Clock(1 + rng.random() for _ in repeat(None)).time(1, patient)
        assert timing.conditions["iterations"] == str(most)
