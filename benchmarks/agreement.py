"""What the studies share: how well numbers order pairs, and tables as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any


def pair_accuracy(
    predicted: Sequence[float], truth: Sequence[float], pairs: Sequence[tuple[int, int]]
) -> float | None:
    """Return the share of pairs that both order alike, 0 to 1; a tie in `predicted` counts half.

    Pairs with equal truth are left out; None without any.
    """
    signs = [(predicted[i] - predicted[j]) * (truth[i] - truth[j]) for i, j in pairs if truth[i] != truth[j]]
    return fmean(0.5 if sign == 0 else float(sign > 0) for sign in signs) if signs else None


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a column for each key of any record."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
