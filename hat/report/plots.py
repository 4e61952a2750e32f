"""Pictures of a finished run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hat.files.atomic import write_atomic
from hat.report.summary import ModelRow

MEASURED = "#1f5fa8"
FOUND = "#d1495b"
MUTED = "#8a8f98"


def plot_run(
    path: Path,
    measured_ms: Sequence[float],
    predicted_ms: Sequence[float],
    rows: Sequence[ModelRow],
    searches: Mapping[float, Sequence[Mapping[str, Any]]],
) -> None:
    """Write one PNG: predicted against measured latency on the left, progress of each search on the right.

    `measured_ms` and `predicted_ms` are those of the dataset rows held out from training the predictor;
    `searches` maps a constraint in ms to the history of its search.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    every = [*measured_ms, *predicted_ms, *(row.measured_ms for row in rows)]
    low, high = 0.95 * min(every), 1.05 * max(every)
    left.plot([low, high], [low, high], color=MUTED, linewidth=1, zorder=1)
    left.scatter(measured_ms, predicted_ms, s=14, color=MEASURED, alpha=0.7, label="held-out rows", zorder=2)
    for row in rows:
        left.scatter(row.measured_ms, row.predicted_ms, s=60, marker="D", color=FOUND, zorder=3)
        left.annotate(
            row.name,
            (row.measured_ms, row.predicted_ms),
            xytext=(8, -10),
            textcoords="offset points",
            fontsize=8,
        )
        if row.constraint_ms is not None:
            left.axvline(row.constraint_ms, color=FOUND, linewidth=0.8, linestyle=":")
    left.set(
        xlim=(low, high), ylim=(low, high), xlabel="measured latency (ms)", ylabel="predicted latency (ms)"
    )
    left.set_title("Latency: predicted against measured")
    left.legend(loc="upper left", frameon=False)
    for constraint_ms, history in sorted(searches.items()):
        evaluations = [step["evaluations"] for step in history]
        line = right.plot(evaluations, [step["best_loss"] for step in history], marker="o", markersize=3)[0]
        line.set_label(f"best under {constraint_ms:g} ms")
        right.plot(
            evaluations,
            [step["mean_parent_loss"] for step in history],
            color=line.get_color(),
            linewidth=0.8,
            linestyle="--",
            label=f"mean of the parents, {constraint_ms:g} ms",
        )
    right.set(xlabel="architectures scored", ylabel="validation loss (base 2)", title="Evolutionary search")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))
