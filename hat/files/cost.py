"""What a stage costs: wall time, CPU time, threads and GPUs, added up over every time it was started."""

import json
import math
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from hat.files.atomic import write_text_atomic

_TICK_S = 15.0  # a kill loses at most this much


class Spent(NamedTuple):
    """The sum over all sittings; what no file told is None."""

    wall_s: float
    cpu_s: float | None
    gpu_s: float
    threads: int | None
    gpus: int
    sittings: int


class Cost:
    """Keeps `path` up to date while a stage runs: one record for each sitting, those of earlier ones kept.

    A stage that was stopped and started again so adds up; one that starts anew is not `resumable`.
    `processes` work alike, so the CPU time of this one counts that many times; those it starts itself, such
    as the ones that measure the finalists of a search, count once. Without a path (every process but the
    first) nothing is written.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        threads: int,
        processes: int = 1,
        gpus: int = 0,
        resumable: bool = True,
    ) -> None:
        self._path = path
        self._earlier = _sittings(path) if path and resumable else []
        self._fixed = {"threads": threads, "processes": processes, "gpus": gpus}
        self._began, self._own_began, self._children_began = time.perf_counter(), *_cpu_seconds()
        self._unix_s = round(time.time(), 3)
        self._written = self._began

    def tick(self) -> None:
        """Write the state, but not more often than every quarter of a minute; cheap to call."""
        if time.perf_counter() - self._written > _TICK_S:
            self.write()

    def write(self) -> None:
        """Write the state now."""
        self._written = time.perf_counter()
        if self._path is None:
            return
        own_s, children_s = _cpu_seconds()
        own_s, children_s = own_s - self._own_began, children_s - self._children_began
        now = {
            "started_unix_s": self._unix_s,
            "wall_s": round(self._written - self._began, 3),
            "cpu_s": round(own_s * self._fixed["processes"] + children_s, 3),
            **self._fixed,
        }
        write_text_atomic(self._path, json.dumps({"sittings": [*self._earlier, now]}, indent=1) + "\n")

    def __enter__(self) -> "Cost":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.write()


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those it has waited for."""
    return sum(_cpu_seconds())


def _cpu_seconds() -> tuple[float, float]:
    """Return the CPU time of this process, and of those it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


def read_cost(path: Path) -> Spent | None:
    """Return the sum of the sittings in `path`, or None where there is no such file or nothing in it."""
    sittings = _sittings(path)
    if not sittings:
        return None
    last = sittings[-1]
    return Spent(
        math.fsum(_number(each, "wall_s") for each in sittings),
        math.fsum(_number(each, "cpu_s") for each in sittings),
        math.fsum(_number(each, "wall_s") * _number(each, "gpus") for each in sittings),
        int(_number(last, "threads") * max(1, _number(last, "processes"))) or None,
        int(_number(last, "gpus")),
        len(sittings),
    )


def _sittings(path: Path) -> list[Mapping[str, Any]]:
    """Return the records of a file; one that is damaged holds none, as no stage should fail for its costs."""
    try:
        found = json.loads(path.read_text("utf-8"))["sittings"]
        return [each for each in found if isinstance(each, dict)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name, 0)
    known = isinstance(value, int | float) and math.isfinite(value) and value >= 0
    return float(value) if known else 0.0
