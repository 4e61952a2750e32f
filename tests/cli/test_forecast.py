"""What a search says of its time beforehand."""

import pytest

from hat.cli.forecast import Forecast, about


def said(stages: dict[str, int], seconds: list[float], at_once: int = 1) -> list[str]:
    """Return what is told by scores that end at these times."""
    told: list[str] = []
    times = iter(seconds)
    forecast = Forecast(told.append, lambda: next(times))
    forecast.expect(stages, at_once)
    for _ in range(10):
        forecast.scored()
    return told


def test_stages_are_told_once_by_the_scores_after_the_first() -> None:
    told = said({"search": 150, "random": 1000, "depth": 6}, [50.0, 53.0])
    assert told == [
        "search: 150 evaluations, about 2.5 min; random: 1000 evaluations, about 16.7 min; "
        "depth: 6 evaluations, about 0.1 min"
    ]


def test_what_is_done_is_left_out_and_processes_share() -> None:
    assert said({"search": 0, "random": 600}, [0.0, 6.0], at_once=4) == [
        "random: 600 evaluations, about 5.0 min"
    ]


@pytest.mark.parametrize(("seconds", "text"), [(1.0, "0.1"), (89.0, "1.5"), (7200.0, "120.0")])
def test_minutes(seconds: float, text: str) -> None:
    assert about(seconds) == f"about {text} min"
