"""Names beside the points of a drawing, where they fit: none lies on another or runs out of the axes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hat.report.svg import PAPER

Point = tuple[float, float]
_PLACES = ((11, 4), (11, -4), (-11, 4), (-11, -4), (0, 11), (0, -11))  # from the point, in points of type
_MARK = 7.0  # half the width of a mark, in points of type


class Label(NamedTuple):
    """A name for a point, in coordinates of the data."""

    text: str
    at: Point
    colour: str


def place_labels(figure: Any, axes: Any, labels: Sequence[Label], dots: Sequence[Point]) -> list[Any]:
    """Write the labels, the most important ones first, and return those for which there was room.

    Of the places beside its point each takes the one that hides the fewest of `dots`. Everything else has to
    be drawn before.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # now the axes have their place
    scale = figure.dpi / 72
    marks = [axes.transData.transform(label.at) for label in labels]
    taken = [
        Bbox([(x - _MARK * scale, y - _MARK * scale), (x + _MARK * scale, y + _MARK * scale)])
        for x, y in marks
    ]
    hidden = axes.transData.transform(dots) if dots else []
    room = axes.get_window_extent()
    written = []
    for label in labels:
        tried = []
        for right, up in _PLACES:
            text = _write(axes, label, right, up)
            box = text.get_window_extent().padded(2 * scale)  # its paper, too
            inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            if inside and not any(box.overlaps(other) for other in taken):
                tried.append((box.count_contains(hidden) if len(hidden) else 0, len(tried), right, up, box))
            text.remove()
        if tried:
            _, _, right, up, box = min(tried, key=lambda each: each[:2])
            written.append(_write(axes, label, right, up))
            taken.append(box)
    return written


def _write(axes: Any, label: Label, right: float, up: float) -> Any:
    text = axes.annotate(
        label.text,
        label.at,
        xytext=(right, up),
        textcoords="offset points",
        ha="left" if right > 0 else "right" if right < 0 else "center",
        va="bottom" if up > 0 else "top",
        color=label.colour,
        fontsize="small",
        fontweight="bold",
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        zorder=6,
    )
    text.set_in_layout(False)
    return text
