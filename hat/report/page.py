"""The page of a report: one self-contained HTML file, made by a template that escapes every value. Its charts
are values: the page draws them with JavaScript, `png` with matplotlib.
"""

import base64
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import hat
from hat.errors import install
from hat.files.atomic import file_lock, write_atomic, write_text_atomic
from hat.log import info
from hat.report.collect import Model, Report, Search, Training, collect, duration, number
from hat.space import DIMS, Arch

DASH = "\N{EN DASH}"
# Okabe and Ito (2008): told apart with every kind of colour vision; on the page each is a CSS variable.
COLOURS = {"blue": "#0072b2", "red": "#d55e00", "green": "#009e73", "purple": "#aa4a8b", "sky": "#a9cfe6"}
COLOURS |= {"ink": "#1a1f26", "muted": "#5d6671", "grid": "#dfe3e8"}
SERIES = ("blue", "red", "green", "purple")
MARKS = {"dot": "o", "ring": "o", "square": "s", "triangle": "v", "diamond": "D", "cross": "X"}
_SHAPES = {"largest": "square", "smallest": "triangle", "baseline": "cross", "found": "diamond"}
_MOST_DOTS, _MOST_POINTS, _MOST_TRAININGS = 4000, 500, 40  # so a page stays below 2 MB
_SHOWN = ("inherited_loss", "predicted_ms", "bound_ms", "measured_ms")  # of the dot one points at
_LOSS = "validation loss (base 2)"
_STYLE = Path(__file__).parent / "templates" / "pictures.mplstyle"


class Point(NamedTuple):
    """A point of a chart; what is known of the architecture behind it, if there is one."""

    x: float
    y: float
    of: Model | None = None
    name: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one meaning; `kind` is a mark of MARKS, or line or step."""

    name: str
    kind: str
    colour: str
    points: tuple[Point, ...]
    size: float = 4.0  # radius of a mark in CSS pixels


@dataclass(frozen=True)
class Chart:
    """One picture; charts of the same section stand beside each other, and are panels of one PNG."""

    section: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    limits_ms: tuple[float, ...] = ()  # vertical lines
    equal: bool = False  # draw the line x = y with a band of 5%


def short(text: str, most: int = 40) -> str:
    """Return a name that fits into a drawing, without what is no character."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= most else plain[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def charts(report: Report) -> list[Chart]:
    """Return what can be drawn of a report."""
    drawn = [_front(report), latency_chart(report.predictor.get("unseen"), report.models)]
    drawn.append(_progress(report.searches, "best_loss", "Best loss so far", _LOSS))
    drawn.append(_progress(report.searches, "hypervolume", "Hypervolume of the front", "share of the box"))
    drawn += [_training(training) for training in report.trainings[:_MOST_TRAININGS]]
    full = [replace(chart, series=tuple(each for each in chart.series if each.points)) for chart in drawn]
    return [chart for chart in full if chart.series]


def pareto_front(scored: Sequence[Model]) -> list[Model]:
    """Return those that no other is both at least as fast and better than, fastest first."""
    front: list[Model] = []
    for each in sorted(scored, key=lambda e: (e.predicted_ms, e.inherited_loss)):
        if not front or (each.inherited_loss or 0.0) < (front[-1].inherited_loss or 0.0):
            front.append(each)
    return front


def _front(report: Report) -> Chart:
    scored = [each for search in report.searches for each in search.evaluations]
    measured, front = [each for each in scored if each.measured_ms is not None], pareto_front(scored)

    def place(model: Model) -> Point | None:
        """Return where a model stands: at its measured latency, else at the predicted one."""
        ms = model.predicted_ms if model.measured_ms is None else model.measured_ms
        loss = model.trained_loss if model.inherited_loss is None else model.inherited_loss
        if ms is None or loss is None:
            return None
        of = replace(model, inherited_loss=loss, predicted_ms=model.predicted_ms or ms)
        return Point(ms, loss, of, short(model.name))

    def points(of: Sequence[Model]) -> tuple[Point, ...]:
        thin = _thinned(of, _MOST_DOTS)
        return tuple(Point(each.predicted_ms, each.inherited_loss, each) for each in thin)

    series = [
        Series(f"scored ({len(scored):,})", "dot", "sky", points(scored), 3.5),
        Series(f"front ({len(front)})", "step", "blue", points(front)),
        Series(f"measured ({len(measured)})", "ring", "green", tuple(filter(None, map(place, measured))), 6),
    ]
    series += _marks(report.models, place) if scored else ()
    limits = sorted({limit for search in report.searches for limit in search.limits_ms})
    labels = ("Loss against latency", "latency (ms)", _LOSS)
    return Chart("front", *labels, tuple(series), tuple(limits))


