"""The result of one benchmark: rows, ratios against their targets, and the machine."""

from dataclasses import asdict, dataclass
from typing import Any

from hat.bench.alternate import Samples
from hat.bench.machine import Machine


@dataclass(frozen=True)
class Row:
    """One number; `low` and `high` are quartiles over `count` rounds where it is a median."""

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    count: int = 1

    def text(self) -> str:
        """Return one line."""
        around = "" if self.low is None or self.high is None else f"   ({self.low:.4g} to {self.high:.4g})"
        return f"  {self.name:<58}{self.value:>10.4g} {self.unit}{around}"


def median_row(name: str, samples: Samples) -> Row:
    """Return the median of a case in milliseconds, with its quartiles."""
    return Row(name, samples.median_ms, "ms", *samples.quartiles_ms, count=len(samples.ms))


def rate_row(name: str, samples: Samples, items: int, unit: str) -> Row:
    """Return items a second from the times of a case that handles `items` of them."""
    low, high = (1e3 * items / ms for ms in reversed(samples.quartiles_ms))
    return Row(name, 1e3 * items / samples.median_ms, unit, low, high, len(samples.ms))


@dataclass(frozen=True)
class Target:
    """A ratio and the limit it has to keep; without a value it was not taken, and a note says why."""

    text: str
    value: float | None
    limit: float
    at_most: bool = True

    @property
    def met(self) -> bool | None:
        """Return whether the value keeps the limit, None where there is none."""
        if self.value is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def line(self) -> str:
        """Return one line."""
        sign = "<=" if self.at_most else ">="
        if self.value is None:
            return f"  not taken: {self.text} ({sign} {self.limit:g})"
        return f"  {'met   ' if self.met else 'MISSED'} {self.text}: {self.value:.3g} ({sign} {self.limit:g})"


@dataclass(frozen=True)
class Figure:
    """One benchmark, done, or as far as it came."""

    name: str
    machine: Machine
    rows: tuple[Row, ...]
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()  # what was left out, and why
    error: str = ""  # what failed of it

    def text(self) -> str:
        """Return the readable form."""
        lines = [f"{self.name} on {self.machine.text()}"]
        lines += [row.text() for row in self.rows]
        lines += [target.line() for target in self.targets]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  FAILED: {self.error}"] if self.error else []
        return "\n".join(lines)

    def values(self) -> dict[str, Any]:
        """Return plain values, each target with whether it is met."""
        plain = asdict(self)
        for target, values in zip(self.targets, plain["targets"], strict=True):
            values["met"] = target.met
        return plain

    @classmethod
    def of_values(cls, values: dict[str, Any]) -> "Figure":
        """Return the figure `values` was called on."""
        targets = [{k: v for k, v in target.items() if k != "met"} for target in values["targets"]]
        return cls(
            values["name"],
            Machine(**values["machine"]),
            tuple(Row(**row) for row in values["rows"]),
            tuple(Target(**target) for target in targets),
            tuple(values["notes"]),
            values["error"],
        )
