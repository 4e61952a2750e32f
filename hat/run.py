"""The record of a run: what it was made from, on what, with what result, and at what cost.

A run folder holds `run.json`; a product F that stands alone (a latency table, a predictor, an architecture
that a search found, an averaged checkpoint, a translation, a score) has `F.run.json` beside it.
docs/records.md describes the schema. Whoever wants to know what a run did reads this record, and nothing by
its name.
"""

import hashlib
import json
import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hat.errors import DataError, brief
from hat.files.atomic import file_digest, write_text_atomic
from hat.files.lock import FolderLock
from hat.log import versions

FORMAT = 1
_TICK_S = 15.0  # a kill loses at most this much of the cost


class Cost(NamedTuple):
    """What a run cost, summed over every time it was started; None if no record tells."""

    wall_s: float
    cpu_s: float | None
    gpu_s: float
    threads: int | None
    gpus: int
    sittings: int


@dataclass(frozen=True)
class Record:
    """The content of one `run.json`.

    Attributes:
        kind: what the run made: train, latency-table, predictor, search, average, translation, score, task.
        settings: options by their YAML keys, defaults filled in.
        inputs: SHA-256 of the content of each input, by what it is used for.
        device: name of the device, threads, cores, number format.
        versions: of HAT, Python, PyTorch and other packages that a result depends on.
        results: what came out, by names that carry their units.
        outputs: SHA-256 of each file that a finished run vouches for.
        cost: see `Cost`; None if the record has none.
        state: running, done, stopped (by a signal) or failed. A killed run stays at running.
        format: version of the schema; 0 for the files of HAT 0.1.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    cost: Cost | None = None
    state: str = "done"
    format: int = FORMAT

    @property
    def identity(self) -> str:
        """Return the SHA-256 of kind, settings and inputs: runs that share it made the same thing."""
        return identity_of(self.kind, self.settings, self.inputs)


def identity_of(kind: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the SHA-256 of what a run is made from."""
    text = json.dumps([kind, settings, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def record_path(of: Path, *, folder: bool | None = None) -> Path:
    """Return where the record of a folder (`run.json` in it) or of a file (`F.run.json`) is.

    Args:
        of: the folder or file.
        folder: which of both it is; None looks, for one that exists.
    """
    inside = of.is_dir() if folder is None else folder
    return of / "run.json" if inside else of.with_name(f"{of.name}.run.json")


class Run:
    """A run under way: keeps its record on disk up to date, and adds up what it costs.

    Inside its `with` block the record says "running"; when the block ends it says how that went. `results`
    and `outputs` are filled by the run. The cost of earlier sittings is kept, so a run that was stopped and
    went on adds up. `Run(None, ...)` writes nothing: every process of a run but the first, and a notebook
    that gives no folder.

    Args:
        path: file of the record, see `record_path`.
        kind: see `Record`.
        settings: options by their YAML keys; values of plain types.
        inputs: for each use a file, whose content is read, or a SHA-256 that is known.
        device: see `Record`.
        threads: CPU threads of each process.
        processes: processes that work alike: the CPU time of this one counts so many times.
        gpus: GPUs in use.
        goes_on: whether an earlier run of this record is continued; else its cost does not count.
    """

    def __init__(
        self,
        path: Path | None,
        kind: str,
        *,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Path | str] | None = None,
        device: Mapping[str, Any] | None = None,
        threads: int = 1,
        processes: int = 1,
        gpus: int = 0,
        goes_on: bool = True,
    ) -> None:
        self.path, self.kind, self.state = path, kind, "running"
        self.settings = {key: value for key, value in settings.items() if value is not None and value != ()}
        self.inputs = {} if path is None else {use: _digest(of) for use, of in (inputs or {}).items()}
        self.device = {**(device or {}), "threads": threads, "cores": os.cpu_count()}
        self.results: dict[str, Any] = {}
        self.outputs: dict[str, str] = {}
        self._earlier = _sittings(path) if path and goes_on else []
        self._fixed = {"threads": threads, "processes": processes, "gpus": gpus}
        self._began, self._cpu_began = time.perf_counter(), _cpu_seconds()
        self._unix_s = round(time.time(), 3)
        self._written = self._began

    @classmethod
    @contextmanager
    def folder(cls, folder: Path | None, kind: str, *, advice: str, **more: Any) -> Iterator["Run"]:
        """Lock a run folder and keep its record inside the block; without a folder nothing is written.

        Args:
            folder: the folder, made if it is missing.
            kind: see `Record`.
            advice: what to do if another process writes into the folder.
            more: further arguments of `Run`.

        Raises HatError if another process writes into the folder, or if it cannot be written.
        """
        if folder is None:
            with cls(None, kind, **more) as run:
                yield run
            return
        with FolderLock(folder, advice), cls(record_path(folder, folder=True), kind, **more) as run:
            yield run

    def tick(self) -> None:
        """Write the record, but not more often than every quarter of a minute; cheap to call."""
        if time.perf_counter() - self._written > _TICK_S:
            self.write()

    def vouch(self, *files: Path) -> None:
        """Take the content of files into the record as outputs of the run."""
        if self.path is not None:
            self.outputs |= {file.name: file_digest(file) for file in files}

    def write(self) -> None:
        """Write the record now."""
        self._written = time.perf_counter()
        if self.path is None:
            return
        own_s, children_s = (now - then for now, then in zip(_cpu_seconds(), self._cpu_began, strict=True))
        sitting = {
            "started_unix_s": self._unix_s,
            "wall_s": round(self._written - self._began, 3),
            "cpu_s": round(own_s * self._fixed["processes"] + children_s, 3),
            **self._fixed,
        }
        content = {
            "format": FORMAT,
            "kind": self.kind,
            "state": self.state,
            "settings": self.settings,
            "inputs": self.inputs,
            "identity": identity_of(self.kind, self.settings, self.inputs),
            "device": self.device,
            "versions": versions(),
            "results": self.results,
            "outputs": self.outputs,
            "cost": {"sittings": [*self._earlier, sitting]},
        }
        write_text_atomic(self.path, json.dumps(content, indent=1, default=str) + "\n")

    def __enter__(self) -> "Run":
        self.write()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: object) -> None:
        if kind is not None:
            self.state = "failed" if issubclass(kind, Exception) else "stopped"
        elif self.state == "running":
            self.state = "done"
        self.write()


