"""Table and picture of a predictor study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hat.files.atomic import write_atomic

PLOTTED = {
    "predictor": ("ours", "#1f5fa8"),
    "recipe_2020": ("2020 recipe", "#d1495b"),
    "least_squares": ("least squares", "#5b8c5a"),
    "depth_only": ("decoder depth alone", "#8a8f98"),
}
_MEANT = ("mape_percent", "rmse_ms", "kendall_tau", "kendall_tau_b", "held", "above_percent", "seconds")


def mean_records(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one record for each table, method, number of rows and source: means over the seeds."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        key = (record["table"], record["method"], record["rows"], record["source"])
        groups.setdefault(key, []).append(record)
    means = []
    for (table, method, rows, source), group in groups.items():
        mean: dict[str, Any] = {"table": table, "method": method, "rows": rows or "all", "source": source}
        mean["seeds"] = len(group)
        for name in _MEANT:
            if all(name in record for record in group):
                mean[name] = round(fmean(record[name] for record in group), 5)
        means.append(mean)
    return means


def study_table(means: Sequence[Mapping[str, Any]]) -> str:
    """Return MAPE in percent and Kendall's tau of each method against the number of rows, as aligned text."""
    counts = _counts(means)
    lines = []
    for table in dict.fromkeys(mean["table"] for mean in means):
        lines.append(f"{table}: MAPE % / Kendall tau (ties in the prediction count as no answer)")
        lines.append(f"  {'rows':20}" + "".join(f"{count:>14}" for count in counts))
        for method in dict.fromkeys(mean["method"] for mean in means):
            found = {m["rows"]: m for m in means if (m["table"], m["method"]) == (table, method)}
            cells = [
                f"{found[c]['mape_percent']:.2f} / {found[c]['kendall_tau']:.3f}" if c in found else "-"
                for c in counts
            ]
            lines.append(f"  {PLOTTED[method][0]:20}" + "".join(f"{cell:>14}" for cell in cells))
            bounds = [
                f"{100 * found[c]['held']:.1f} at +{found[c]['above_percent']:.1f}"
                if "held" in found.get(c, {})
                else "-"
                for c in counts
            ]
            if any(cell != "-" for cell in bounds):
                lines.append(f"  {'  95% bound held, %':20}" + "".join(f"{cell:>14}" for cell in bounds))
    return "\n".join(lines)


def transfer_table(means: Sequence[Mapping[str, Any]]) -> str:
    """Return MAPE in percent and Kendall's tau of 20 rows with and without another table, as aligned text."""
    lines = []
    for table in dict.fromkeys(mean["table"] for mean in means):
        lines.append(f"{table}, 20 rows: MAPE % / Kendall tau / 95% bound held, %")
        for mean in (mean for mean in means if mean["table"] == table):
            what = f"with {mean['source']}" if mean["source"] else "alone"
            held = f"{100 * mean['held']:.1f}" if "held" in mean else "-"
            lines.append(f"  {what:45} {mean['mape_percent']:6.2f} / {mean['kendall_tau']:.3f} / {held}")
    return "\n".join(lines)


def plot_study(path: Path, means: Sequence[Mapping[str, Any]]) -> None:
    """Write one PNG: error against number of rows, one panel for each table."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    counts = _counts(means)
    tables = list(dict.fromkeys(mean["table"] for mean in means))
    across = min(3, len(tables))
    down = -(-len(tables) // across)
    figure = Figure(figsize=(4.2 * across, 3.4 * down), layout="constrained")
    for axes, table in zip(figure.subplots(down, across, squeeze=False).flat, tables, strict=False):
        for method, (label, color) in PLOTTED.items():
            found = {m["rows"]: m for m in means if (m["table"], m["method"]) == (table, method)}
            points = [(i, found[c]["mape_percent"]) for i, c in enumerate(counts) if c in found]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=color, label=label)
        axes.set_yscale("log")
        errors = [m["mape_percent"] for m in means if m["table"] == table and m["method"] != "least_squares"]
        if errors:  # least squares on 10 rows would flatten all else; it leaves at the top
            axes.set_ylim(0.8 * min(errors), 1.6 * max(errors))
        axes.set_xticks(range(len(counts)), [str(count) for count in counts])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 8)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.tick_params(labelsize=8)
        axes.set(xlabel="measured rows", ylabel="MAPE (%)", title=table)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))


def _counts(means: Sequence[Mapping[str, Any]]) -> list[Any]:
    return sorted({mean["rows"] for mean in means}, key=lambda count: 10**9 if count == "all" else count)