def _marks(models: Sequence[Model], place: Callable[[Model], Point | None]) -> Iterator[Series]:
    for role, shape in _SHAPES.items():
        points = tuple(filter(None, (place(model) for model in models if model.role == role)))
        yield Series(role, shape, "red" if role == "found" else "ink", points, 6)


def latency_chart(unseen: object, models: Sequence[Model]) -> Chart:
    """Return predicted against measured latency, of models and of the rows that a predictor did not learn
    from: `unseen` holds (measured, predicted) ms, and what is no such pair is left out.
    """
    rows = unseen if isinstance(unseen, list | tuple) else ()
    pairs = [tuple(map(number, row)) for row in rows if isinstance(row, list | tuple) and len(row) == 2]
    points = _thinned([Point(x, y) for x, y in pairs if x and y])
    series = [Series(f"rows not learnt from ({len(points)})", "dot", "blue", points)]

    def place(m: Model) -> Point | None:
        x, y = m.measured_ms, m.predicted_ms
        return None if x is None or y is None else Point(x, y, name=short(m.name))

    series += _marks(models, place)
    labels = ("Predicted against measured", "measured latency (ms)", "predicted latency (ms)")
    return Chart("latency", *labels, tuple(series), equal=True)


def _progress(searches: Sequence[Search], key: str, title: str, y: str) -> Chart:
    series = []
    for index, search in enumerate(searches):
        one = len(search.limits_ms) == 1 and not search.front
        which = f"under {search.limits_ms[0]:g} ms" if one else short(search.name)
        steps = [step for step in search.steps if {key, "evaluations"} <= step.keys()]
        points = [Point(step["evaluations"], step[key]) for step in steps]
        series.append(Series(which, "line", SERIES[index % len(SERIES)], _thinned(points)))
    return Chart("search", title, "architectures scored", y, tuple(series))


def _training(training: Training) -> Chart:
    looks = {"sub": ("validation", "red"), "largest": ("largest", "red"), "smallest": ("smallest", "purple")}
    series = [Series("training", "line", "sky", _thinned([Point(*each) for each in training.train]))]
    for key, (name, colour) in looks.items():
        points = _thinned([Point(*each) for each in training.valid.get(key, ())])
        series.append(Series(name, "line", colour, points))
    return Chart("training", short(training.name), "updates", "loss (base 2)", tuple(series))


