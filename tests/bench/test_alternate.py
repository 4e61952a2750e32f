"""The order of calls, the medians and the ratios; times come from a clock of ours."""

import pytest

from hat.bench.alternate import Samples, alternate, mean_of, ratio
from hat.bench.figure import Figure, Target, median_row, rate_row
from hat.bench.machine import describe_machine


def test_cases_run_in_turn_and_every_second_round_backwards() -> None:
    calls: list[str] = []
    pauses: list[float] = []
    now = 0.0

    def case(name: str, seconds: float) -> None:
        nonlocal now
        calls.append(name)
        now += seconds

    found = alternate(
        {"a": lambda: case("a", 0.001), "b": lambda: case("b", 0.003)},
        2,
        warmup=1,
        calls=2,
        settle_s=0.5,
        clock=lambda: now,
        pause=pauses.append,
    )
    assert "".join(calls) == "aaabbb" + "bbbaaa"
    assert pauses == [0.5] * 4
    assert found["a"].ms == pytest.approx((1.0, 1.0))
    assert ratio(found["b"], found["a"]) == pytest.approx(3.0)


def test_ratio_pairs_the_rounds() -> None:
    # the machine became twice as slow after the first round; both cases saw it
    assert ratio(Samples((2.0, 4.0, 4.0)), Samples((1.0, 2.0, 2.0))) == 2.0


def test_rows_hold_median_and_quartiles() -> None:
    samples = Samples((1.0, 2.0, 3.0, 4.0, 5.0))
    row = median_row("x", samples)
    assert (row.value, row.low, row.high, row.count) == (3.0, 2.0, 4.0, 5)
    rate = rate_row("x", samples, 12, "words/s")
    assert (rate.value, rate.low, rate.high) == (4000.0, 3000.0, 6000.0)
    assert mean_of([{"x": Samples((1.0, 2.0))}, {"x": Samples((3.0, 6.0))}])["x"].ms == (2.0, 4.0)


def test_targets_know_their_direction() -> None:
    assert Target("floor", 1.9, 1.9).met and not Target("floor", 1.91, 1.9).met
    assert Target("peer", 3.0, 3.0, at_most=False).met and not Target("peer", 2.9, 3.0, at_most=False).met


def test_figure_survives_plain_values_and_says_what_was_missed() -> None:
    figure = Figure("x", describe_machine(), (), (Target("floor", 2.0, 1.0),), ("a note",))
    values = figure.values()
    assert values["targets"][0]["met"] is False
    assert Figure.of_values(values) == figure
    assert "MISSED floor: 2 (<= 1)" in figure.text() and "a note" in figure.text()
