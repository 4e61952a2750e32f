"""What the studies share: how well numbers order pairs, tables as CSV, pictures written whole."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.process import say


def pair_accuracy(
    predicted: Sequence[float], truth: Sequence[float], pairs: Sequence[tuple[int, int]]
) -> float | None:
    """Return the share of pairs that both order alike, 0 to 1; a tie in `predicted` counts half.

    Pairs with equal truth are left out; None without any.
    """
    signs = [(predicted[i] - predicted[j]) * (truth[i] - truth[j]) for i, j in pairs if truth[i] != truth[j]]
    return fmean(0.5 if sign == 0 else float(sign > 0) for sign in signs) if signs else None


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a column for each key of any record."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def panels(count: int, width: float, height: float, across: int) -> tuple[Any, list[Any]]:
    """Return a figure of matplotlib and its `count` panels, at most `across` beside each other."""
    from matplotlib.figure import Figure

    across = min(across, count)
    down = -(-count // across)
    figure = Figure(figsize=(width * across, height * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    return figure, axes[:count]


def save_picture(path: Path, draw: Callable[[], Any]) -> None:
    """Write the figure of matplotlib that `draw` returns as one PNG, whole or not at all, if there is one."""
    try:
        figure = draw()
    except ImportError:
        say("no picture: matplotlib is not installed (pip install -e '.[report]')")
        return
    partial = path.with_suffix(".part.png")
    figure.savefig(partial, dpi=150)
    partial.replace(path)
