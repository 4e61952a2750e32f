"""Table and picture of a rank study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hat.files.atomic import write_atomic
from hat.search.ranking import Judged

_BAR, _MARK, _MUTED = "#1f5fa8", "#d1495b", "#8a8f98"


def rank_table(summary: Mapping[str, Any]) -> str:
    """Return the agreement of each ranking with training from scratch, and the gaps, as aligned text."""
    rows = dict(summary["rankings"])
    if summary["ceiling"]:
        rows["ceiling: seed to seed"] = summary["ceiling"]
    width = max(map(len, rows)) + 1
    lines = [
        f"{summary['archs']} architectures, {summary['seeds']} seeds; truth: validation loss from scratch",
        f"{'ranking':{width}}{'tau':>8}{'equal depth':>14}{'tau by BLEU':>14}",
    ]
    for name, row in rows.items():
        cells = [row["kendall_tau"], row["equal_depth_accuracy"], row["kendall_tau_bleu"]]
        lines.append(
            f"{name:{width}}"
            + "".join(f"{_number(c, 3):>{w}}" for c, w in zip(cells, (8, 14, 14), strict=True))
        )
    lines.append(f"equal depth: accuracy on {summary['equal_depth_pairs']} pairs with as many decoder layers")
    for name, gap in summary["gaps"].items():
        bleu = (
            f", BLEU {gap['bleu']:+.2f} (absolute {gap['bleu_absolute']:.2f})"
            if gap["bleu"] is not None
            else ""
        )
        lines.append(
            f"{name}: training from scratch is better than its slices by loss {gap['loss']:+.3f}{bleu}"
        )
    for name, tuned in summary.get("finetuning", {}).items():
        curve = ", ".join(f"{updates}: {loss:.3f}" for updates, loss in tuned["curve"])
        lines.append(
            f"{name}: {_reached(tuned)} {tuned['scratch_updates']} updates from scratch "
            f"(loss {tuned['scratch_loss']:.3f}; by updates {curve})"
        )
    return "\n".join(lines)


def _reached(tuned: Mapping[str, Any]) -> str:
    """Return the start of the sentence on fine-tuning, which goes on with the updates from scratch."""
    equal = tuned["updates_equal_to_scratch"]
    if equal is None:
        most = max(updates for updates, _ in tuned["curve"])
        return f"none of the tried fine-tunings (up to {most} updates) reaches"
    if equal == 0:
        return "without any fine-tuning its slices equal"
    count = max(1, round(equal))
    return "1 update of fine-tuning equals" if count == 1 else f"{count} updates of fine-tuning equal"


def plot_rank(path: Path, judged: Sequence[Judged], summary: Mapping[str, Any]) -> None:
    """Write one PNG: slices against the truth for each SuperTransformer, agreement, fine-tuning."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.3 * _panels(summary), 4.0), layout="constrained")
    draw_rank(figure, judged, summary)
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))


def _panels(summary: Mapping[str, Any]) -> int:
    return len(summary["gaps"]) + 1 + bool(summary.get("finetuning"))


def draw_rank(figure: Any, judged: Sequence[Judged], summary: Mapping[str, Any]) -> None:
    """Draw the panels of `plot_rank` side by side into a figure of matplotlib."""
    names, tuned = list(summary["gaps"]), summary.get("finetuning", {})
    axes = list(figure.subplots(1, _panels(summary), squeeze=False)[0])
    for name, panel in zip(names, axes[: len(names)], strict=True):
        _plot_slices(panel, name, judged)
    _plot_agreement(axes[len(names)], summary)
    if tuned:
        for color, (name, found) in zip(_colors(len(tuned)), tuned.items(), strict=True):
            axes[-1].plot(
                *zip(*found["curve"], strict=True), marker="o", markersize=4, color=color, label=name
            )
            axes[-1].axhline(found["scratch_loss"], color=color, linewidth=0.8, linestyle=":")
        axes[-1].set(xlabel="updates of fine-tuning", ylabel="validation loss (base 2)")
        axes[-1].set_title("Inherit and fine-tune (dotted: from scratch)", fontsize=10)
        axes[-1].legend(frameon=False, fontsize=8)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)


def _colors(count: int) -> list[Any]:
    """Return as many colours as are asked for, from dark blue to yellow green, in even steps."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.88 * n / max(1, count - 1)) for n in range(count)]


def _plot_slices(panel: Any, name: str, judged: Sequence[Judged]) -> None:
    depths = sorted({one.depth for one in judged})
    for color, depth in zip(_colors(len(depths)), depths, strict=True):
        of_depth = [one for one in judged if one.depth == depth]
        losses = [[score.loss for score in one.scratch] for one in of_depth]
        means = [fmean(each) for each in losses]
        below = [mean - min(each) for mean, each in zip(means, losses, strict=True)]
        above = [max(each) - mean for mean, each in zip(means, losses, strict=True)]
        inherited = [one.slices[name].loss for one in of_depth]
        panel.errorbar(
            inherited, means, yerr=[below, above], fmt="o", markersize=5, color=color, label=f"{depth}"
        )
    panel.set(xlabel="inherited loss (base 2)", ylabel="loss from scratch, range over seeds")
    panel.set_title(f"Slices of {name}", fontsize=10)
    panel.legend(title="decoder layers", frameon=False, fontsize=8, title_fontsize=8)


def _plot_agreement(panel: Any, summary: Mapping[str, Any]) -> None:
    rows = list(summary["rankings"].items())[::-1]
    places = range(len(rows))
    colors = [_BAR if name in summary["inherited"] else _MUTED for name, _ in rows]
    panel.barh(places, [row["kendall_tau"] for _, row in rows], color=colors, height=0.6)
    accuracy = [(at, row["equal_depth_accuracy"]) for at, (_, row) in enumerate(rows)]
    shown = [(value, at) for at, value in accuracy if value is not None]
    if shown:
        panel.scatter(
            *zip(*shown, strict=True),
            marker="D",
            s=28,
            color=_MARK,
            zorder=3,
            label="equal-depth accuracy",
        )
    if summary["ceiling"]:
        panel.axvline(
            summary["ceiling"]["kendall_tau"],
            color="black",
            linewidth=1,
            linestyle="--",
            label="seed to seed",
        )
    panel.set_yticks(places, [name for name, _ in rows])
    panel.set(xlabel="Kendall tau (bars)")
    panel.set_title("Agreement with training from scratch", fontsize=10)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(facecolor="white", framealpha=0.9, edgecolor="none", fontsize=8, loc="lower right")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
