"""The page of a report: one self-contained HTML file, made by a template that escapes every value."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader
from markupsafe import Markup

import hat
from hat.files.atomic import write_atomic, write_text_atomic
from hat.log import say
from hat.report.collect import Report, collect, number
from hat.report.figures import Chart, Point, architecture_png, charts, png, short
from hat.space import DIMS, Arch

DASH = "\N{EN DASH}"


def report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run folder and return its page, index.html; the pictures lie beside it as PNG.

    Args:
        folder: what `train`, `search` or all stages of a task wrote, or a folder above several of these.
        out: folder to write to (default: `report` in the run's folder).

    Raises DataError if the folder holds no run.
    """
    root = Path(folder)
    found = collect(root)
    target = Path(out) if out else root / "report"
    drawn = charts(found)
    try:
        for name, content in _pictures(found, drawn).items():
            write_atomic(target / f"{name}.png", lambda file, content=content: file.write(content))  # type: ignore[misc]
    except ImportError:
        say("no PNG files: matplotlib is not installed (pip install matplotlib)")
    write_text_atomic(target / "index.html", page(found, drawn))
    return target / "index.html"


def _pictures(found: Report, drawn: Sequence[Chart]) -> dict[str, bytes]:
    sections = dict.fromkeys(chart.section for chart in drawn)
    pictures = {name: png([chart for chart in drawn if chart.section == name]) for name in sections}
    name, arch = found.shown
    if arch and found.space:
        pictures["architecture"] = architecture_png(name, arch, found.space.largest())
    return pictures


def page(found: Report, drawn: Sequence[Chart]) -> str:
    """Return the whole page."""
    env = Environment(loader=PackageLoader("hat.report"), autoescape=True, undefined=ChainableUndefined)
    env.trim_blocks = env.lstrip_blocks = True
    env.filters |= {
        "short": lambda text, most=80: short(str(text), most),
        "duration": duration,
        "num": _number,
    }
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
    """Return what the script of the page draws as plain values; every architecture stands there once.

    A point is [x, y, name, loss, predicted ms, bound ms, measured ms, number of its architecture].
    """
    numbers: dict[Arch, int] = {}

    def number_of(arch: Arch | None) -> int | None:
        return None if arch is None else numbers.setdefault(arch, len(numbers))

    def plain(point: Point) -> list[Any]:
        of = [] if point.of is None else [*map(_round, point.of[:4]), number_of(point.of.arch)]
        return [_round(point.x), _round(point.y), point.name, *of]

    def lines(chart: Chart) -> list[dict[str, Any]]:
        return [
            {**vars(series), "points": [plain(each) for each in series.points]} for series in chart.series
        ]

    content = {
        "charts": [{**vars(chart), "series": lines(chart)} for chart in drawn],
        "largest": number_of(found.space.largest() if found.space else None),
        "shown": number_of(found.shown[1]),
    }
    values = [list(arch.to_yaml().items()) for arch in numbers]
    known = {dim.arch_key: dim for dim in DIMS}
    dims = [
        {
            "key": key,
            "side": known[key].side,
            "name": known[key].label.split(" ", 1)[1],
            "codes": known[key].codes,
        }
        for key, _ in (values or [[]])[0]
    ]
    return {**content, "dims": dims, "archs": [[value for _, value in each] for each in values]}


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _number(value: object, digits: int, scale: float = 1.0) -> str:
    """Return a number divided by `scale`, or a dash if it is none."""
    found = number(value)
    return DASH if found is None else f"{found / scale:.{digits}f}"


def duration(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