def read_record(
    of: Path, *, folder: bool | None = None, note: Callable[[str], object] | None = None
) -> Record:
    """Return the record of a run folder or of a file; one without content if there is none.

    Records of HAT 0.1 (`config.yml`, `version.json`, `cost.json`, for a file with its name in front) are read
    as format 0. What is damaged is left out, and `note` is told; without `note` that is a DataError.
    """
    path = record_path(of, folder=folder)

    def damaged(file: Path, why: object) -> None:
        text = f"{file} is left out: it is damaged ({brief(why)})"
        if note is None:
            raise DataError(f"{file} is damaged ({brief(why)}); restore it from a copy or run again")
        note(text)

    content = _mapping(path, json.loads, damaged)
    if content is None:
        return _read_0_1(of, path, damaged)
    held = content.get("format")
    if type(held) is not int or not 1 <= held <= FORMAT:
        damaged(path, f"format {held}, this version reads up to {FORMAT}")
        return Record("")
    parts = {
        name: value if isinstance(value := content.get(name), dict) else {}
        for name in ("settings", "inputs", "device", "versions", "results", "outputs")
    }
    kind, state = str(content.get("kind", "")), str(content.get("state", ""))
    return Record(kind, **parts, cost=_sum(_listed(content.get("cost"))), state=state, format=held)


def _read_0_1(of: Path, path: Path, damaged: Callable[[Path, object], None]) -> Record:
    files = {
        name: of / name if path.parent == of else of.with_name(f"{of.stem}.{name}")
        for name in ("config.yml", "version.json", "cost.json")
    }
    settings = _mapping(files["config.yml"], yaml.safe_load, damaged)
    found = _mapping(files["version.json"], json.loads, damaged)
    cost = _mapping(files["cost.json"], json.loads, damaged)
    device = {key: value for key, value in (found or {}).items() if key in ("device", "threads", "cores")}
    others = {key: str(value) for key, value in (found or {}).items() if key not in device}
    return Record("", settings or {}, {}, device, others, cost=_sum(_listed(cost)), format=0)


def _mapping(
    path: Path, read: Callable[[str], Any], damaged: Callable[[Path, object], None]
) -> dict[str, Any] | None:
    """Return the mapping in a file, or None if it is missing or damaged."""
    try:
        found = read(path.read_text("utf-8"))
        if isinstance(found, dict):
            return found
        damaged(path, "no mapping")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        damaged(path, error)
    return None


def _digest(of: Path | str) -> str:
    try:
        return of if isinstance(of, str) else file_digest(of)
    except OSError as error:
        raise DataError(f"cannot read {of}: {error.strerror}; check the path") from error


def cpu_seconds() -> float:
    """Return the CPU time in seconds of this process and of those it has waited for."""
    return sum(_cpu_seconds())


def _cpu_seconds() -> tuple[float, float]:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


def _sittings(path: Path) -> list[Mapping[str, Any]]:
    """Return the sittings of an earlier run; none if its record is damaged: no run fails for its costs."""
    return _listed((_mapping(path, json.loads, lambda file, why: None) or {}).get("cost"))


def _listed(cost: object) -> list[Mapping[str, Any]]:
    sittings = cost.get("sittings") if isinstance(cost, dict) else None
    return [each for each in sittings if isinstance(each, dict)] if isinstance(sittings, list) else []


def _sum(sittings: list[Mapping[str, Any]]) -> Cost | None:
    if not sittings:
        return None
    last = sittings[-1]
    return Cost(
        math.fsum(_number(each, "wall_s") for each in sittings),
        math.fsum(_number(each, "cpu_s") for each in sittings),
        math.fsum(_number(each, "wall_s") * _number(each, "gpus") for each in sittings),
        int(_number(last, "threads") * max(1, _number(last, "processes"))) or None,
        int(_number(last, "gpus")),
        len(sittings),
    )


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name, 0)
    known = isinstance(value, int | float) and math.isfinite(value) and value >= 0
    return float(value) if known else 0.0
