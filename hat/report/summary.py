"""The table that ends a run of a whole task: largest, smallest and found architectures side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ModelRow:
    """One architecture of the table; what was not measured is None."""

    name: str  # largest, smallest or found@<constraint>ms
    params: int  # of the layers, without embeddings and output matrix
    flops: int
    constraint_ms: float | None
    predicted_ms: float
    measured_ms: float
    bleu: float
    weights: str  # inherited: a slice of the SuperTransformer; trained: its own
    signature: str | None = None  # of SacreBLEU: how it was scored
    size_bytes: int | None = None  # of the file of a stand-alone model; None where there is no such file

    @property
    def within_limit(self) -> bool | None:
        """Return whether the measured latency keeps to the limit; None where there is none."""
        return None if self.constraint_ms is None else self.measured_ms <= self.constraint_ms

    def to_plain(self) -> dict[str, Any]:
        """Return the row for a JSON file."""
        return asdict(self) | {"within_limit": self.within_limit}


def text_table(rows: Sequence[ModelRow]) -> str:
    """Return the rows as aligned text; where the measured latency is above the limit, a line says so."""
    header = ("model", "#Params", "FLOPs", "limit ms", "predicted ms", "measured ms", "BLEU", "weights")
    cells = [header] + [
        (
            row.name,
            f"{row.params / 1e6:.2f} M",
            f"{row.flops / 1e9:.3f} G",
            "" if row.constraint_ms is None else f"{row.constraint_ms:g}",
            f"{row.predicted_ms:.2f}",
            f"{row.measured_ms:.2f}",
            f"{row.bleu:.2f}",
            row.weights + (" !" if row.within_limit is False else ""),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = []
    for line in cells:
        text = [
            cell.ljust(width) if column in (0, 7) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(text).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    lines += [_above(row) for row in rows if row.within_limit is False]
    return "\n".join(lines)


def _above(row: ModelRow) -> str:
    assert row.constraint_ms is not None
    percent = 100 * (row.measured_ms / row.constraint_ms - 1)
    return (
        f"! {row.name} measures {row.measured_ms:.2f} ms, {percent:.1f}% above its limit of "
        f"{row.constraint_ms:g} ms; search under a lower limit, or measure a larger latency dataset"
    )
