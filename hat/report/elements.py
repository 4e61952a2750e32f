"""Pieces of a page that several sections are made of."""

from collections.abc import Iterable, Sequence

DASH = "\N{EN DASH}"
Cells = Sequence[str]  # of HTML, ready to stand in a table


def none(text: str) -> str:
    """Return a line on what is not here."""
    return f'<p class="none">{text}</p>'


def table(heads: Sequence[tuple[str, str]], rows: Iterable[tuple[Cells, str]], foot: Cells = ()) -> str:
    """Return a table; `heads` are (name, unit), `rows` are (cells, class)."""

    def line(cells: Cells, kind: str = "") -> str:
        return f"<tr{f' class={kind}' if kind else ''}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"

    units = (f"<span>{unit}</span>" if unit else "" for _, unit in heads)
    head = "".join(f'<th scope="col">{name}{unit}</th>' for (name, _), unit in zip(heads, units, strict=True))
    body = "\n".join(line(cells, kind) for cells, kind in rows)
    ending = f"<tfoot>{line(foot)}</tfoot>" if foot else ""
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>{ending}\n</table></div>"
    )


def number_text(value: float | None, digits: int, scale: float = 1.0) -> str:
    """Return a number divided by `scale`, or a dash where it is not known."""
    return DASH if value is None else f"{value / scale:.{digits}f}"
