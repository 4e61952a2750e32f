"""The page of a report: one self-contained HTML file, made by a template that escapes every value."""

import base64
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader
from markupsafe import Markup

import hat
from hat.files.atomic import write_text_atomic
from hat.files.lock import file_lock
from hat.report.collect import Report, collect, duration, number
from hat.report.figures import Chart, Point, charts, png, short, write_png
from hat.space import DIMS, Arch

DASH = "\N{EN DASH}"


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
    env = Environment(loader=PackageLoader("hat.report"), autoescape=True, undefined=ChainableUndefined)
    env.trim_blocks = env.lstrip_blocks = True
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
    """Return what the script of the page draws as plain values; every architecture stands there once.

    A point is [x, y, name, loss, predicted ms, bound ms, measured ms, number of its architecture].
    """
    numbers: dict[Arch, int] = {}

    def number_of(arch: Arch | None) -> int | None:
        return None if arch is None else numbers.setdefault(arch, len(numbers))

    def plain(point: Point) -> list[Any]:
        of = [] if point.of is None else [*map(_round, point.of[:4]), number_of(point.of.arch)]
        return [_round(point.x), _round(point.y), point.name, *of]

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
    """Return a number divided by `scale`, or a dash if it is none."""
    found = number(value)
    return DASH if found is None else f"{found / scale:.{digits}f}"