def _thinned(points: Sequence[Any], most: int = _MOST_POINTS) -> tuple[Any, ...]:
    """Return at most so many of the points, evenly chosen, first and last among them."""
    count = min(len(points), most)
    return tuple(points[n * (len(points) - 1) // max(1, count - 1)] for n in range(count))


# --- PNG


def write_png(path: Path, draw: Callable[[], bytes]) -> bool:
    """Write what `draw` returns; if matplotlib is missing, say so and return False."""
    try:
        content = draw()
    except ImportError:
        info(f"no picture: matplotlib is not installed; run: {install('report')}")
        return False
    write_atomic(path, lambda file: file.write(content))
    return True


def png(drawn: Sequence[Chart]) -> bytes:
    """Return the charts of one section as a PNG of 1920 pixels width, on white, in one style."""
    import matplotlib
    from matplotlib.figure import Figure

    across = min(2, len(drawn))
    down, content = -(-len(drawn) // across), io.BytesIO()
    with matplotlib.rc_context(fname=_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the font lacks; a browser has others
        figure = Figure(figsize=(13.3, 6.4 if across == 1 else 4.8 * down), layout="constrained")
        for place, chart in enumerate(drawn, 1):
            _draw(figure.add_subplot(down, across, place), chart)
        figure.savefig(content, format="png", dpi=144, facecolor="white")
    return content.getvalue()


def _draw(axes: Any, chart: Chart) -> None:
    for series in chart.series:
        x, y = [point.x for point in series.points], [point.y for point in series.points]
        look = {"color": COLOURS[series.colour], "label": series.name, "zorder": 2}
        if series.kind in MARKS:
            ring = {"facecolors": "none", "edgecolors": look.pop("color")} if series.kind == "ring" else {}
            axes.scatter(x, y, s=3.2 * series.size**2, marker=MARKS[series.kind], alpha=0.85, **look, **ring)
            for point in series.points[:3]:
                axes.annotate(point.name, point[:2], (8, 4), textcoords="offset points", fontsize="small")
        elif series.kind == "step":
            axes.step(x, y, where="post", marker="o", markersize=4, **look)
        else:
            axes.plot(x, y, **look)
    for at, limit in enumerate(chart.limits_ms):
        label = None if at else f"limits: {', '.join(f'{each:g}' for each in chart.limits_ms)} ms"
        axes.axvline(limit, color=COLOURS["red"], linewidth=1, linestyle=":", zorder=1, label=label)
    if chart.equal:
        every = [value for series in chart.series for point in series.points for value in point[:2]]
        line = [0.94 * min(every), 1.06 * max(every)]
        low, high = [0.95 * end for end in line], [1.05 * end for end in line]
        axes.fill_between(line, low, high, color=COLOURS["grid"], linewidth=0, label="equal, 5%")
        axes.plot(line, line, color=COLOURS["muted"], linewidth=1)
        axes.set(xlim=line, ylim=line, aspect="equal")
    axes.set(title=chart.title, xlabel=chart.x, ylabel=chart.y)
    axes.legend()


def report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run folder and return its page, index.html; the pictures lie beside it as PNG.
    `folder` is what `train`, `search` or all stages of a task wrote, or one above several of these; `out` is
    by default `report` inside it. Raises DataError if the folder holds no run.
    """
    root = Path(folder)
    found = collect(root)
    target, drawn = Path(out or root / "report"), charts(found)
    with file_lock(target / "index.html", "wait for it, or give another --to"):
        for section in dict.fromkeys(chart.section for chart in drawn):
            picture = [chart for chart in drawn if chart.section == section]
            if not write_png(target / f"{section}.png", partial(png, picture)):
                break
        write_text_atomic(target / "index.html", page(found, drawn))
    return target / "index.html"


def page(found: Report, drawn: Sequence[Chart]) -> str:
    """Return the whole page."""
    import jinja2  # late: a picture alone needs no template
    from markupsafe import Markup

    how: dict[str, Any] = {"undefined": jinja2.ChainableUndefined, "trim_blocks": True, "lstrip_blocks": True}
    env = jinja2.Environment(loader=jinja2.PackageLoader("hat.report"), autoescape=True, **how)
    env.filters |= {"duration": duration, "num": _number}
    env.filters["short"] = lambda text, most=80: short(str(text), most)
    folder = Path(__file__).parent / "templates"
    css, js = (Markup((folder / name).read_text("utf-8")) for name in ("page.css", "page.js"))  # noqa: S704
    return env.get_template("page.html").render(
        report=found,
        version=hat.__version__,
        css=css,
        js=js,
        script_hash=base64.b64encode(hashlib.sha256(js.encode()).digest()).decode(),
        data=_plain(found, drawn),
        sections=list(dict.fromkeys(chart.section for chart in drawn)),
        shown=found.shown,
        fronts=[search for search in found.searches if search.front],
    )


def _plain(found: Report, drawn: Sequence[Chart]) -> dict[str, Any]:
    """Return what the script of the page draws as plain values; every architecture stands there once. A point
    is [x, y, name, loss, predicted ms, bound ms, measured ms, number of its architecture].
    """
    numbers: dict[Arch, int] = {}

    def number_of(arch: Arch | None) -> int | None:
        return None if arch is None else numbers.setdefault(arch, len(numbers))

    def plain(point: Point) -> list[Any]:
        held = (
            [_round(getattr(point.of, name)) for name in _SHOWN] + [number_of(point.of.arch)]
            if point.of
            else []
        )
        return [_round(point.x), _round(point.y), point.name, *held]

    content: dict[str, Any] = {"charts": [dict(vars(chart)) for chart in drawn]}
    for chart in content["charts"]:
        chart["series"] = [vars(each) | {"points": [*map(plain, each.points)]} for each in chart["series"]]
    content["largest"] = number_of(found.space.largest() if found.space else None)
    content["shown"] = number_of(found.shown[1])
    values, known = [arch.to_yaml() for arch in numbers], {dim.arch_key: dim for dim in DIMS}
    content["dims"] = [
        {"key": key, "side": dim.side, "name": dim.label.split(" ", 1)[1], "codes": dim.codes}
        for key, dim in ((key, known[key]) for key in (values or [{}])[0])
    ]
    return content | {"archs": [[*each.values()] for each in values]}


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _number(value: object, digits: int, scale: float = 1.0) -> str:
    found = number(value)
    return DASH if found is None else f"{found / scale:.{digits}f}"
