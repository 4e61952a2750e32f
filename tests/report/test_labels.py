"""Names in the picture of a front: readable however many models and limits there are."""

from itertools import combinations

import pytest

from hat.report.figures import draw_front
from hat.report.labels import Label, place_labels
from hat.report.run import Evaluation, Model, Run, Search

Figure = pytest.importorskip("matplotlib.figure").Figure


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def front(limits_ms: tuple[float, ...]) -> Run:
    """Return a front with a winner under each limit, every two of which are one architecture."""
    scored = tuple(Evaluation(5.0 - n / 10, 16.0 + n) for n in range(12))
    models = [
        Model(
            f"w@{ms:g}ms",
            "found",
            "inherited",
            limit_ms=ms,
            predicted_ms=16.0 + n // 2,
            inherited_loss=5.0 - n // 2 / 10,
        )
        for n, ms in enumerate(limits_ms)
    ]
    models.append(Model("largest", "largest", "inherited", predicted_ms=27.0, inherited_loss=3.9))
    return Run("front", "folder", models, [Search("front", limits_ms, (), scored)])


@pytest.mark.parametrize("size", [(13.3, 6.6), (5.0, 6.1)])
def test_no_label_lies_on_another_or_outside(size: tuple[float, float]) -> None:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    points = [(n % 7, n // 7) for n in range(40)]
    axes.scatter(*zip(*points, strict=True))
    labels = [Label(f"architecture {n}", point, "#000000") for n, point in enumerate(points)]
    written = place_labels(figure, axes, labels, points)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in written]
    assert len(written) >= 8
    assert texts(figure) == [text.get_text() for text in written]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    room = axes.get_window_extent()
    assert all(room.contains(*corner) for box in boxes for corner in box.corners())


def test_a_label_hides_as_few_dots_as_it_can() -> None:
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-10, 10), ylim=(-10, 10))
    dots = [(x / 2, y / 2) for x in range(-20, 20) for y in range(-20, 20) if x >= 0 or y >= 0]
    (text,) = place_labels(figure, axes, [Label("largest", (0, 0), "#000000")], dots)
    assert (text.get_ha(), text.get_va()) == ("right", "top")


@pytest.mark.parametrize("narrow", [False, True])
def test_many_limits_are_named_by_the_legend(narrow: bool) -> None:
    figure = Figure(figsize=(5, 6) if narrow else (13, 7), layout="constrained")
    draw_front(front(tuple(16.5 + 0.5 * n for n in range(20))), figure, narrow)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "limits (20), 16.5 to 26 ms" in legend
    assert not [text for text in texts(figure) if text.startswith("limit ")]
    assert "largest" in texts(figure) and "w@16.5ms and 1 more" in texts(figure)


def test_few_limits_have_their_numbers() -> None:
    figure = Figure(figsize=(13, 7), layout="constrained")
    draw_front(front((18.0, 22.0)), figure, False)
    assert [text for text in texts(figure) if text.startswith("limit ")] == ["limit 18 ms", "limit 22 ms"]
    assert not [text for text in figure.legends[0].get_texts() if "limit" in text.get_text()]
