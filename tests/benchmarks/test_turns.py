"""The order of calls, medians, ratios and targets; times come from a clock of ours."""

import pytest

from benchmarks import timing
from benchmarks.timing import Figure, Row, Samples, Target, alternate, mean_of, median_row, rate_row, ratio


def test_cases_run_in_turn_and_every_second_round_backwards() -> None:
    calls: list[str] = []
    pauses: list[float] = []
    now = 0.0

    def case(name: str, seconds: float) -> None:
        nonlocal now
        calls.append(name)
        now += seconds

    cases = {"a": lambda: case("a", 0.001), "b": lambda: case("b", 0.003)}
    found = alternate(cases, 2, calls=2, settle_s=0.5, clock=lambda: now, pause=pauses.append)
    assert "".join(calls) == "aaabbb" + "bbbaaa"
    assert pauses == [0.5] * 4
    assert found["a"].ms == pytest.approx((1.0, 1.0))
    assert ratio(found["b"], found["a"]) == pytest.approx(3.0)


def test_a_call_is_timed_between_two_waits_for_the_device() -> None:
    said: list[str] = []

    def clock() -> float:
        said.append("clock")
        return float(len(said))

    alternate({"a": lambda: said.append("case")}, 1, sync=lambda: said.append("sync"), clock=clock)
    assert said == ["case", "sync", "clock", "case", "sync", "clock"]


def test_samples_rows_and_targets() -> None:
    # the machine became twice as slow after the first round; both cases saw it
    assert ratio(Samples((2.0, 4.0, 4.0)), Samples((1.0, 2.0, 2.0))) == 2.0
    samples = Samples((1.0, 2.0, 3.0, 4.0, 5.0))
    assert median_row("x", samples)[1:] == (3.0, "ms", 2.0, 4.0)
    assert rate_row("x", samples, 12, "words/s")[1:] == (4000.0, "words/s", 3000.0, 6000.0)
    assert mean_of([{"x": Samples((1.0, 2.0))}, {"x": Samples((3.0, 6.0))}])["x"].ms == (2.0, 4.0)
    assert Target("floor", 1.9, 1.9).met and not Target("floor", 1.91, 1.9).met
    assert Target("peer", 3.0, 3.0, at_most=False).met and not Target("peer", 2.9, 3.0, at_most=False).met


def test_figure_says_what_was_missed() -> None:
    given = (timing.describe_machine(), [Row("a", 1, "ms")], [Target("floor", 2.0, 1.0)], ["a note"], "broke")
    values = Figure("x", *given).values()
    text = timing.text_of(values)
    for part in ("MISSED floor: 2 (<= 1)", "note: a note", "FAILED: broke", "threads"):
        assert part in text
