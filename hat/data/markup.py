"""Sentences out of the files that corpora come in: one function from a line to its text, or to None."""

import re
from collections.abc import Callable
from typing import Literal

from hat.errors import DataError

Markup = Literal["none", "segments", "talks", "columns"]
_SEGMENT = re.compile(r'<seg id="?[^">]*"?\s*>(.*)</seg>', re.IGNORECASE)
_DROPPED = ("<url>", "<talkid>", "<keywords>")
_STRIPPED = ("<title>", "</title>", "<description>", "</description>")


def extractor(markup: Markup, column: int = 1) -> Callable[[str], str | None]:
    """Return the function that takes the sentence out of a line; None means that the line holds none.

    `column` (from 1) is for "columns" only.
    """
    if markup == "columns":
        return lambda line: tab_column(line, column)
    return {"none": lambda line: line, "segments": segment, "talks": talk_line}[markup]


def segment(line: str) -> str | None:
    """Return the text of the `<seg id=..>` of a line of SGML or XML, right single quotes made apostrophes.

    Entities such as `&amp;` stay, as in the reference. Raises DataError for a segment that does not end on
    its line and for two on one line.
    """
    if "<seg " not in line.lower():
        return None
    found = _SEGMENT.search(line)
    if not found or "<seg" in found[1].lower():
        raise DataError(
            f"cannot read the segment {line.strip()[:80]!a}: each line holds one whole <seg id=..>..</seg>; "
            "break the lines of the file accordingly"
        )
    return found[1].strip().replace("\u2019", "'")


def talk_line(line: str) -> str | None:
    """Return a line of a talk's training text; its address, number and keywords are no sentences."""
    if any(tag in line for tag in _DROPPED):
        return None
    for tag in _STRIPPED:
        line = line.replace(tag, "")
    return line


def tab_column(line: str, column: int) -> str:
    """Return column `column` (from 1) of a tab-separated line, empty where the line has fewer."""
    columns = line.split("\t")
    return columns[column - 1] if column <= len(columns) else ""
