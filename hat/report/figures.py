"""The drawings of a report: each takes a figure and whether it is narrow (a telephone) or wide."""

from collections.abc import Sequence
from typing import Any

from hat.report.labels import Label, place_labels
from hat.report.run import Evaluation, Latencies, Model, Run, Search, Training, pareto_front
from hat.report.svg import BLUE, GREEN, GRID, INK, MUTED, PAPER, PURPLE, RED, SERIES, SKY

_SHAPES = {"largest": "s", "smallest": "v", "found": "D"}
_LINES = ("-", "--", "-.", ":")


def short(text: str, most: int = 30) -> str:
    """Return a name that fits into a drawing, without what is no character."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= most else plain[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def draw_front(run: Run, figure: Any, narrow: bool) -> None:
    """Draw loss against latency: what was scored, the front of it, the limits, winners and baselines."""
    axes = figure.add_subplot()
    scored = [each for search in run.searches for each in search.evaluations]
    if scored:
        axes.scatter(
            *_places(scored),
            s=14 if narrow else 22,
            color=SKY,
            linewidths=0,
            alpha=0.75,
            label=f"scored ({len(scored):,})",
            zorder=2,
        )
        _draw_front_line(axes, scored)
    compared = _draw_ablations(axes, run.searches, narrow)
    labels = _draw_models(axes, run, narrow)
    axes.margins(x=0.06, y=0.12)
    _draw_limits(axes, sorted({limit for search in run.searches for limit in search.limits_ms}), narrow)
    axes.set(xlabel="latency (ms)", ylabel="validation loss (base 2)")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=1 if narrow else 4, fontsize="small")
    place_labels(figure, axes, labels, [(each.predicted_ms, each.loss) for each in (*scored, *compared)])


def _draw_models(axes: Any, run: Run, narrow: bool) -> list[Label]:
    """Draw the models of the table; returns their names, the most important first."""
    names: dict[tuple[float, float, str], list[str]] = {}
    for model in sorted(run.models, key=lambda each: (each.role == "found", each is not run.winner)):
        latency = model.measured_ms if model.measured_ms is not None else model.predicted_ms
        loss = model.inherited_loss if model.inherited_loss is not None else model.trained_loss
        if latency is None or loss is None:
            continue
        colour = RED if model.role == "found" else INK
        if model.trained_loss is not None and model.inherited_loss is not None:
            axes.annotate(
                "",
                (latency, model.trained_loss),
                (latency, model.inherited_loss),
                arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 6},
                zorder=4,
            )
            axes.scatter([latency], [model.trained_loss], s=1, color=colour)
        axes.scatter(
            [latency],
            [loss],
            s=80,
            marker=_SHAPES[model.role],
            color=colour,
            edgecolors=PAPER,
            linewidths=1.5,
            zorder=5,
        )
        names.setdefault((latency, loss, colour), []).append(short(model.name, 18 if narrow else 34))
    return [
        Label(f"{first} and {len(more)} more" if more else first, (latency, loss), colour)
        for (latency, loss, colour), (first, *more) in names.items()
    ]


def _draw_limits(axes: Any, limits_ms: Sequence[float], narrow: bool) -> None:
    """Draw the limits, each with its number at the top, or where these are too many all in the legend."""
    low, high = axes.get_xlim()
    low, high = min([low, *limits_ms]), max([high, *limits_ms])
    apart = min((b - a for a, b in zip(limits_ms, limits_ms[1:], strict=False)), default=high - low)
    crowded = apart / (high - low) < (0.3 if narrow else 0.11)  # of the width, which a number takes
    for number, limit in enumerate(limits_ms):
        label = f"limits ({len(limits_ms)}), {limits_ms[0]:g} to {limits_ms[-1]:g} ms"
        axes.axvline(
            limit,
            color=RED,
            linewidth=0.8 if crowded else 1.2,
            linestyle=(0, (2, 2)),
            zorder=1,
            label=label if crowded and number == 0 else None,
        )
        if not crowded:
            axes.annotate(
                f"limit {limit:g} ms",
                (limit, 1),
                xycoords=("data", "axes fraction"),
                xytext=(5, -4),
                textcoords="offset points",
                ha="left",
                va="top",
                color=RED,
                fontsize="small",
            )


def _places(evaluations: Sequence[Evaluation]) -> tuple[list[float], list[float]]:
    """Return latencies and losses, what both axes of the picture of a front take."""
    return [each.predicted_ms for each in evaluations], [each.loss for each in evaluations]


def _draw_ablations(axes: Any, searches: Sequence[Search], narrow: bool) -> list[Evaluation]:
    """Draw and return what was scored for comparison: the grid of depths above the random ones."""
    random = [each for search in searches for each in search.random]
    depth = [each for search in searches for each in search.depth]
    if random:
        axes.scatter(
            *_places(random),
            s=5 if narrow else 8,
            color=MUTED,
            linewidths=0,
            alpha=0.4,
            label=f"random ({len(random):,})",
            zorder=1.5,
        )
    if depth:
        axes.scatter(
            *_places(depth),
            s=40 if narrow else 60,
            marker="X",
            color=PURPLE,
            edgecolors=PAPER,
            linewidths=1,
            label=f"largest but for its depths ({len(depth)})",
            zorder=3.5,
        )
    return random + depth


def _draw_front_line(axes: Any, scored: list[Evaluation]) -> None:
    front = pareto_front(scored)
    axes.step(
        [each.predicted_ms for each in front],
        [each.loss for each in front],
        where="post",
        color=BLUE,
        linewidth=2,
        label=f"front of them ({len(front)})",
        zorder=3,
    )
    axes.scatter(
        [each.predicted_ms for each in front], [each.loss for each in front], s=20, color=BLUE, zorder=3
    )
    measured = [each for each in scored if each.measured_ms is not None]
    if measured:
        axes.scatter(
            [each.measured_ms for each in measured],
            [each.loss for each in measured],
            s=44,
            facecolors="none",
            edgecolors=GREEN,
            linewidths=1.8,
            label=f"finalists, as measured ({len(measured)})",
            zorder=4,
        )


def draw_latency(latencies: Latencies | None, models: Sequence[Model], figure: Any, narrow: bool) -> None:
    """Draw predicted against measured latency, on equal axes, with the band of 5% about equality."""
    x = list(latencies.measured_ms) if latencies else []
    y = list(latencies.predicted_ms) if latencies else []
    if narrow or not x:
        axes = figure.add_subplot()
    else:
        axes, errors = figure.subplots(1, 2, width_ratios=(1, 1.15))
        _draw_errors(x, y, models, errors)
    both = [m for m in models if m.measured_ms is not None and m.predicted_ms is not None]
    every = [*x, *y, *(v for m in both for v in (m.measured_ms, m.predicted_ms) if v is not None)]
    low, high = 0.94 * min(every), 1.06 * max(every)
    axes.fill_between([low, high], [0.95 * low, 0.95 * high], [1.05 * low, 1.05 * high], color=GRID, lw=0)
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1.2, zorder=2)
    axes.annotate(
        "equal, \N{PLUS-MINUS SIGN}5%",
        (low + 0.9 * (high - low), low + 0.9 * (high - low)),
        xytext=(-10, 10),
        textcoords="offset points",
        ha="right",
        color=MUTED,
        fontsize="small",
    )
    if x:
        which = {False: "rows not learnt from", True: "rows learnt from", None: "rows of the table"}
        label = f"{which[latencies.learnt if latencies else None]} ({len(x)})"
        axes.scatter(x, y, s=34, color=BLUE, alpha=0.75, linewidths=0, label=label, zorder=3)
    for role, label, colour in (
        ("found", "found", RED),
        ("largest", "largest", INK),
        ("smallest", "smallest", INK),
    ):
        own = [m for m in both if m.role == role]
        if own:
            axes.scatter(
                [m.measured_ms for m in own],
                [m.predicted_ms for m in own],
                s=80,
                marker=_SHAPES[role],
                color=colour,
                edgecolors=PAPER,
                linewidths=1.5,
                label=label,
                zorder=4,
            )
    axes.set(
        xlim=(low, high), ylim=(low, high), xlabel="measured latency (ms)", ylabel="predicted latency (ms)"
    )
    axes.set_aspect("equal")
    axes.set_anchor("W")
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=1 if narrow else 4,
        fontsize="small",
    )


def _draw_errors(x: list[float], y: list[float], models: Sequence[Model], axes: Any) -> None:
    """Draw the error of each prediction in percent of the measurement."""
    axes.axhspan(-5, 5, color=GRID, lw=0)
    axes.axhline(0, color=MUTED, linewidth=1.2)
    percent = [100 * (p / m - 1) for m, p in zip(x, y, strict=True)]
    axes.scatter(x, percent, s=34, color=BLUE, alpha=0.75, linewidths=0, zorder=3)
    for m in models:
        if m.measured_ms and m.predicted_ms is not None:
            error = 100 * (m.predicted_ms / m.measured_ms - 1)
            colour = RED if m.role == "found" else INK
            how = {"color": colour, "edgecolors": PAPER, "linewidths": 1.5, "zorder": 4}
            axes.scatter([m.measured_ms], [error], s=80, marker=_SHAPES[m.role], **how)
    axes.margins(y=0.15)
    axes.set(xlabel="measured latency (ms)", ylabel="prediction above measurement (%)")


def draw_progress(searches: Sequence[Search], figure: Any, narrow: bool) -> None:
    """Draw the best loss so far, and the mean of the parents, against the architectures scored."""
    axes = figure.add_subplot()
    drawn = [search for search in searches if any("best_loss" in step for step in search.steps)]
    for index, search in enumerate(drawn):
        steps = [step for step in search.steps if "best_loss" in step and "evaluations" in step]
        colour = SERIES[index % len(SERIES)]
        one = len(search.limits_ms) == 1 and not search.is_front
        limit = f" under {search.limits_ms[0]:g} ms" if one else f", {search.name}"
        counts = [step["evaluations"] for step in steps]
        axes.plot(
            counts,
            [step["best_loss"] for step in steps],
            color=colour,
            marker="o",
            markersize=5,
            linestyle=_LINES[index // len(SERIES) % len(_LINES)],
            label=short(f"best{limit}", 40),
            zorder=3,
        )
        parents = [
            (n, s["mean_parent_loss"]) for n, s in zip(counts, steps, strict=True) if "mean_parent_loss" in s
        ]
        if parents:
            axes.plot(
                *zip(*parents, strict=True),
                color=colour,
                linewidth=1.2,
                linestyle=(0, (3, 2)),
                label=short(f"mean of the parents{limit}", 46),
            )
    axes.set(xlabel="architectures scored", ylabel="validation loss (base 2)")
    axes.margins(x=0.03, y=0.1)
    _legend(figure, axes, narrow)


def draw_volume(searches: Sequence[Search], figure: Any, narrow: bool) -> None:
    """Draw the hypervolume of the front against the architectures scored."""
    axes = figure.add_subplot()
    for index, search in enumerate(searches):
        points = [
            (s["evaluations"], s["hypervolume"])
            for s in search.steps
            if {"evaluations", "hypervolume"} <= s.keys()
        ]
        if points:
            colour = SERIES[index % len(SERIES)]
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=5)
            axes.plot([], [], color=colour, label=short(search.name))  # no point: a legend shows none
    axes.set(xlabel="architectures scored", ylabel="hypervolume of the front")
    axes.margins(x=0.03, y=0.1)
    _legend(figure, axes, narrow, "lower right")


def draw_training(trainings: Sequence[Training], figure: Any, narrow: bool) -> None:
    """Draw training and validation loss against updates, one panel for each training."""
    across = 1 if narrow else min(2, len(trainings))
    down = -(-len(trainings) // across)
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    names = {"sub": ("validation", RED), "largest": ("validation, largest", RED)}
    names |= {"smallest": ("validation, smallest", PURPLE)}
    for axes, training in zip(panels, trainings, strict=False):
        if training.train:
            axes.plot(*zip(*training.train, strict=True), color=SKY, label="training")
        for key, points in training.valid.items():
            if key in names:
                label, colour = names[key]
                axes.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    marker="o",
                    markersize=4,
                    linestyle="-" if colour == RED else "--",
                    label=label,
                )
        axes.set_title(short(training.name, 34 if narrow else 48))
        axes.set(xlabel="updates", ylabel="loss (base 2)")
        axes.margins(x=0.03, y=0.1)
        axes.legend(fontsize="small")
    for axes in panels[len(trainings) :]:
        axes.set_visible(False)


def _legend(figure: Any, axes: Any, narrow: bool, corner: str = "upper right") -> None:
    """Name the curves in the corner that they leave free."""
    if axes.get_legend_handles_labels()[0]:
        if narrow:
            figure.legend(loc="outside upper left", fontsize="small")
        else:
            axes.legend(loc=corner, fontsize="small")
