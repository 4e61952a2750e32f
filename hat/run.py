"""The record of a run: what it was made from, on what, with what result, and at what cost.

A run folder holds `run.json`; a product F that stands alone (a latency table, a predictor, an architecture
that a search found, an averaged checkpoint, a translation, a score) has `F.run.json` beside it.
docs/records.md describes the schema.
"""

import hashlib
import json
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from math import fsum, inf
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from hat.errors import DataError, brief
from hat.files.atomic import file_digest, write_text_atomic
from hat.files.lock import FolderLock
from hat.log import versions

FORMAT = 1
_TICK_S = 15.0  # a kill loses at most this much of the cost
_PARTS = ("settings", "inputs", "device", "versions", "results", "outputs")
_SITTING = ("started_unix_s", "wall_s", "cpu_s", "threads", "processes", "gpus")
Note = Callable[[str], object]
T = TypeVar("T")
_DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError)


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
    """The content of one `run.json`."""

    kind: str  # train, latency-table, predictor, search, average, translation, score or task
    settings: Mapping[str, Any] = field(default_factory=dict)  # options by their YAML keys, with defaults
    inputs: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of the content, by what it is used for
    device: Mapping[str, Any] = field(default_factory=dict)  # name of the device, threads, cores, dtype
    versions: Mapping[str, str] = field(default_factory=dict)  # of HAT, Python, PyTorch and other packages
    results: Mapping[str, Any] = field(default_factory=dict)  # what came out; names carry their units
    outputs: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of files a finished run vouches for
    sittings: tuple[Mapping[str, float], ...] = ()  # what each start of the run cost
    state: str = "done"  # running (also if it was killed), done, stopped (by a signal) or failed
    format: int = FORMAT  # version of the schema; 0 for the files of HAT 0.1

    @property
    def identity(self) -> str:
        """Return the SHA-256 of kind, settings and inputs: runs that share it made the same thing."""
        return identity_of(self.kind, self.settings, self.inputs)

    @property
    def cost(self) -> Cost | None:
        """Return what the run cost; None if the record does not say."""
        if not self.sittings:
            return None
        wall_s, cpu_s = (fsum(each[part] for each in self.sittings) for part in ("wall_s", "cpu_s"))
        gpu_s, last = fsum(each["wall_s"] * each["gpus"] for each in self.sittings), self.sittings[-1]
        threads = int(last["threads"] * max(1, last["processes"])) or None
        return Cost(wall_s, cpu_s, gpu_s, threads, int(last["gpus"]), len(self.sittings))


