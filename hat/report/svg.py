"""Draw with matplotlib once, and keep the drawing as PNG and as SVG that follows the colours of its page."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart with every kind of colour vision; on a page each is a CSS variable.
INK, MUTED, GRID, PAPER = "#1a1f26", "#5d6671", "#dfe3e8", "#fefefe"
BLUE, RED, GREEN, PURPLE, SKY = "#0072b2", "#d55e00", "#009e73", "#aa4a8b", "#a9cfe6"
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    BLUE: "blue",
    RED: "red",
    GREEN: "green",
    PURPLE: "purple",
    SKY: "sky",
}
SERIES = (BLUE, RED, GREEN, PURPLE)
WIDE, NARROW = 960, 360  # CSS pixels

Draw = Callable[["Figure", bool], object]  # figure, whether it is narrow

_STYLE: dict[str, Any] = {
    "text.parse_math": False,  # a name with $ in it is a name
    "svg.fonttype": "none",
    "svg.hashsalt": "hat",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 4,
    "ytick.major.size": 0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


def png(draw: Draw, height: int) -> bytes:
    """Return the wide drawing on white, at twice the pixels of the page; `height` is in CSS pixels."""
    with _figure(draw, WIDE, height) as figure:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=144, facecolor="#ffffff")
        return buffer.getvalue()


def svg(draw: Draw, height: int, name: str, label: str, *, narrow: bool = False) -> str:
    """Return an `svg` element to stand inside a page: text as text, colours as variables, nothing to load.

    `name` (letters only) tells its ids from those of others; `label`, ready for an attribute, is what a
    screen reader says.
    """
    with _figure(draw, NARROW if narrow else WIDE, height) as figure:
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", dpi=72, metadata={"Date": None})
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r"font-family: ?[^;\"]*|'DejaVu Sans'[^;\"]*", _font, body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    width = NARROW if narrow else WIDE
    size = "narrow" if narrow else "wide"
    return f'<svg class="{size}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}'


def _font(found: re.Match[str]) -> str:
    return "font-family: inherit" if found[0].startswith("font-family") else "var(--sans)"


@contextmanager
def _figure(draw: Draw, width: int, height: int) -> Iterator["Figure"]:
    import matplotlib
    from matplotlib.figure import Figure

    narrow = width == NARROW
    size = {"font.size": 11.5 if narrow else 13, "axes.titlesize": 12 if narrow else 14}
    with matplotlib.rc_context(_STYLE | size), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the font lacks; a browser has others
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        draw(figure, narrow)
        yield figure
