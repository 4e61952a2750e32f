"""Several models timed in turn, on a clock that the test moves."""

from collections.abc import Callable

import pytest

from hat.errors import ConfigError
from hat.latency.measure import TURN, Anchor, MeasureConfig, Workload, middle, time_in_turn

CFG = MeasureConfig(17, 17)


def nothing() -> None:
    """Stand for what waits for a device."""


class Clock:
    """Time that passes only while something runs, `slower` times as fast as the machine before."""

    def __init__(self) -> None:
        self.now_s, self.slower, self.ran = 0.0, 1.0, []

    def __call__(self) -> float:
        return self.now_s

    def part(self, name: str, ms: float) -> Callable[[], None]:
        def run() -> None:
            self.now_s += self.slower * ms / 1e3
            self.ran.append(name)

        return run

    def works(self, count: int) -> list[Workload]:
        return [
            Workload(self.part(f"e{n}", 1.0 + n), self.part(f"d{n}", 10.0 * (1 + n))) for n in range(count)
        ]


def test_each_is_known_by_the_same_number_of_repeats() -> None:
    clock = Clock()
    timings = time_in_turn(clock.works(3), CFG, {}, nothing, clock)
    assert [timing.total_ms for timing in timings] == pytest.approx([11, 22, 33])
    assert all(timing.stable and timing.total.interval_percent < 1e-6 for timing in timings)
    assert {timing.total.count for timing in timings} == {7}
    assert all(timing.anchor_ms is None for timing in timings)


def test_they_have_short_turns_and_the_first_search_of_a_turn_does_not_count() -> None:
    clock = Clock()
    time_in_turn(clock.works(2), CFG, {}, nothing, clock)
    turn = ["e0", "d0"] * (TURN + 1) + ["e1", "d1"] * (TURN + 1)
    assert clock.ran == turn * 2, "ten repeats, of which three do not count"
    alone = Clock()
    time_in_turn(alone.works(1), CFG, {}, nothing, alone)
    assert alone.ran == ["e0", "d0"] * 2 * TURN, "one model alone is not warmed again"


@pytest.mark.parametrize("slower", [0.8, 1.0, 1.02, 1.3])
def test_latencies_are_those_of_the_machine_before_the_first_row(slower: float) -> None:
    clock = Clock()
    anchor = Anchor(clock.part("anchor", 5.0), 5.0)
    clock.slower = slower
    timings = time_in_turn(clock.works(2), CFG, {}, nothing, clock, anchor)
    assert [timing.total_ms for timing in timings] == pytest.approx([11, 22])
    assert [timing.anchor_ms for timing in timings] == pytest.approx([5 * slower] * 2)


def test_repeats_end_at_the_limit_where_nothing_settles() -> None:
    clock = Clock()
    lengths = iter(range(1, 10**6))
    restless = Workload(clock.part("e", 1.0), lambda: clock.part("d", 10.0 * next(lengths))())
    (timing,) = time_in_turn([restless], MeasureConfig(17, 17, max_iterations=20), {}, nothing, clock)
    assert not timing.stable and timing.total.count == 20


def test_few_odd_timings_do_not_move_what_the_anchor_says() -> None:
    assert middle([5.0, 5.0, 5.0, 50.0]) == middle([5.0]) == middle([4.0, 6.0]) == 5.0


@pytest.mark.parametrize("name", ["interval_percent", "max_iterations", "beam", "source_len"])
def test_what_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}"):
        MeasureConfig(**{name: -1})


def test_conditions_of_a_table_replace_settings() -> None:
    conditions = {"beam": "4", "source_len": "17", "dtype": "bf16", "threads": "2"}
    assert MeasureConfig(max_iterations=9).under(conditions) == MeasureConfig(
        17, 17, beam=4, max_iterations=9, dtype="bf16"
    )
    assert MeasureConfig().under({"source_len": "5", "target_len": "6"}) == MeasureConfig(5, 6)
    assert MeasureConfig().under({}) == MeasureConfig()