def identity_of(kind: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the SHA-256 of what a run is made from."""
    text = json.dumps([kind, settings, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def record_path(of: Path, *, folder: bool | None = None) -> Path:
    """Return where the record of a folder (`run.json` in it) or of a file (`F.run.json`) is.

    `folder` says which of both `of` is; None looks, for one that exists.
    """
    inside = of.is_dir() if folder is None else folder
    return of / "run.json" if inside else of.with_name(f"{of.name}.run.json")


class Run:
    """A run under way: keeps its record on disk up to date, and adds up what it costs.

    Inside its `with` block the record says "running"; when the block ends it says how that went. `results`
    and `outputs` are filled by the run. The cost of earlier sittings is kept, unless an earlier run is not
    continued (`goes_on`). Without a path nothing is written: every process of a run but the first, and a
    notebook that gives no folder.

    Args:
        path: file of the record, see `record_path`.
        inputs: for each use a file, whose content is read, or a SHA-256 that is known.
        threads: CPU threads of each process.
        processes: processes that work alike: the CPU time of this one counts so many times.
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
        self.path, self.state = path, "running"
        self.results: dict[str, Any] = {}
        self.outputs: dict[str, str] = {}
        files = (inputs or {}) if path else {}
        self.record = Record(
            kind,
            settings={key: value for key, value in settings.items() if value is not None and value != ()},
            inputs={use: _digest(of) for use, of in files.items()},
            device={**(device or {}), "threads": threads, "cores": os.cpu_count()},
            versions=versions(),
            sittings=_record(path, lambda text: None).sittings if path and goes_on else (),
        )
        self._sitting = {"started_unix_s": round(time.time(), 3), "threads": threads}
        self._sitting |= {"processes": processes, "gpus": gpus}
        self._began = self._written = time.perf_counter()
        self._cpu_began = _cpu_seconds()

    @classmethod
    @contextmanager
    def folder(cls, folder: Path | None, kind: str, *, advice: str, **more: Any) -> Iterator["Run"]:
        """Lock a run folder and keep its record inside the block; without a folder nothing is written.

        The folder is made if it is missing; `more` are further arguments of `Run`. Raises HatError, which
        ends in `advice`, if another process writes into the folder, or if it cannot be written.
        """
        path = record_path(folder, folder=True) if folder else None
        with FolderLock(folder, advice) if folder else nullcontext(), cls(path, kind, **more) as run:
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
        self._sitting["wall_s"] = round(self._written - self._began, 3)
        self._sitting["cpu_s"] = round(own_s * self._sitting["processes"] + children_s, 3)
        content = asdict(self.record) | {"state": self.state, "identity": self.record.identity}
        content |= {"results": self.results, "outputs": self.outputs}
        content["cost"] = {"sittings": [*content.pop("sittings"), self._sitting]}
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


def read_record(of: Path, *, folder: bool | None = None, note: Note | None = None) -> Record:
    """Return the record of a run folder or of a file; one without content if there is none.

    Records of HAT 0.1 (`config.yml`, `version.json`, `cost.json`, for a file with its name in front) are read
    as format 0. What is damaged is left out, and `note` is told; without `note` that is a DataError.
    """
    path = record_path(of, folder=folder)
    if path.exists():
        return _record(path, note)
    front = f"{of}/" if path.parent == of else f"{of.with_suffix('')}."
    nothing, unknown = dict[str, Any](), Record("").sittings
    settings = _read(Path(f"{front}config.yml"), lambda text: dict(yaml.safe_load(text)), note, nothing)
    facts = _read(Path(f"{front}version.json"), lambda text: dict(json.loads(text)), note, nothing)
    sittings = _read(Path(f"{front}cost.json"), lambda text: _sittings(json.loads(text)), note, unknown)
    device: dict[str, Any] = {key: facts[key] for key in ("device", "threads", "cores") if key in facts}
    facts = {key: str(value) for key, value in facts.items() if key not in device}
    return Record("", settings, {}, device, facts, sittings=sittings, format=0)


def _record(path: Path, note: Note | None) -> Record:
    def parse(text: str) -> Record:
        content = json.loads(text)
        held, kind, state = (content.get(name) for name in ("format", "kind", "state"))
        if type(held) is not int or not 1 <= held <= FORMAT:
            raise ValueError(f"format {held}, this version reads up to {FORMAT}")
        sittings = _sittings(content.get("cost", {}))
        parts = {name: dict(content.get(name, {})) for name in _PARTS}
        return Record(str(kind), **parts, sittings=sittings, state=str(state), format=held)

    return _read(path, parse, note, Record(""))


def _sittings(cost: Mapping[str, Any]) -> tuple[Mapping[str, float], ...]:
    found = tuple({part: each.get(part, 0) for part in _SITTING} for each in cost.get("sittings", []))
    if not all(0 <= number < inf for each in found for number in each.values()):
        raise ValueError("a cost that is no number")
    return found


def _read(path: Path, parse: Callable[[str], T], note: Note | None, otherwise: T) -> T:
    """Return what a file holds, or `otherwise` if it is missing, or damaged and noted."""
    try:
        return parse(path.read_text("utf-8"))
    except FileNotFoundError:
        return otherwise
    except _DAMAGED as error:
        if note is None:
            why = f"is damaged ({brief(error)}); restore it from a copy or run again"
            raise DataError(f"{path} {why}") from error
        note(f"{path} is left out: it is damaged ({brief(error)})")
        return otherwise


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
