"""The front of a search: a table of every evaluation, a picture, and what random search would have found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hat.files.atomic import write_atomic
from hat.report.figures import COLOURS
from hat.search.front import front_numbers


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """Return `compare`'s result as aligned text."""
    wanted = f"{100 * comparison['wanted_share']:g}% after"
    lines = [f"{'method':10}{'scored':>8}{'hypervolume':>14}{'of random':>12}{wanted:>14}"]
    reference = comparison["reference"]
    for name, result in comparison["methods"].items():
        never = "never" if reference else "-"
        after = never if result["reached"] is None else str(result["reached"])
        share = "-" if result["share"] is None else f"{100 * result['share']:.2f}%"
        volume = "-" if result["hypervolume"] is None else f"{result['hypervolume']:.6f}"
        lines.append(f"{name:10}{result['evaluations']:>8}{volume:>14}{share:>12}{after:>14}")
    if reference:
        loss, *others = reference
        values = ", ".join(f"{value:.6g}" for value in others)
        lines.append(f"reference: loss {loss:.4f}, {values} (worst of random)")
    else:
        lines.append("no random architecture was scored, so there is no reference to compare by")
    return "\n".join(lines)


def plot_front(
    path: Path,
    points: Sequence[tuple[float, float]],
    winners: Sequence[Mapping[str, Any]],
    others: Mapping[str, Sequence[tuple[float, float]]],
) -> None:
    """Write one PNG: loss against latency of every evaluation, the front, the limits and their winners.

    `points` are (loss, predicted ms); `winners` hold loss, constraint_ms, predicted_ms, bound_ms and
    measured_ms; `others` are further sets of points, drawn behind.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for (name, known), marker in zip(others.items(), "x+", strict=False):
        axes.scatter(
            *_across(known),
            s=14,
            marker=marker,
            linewidths=0.8,
            color=COLOURS["muted"],
            label=f"{name} architectures",
        )
    axes.scatter(*_across(points), s=12, color=COLOURS["blue"], alpha=0.35, linewidths=0, label="scored")
    best = [points[i] for i in front_numbers(points)]
    axes.plot(
        *_across(best),
        color=COLOURS["blue"],
        marker="o",
        markersize=3.5,
        drawstyle="steps-post",
        label="front",
    )
    for number, winner in enumerate(winners):
        if winner["constraint_ms"] is not None:  # None: the limits are on something else
            axes.axvline(winner["constraint_ms"], color=COLOURS["red"], linewidth=0.8, linestyle=":")
        measured = winner["measured_ms"]
        shown = winner["predicted_ms"] if measured is None else measured
        axes.plot(
            [winner["predicted_ms"], winner["bound_ms"]],
            [winner["loss"]] * 2,
            color=COLOURS["red"],
            linewidth=1,
        )
        label = "found, " + ("predicted" if measured is None else "measured")
        axes.scatter(
            shown,
            winner["loss"],
            s=50,
            marker="D",
            color=COLOURS["red"],
            zorder=3,
            label=None if number else label,
        )
    axes.set(xlabel="latency (ms)", ylabel="validation loss (base 2)", title="Loss against latency")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))


def _across(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    ordered = sorted(points, key=lambda point: point[1])
    return [ms for _, ms in ordered], [loss for loss, _ in ordered]
