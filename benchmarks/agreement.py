"""How well one list of numbers orders and predicts another."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np


def kendall_tau(predicted: Sequence[float], truth: Sequence[float], *, tau_b: bool = False) -> float:
    """Return (pairs ordered alike - pairs ordered otherwise) / pairs that differ in `truth`, -1 to 1.

    A tie in `predicted` counts as no answer: tau-a if all truths differ, Somers' D in general. `tau_b` leaves
    ties out on both sides, so a prediction that answers only easy pairs can score above one that answers all.
    0 if one side holds a single value.
    """
    signs = [np.sign(np.subtract.outer(np.asarray(side), np.asarray(side))) for side in (predicted, truth)]
    agreement, answered, untied = ((a * b).sum() for a, b in (signs, [signs[0]] * 2, [signs[1]] * 2))
    pairs = math.sqrt(answered * untied) if tau_b else untied
    return float(agreement / pairs) if pairs else 0.0


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


def save_picture(path: Any, figure: Any) -> None:
    """Write a figure of matplotlib as one PNG, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    partial = path.with_suffix(".png.part")
    partial.write_bytes(picture.getvalue())
    partial.replace(path)
