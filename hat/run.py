"""The record of a run: what it was made from, on what, with what result, and at what cost. A run folder holds
`run.json`; a product F that stands alone (a table, predictor, architecture, average, translation, score) has
`F.run.json` beside it. docs/records.md describes the schema.
"""

import functools
import hashlib
import json
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from itertools import chain, count
from math import fsum, inf
from pathlib import Path
from typing import Any, NamedTuple

from hat.config import defaults_of, to_yaml_values
from hat.errors import DataError, HatError, brief
from hat.files.atomic import FolderLock, disk_errors, file_digest, write_text_atomic
from hat.log import info, versions

FORMAT = 2
# Of each kind of run. Raise one if the same settings and inputs make another result, or a default changes.
VERSIONS = {"train": 1, "latency-table": 1, "predictor": 1, "search": 2, "average": 1}
VERSIONS |= {"translation": 1, "score": 1, "task": 1, "distillation": 1}
_SITTING = ("started_unix_s", "wall_s", "cpu_s", "threads", "processes", "gpus")
Note = Callable[[str], object]


class Cost(NamedTuple):
    """What a run cost, summed over every time it was started; None if no record tells."""

    wall_s: float
    cpu_s: float | None
    gpu_s: float
    threads: int | None
    gpus: int
    sittings: int


@dataclass(frozen=True)
class Identity:
    """What the result of a run depends on: runs of one identity make the same thing. Not in its digest are
    settings at their default, so that new options change none, and `lengths`: a longer run goes on.
    """

    kind: str
    settings: Mapping[str, Any]  # those that change a result (role "counts"), by their YAML keys
    inputs: Mapping[str, str] = field(default_factory=dict)  # SHA-256 by use: "train.de", "checkpoint"
    version: int = 0  # of the kind, see VERSIONS; 0: the current one
    defaults: Mapping[str, Any] = field(default_factory=dict)  # settings at their default, for `differences`
    lengths: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", self.version or VERSIONS.get(self.kind, 1))
        for name in ("settings", "defaults", "lengths"):  # as they are read back: tuples are lists
            object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name), default=str)))

    @classmethod
    def of(
        cls, kind: str, *options: Any, settings: Any = None, inputs: Mapping[str, Path | str] | None = None
    ) -> "Identity":
        """Return the identity of options and further settings (None leaves an option out), and inputs."""
        found, lengths = (to_yaml_values(*options, role=role) for role in ("counts", "lengthens"))
        usual = defaults_of(*options)
        same = {key: found.pop(key) for key in [key for key in found if found[key] == usual[key]]}
        for key, value in (settings or {}).items():
            for each in (found, same, lengths):
                each.pop(key, None)
            found |= {} if value is None else {key: value}
        digests = {use: digest_of(of) for use, of in (inputs or {}).items()}
        return cls(kind, found, digests, defaults=same, lengths=lengths)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the identity in hexadecimal."""
        text = json.dumps([self.kind, self.version, self.settings, self.inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: "Identity") -> list[str]:
        """Return what changes from this identity to another, such as `seed 1 -> 7` and `train.de content`."""
        old, new = ({**each.defaults, **each.settings} for each in (self, other))
        found = [] if self.kind == other.kind else [f"kind {self.kind} -> {other.kind}"]
        if not found and self.version != other.version:
            found.append(f"{self.kind} version {self.version} -> {other.version}")
        for key in {**old, **new}:
            both = key in old and key in new
            if old[key] != new[key] if both else key in self.settings or key in other.settings:
                found.append(_change(key, old.get(key, "not given"), new.get(key, "not given")))
        for use in {**self.inputs, **other.inputs}:
            if use not in other.inputs:
                found.append(f"{use} is no longer given")
            elif self.inputs.get(use) != other.inputs[use]:
                found.append(f"{use} content" if use in self.inputs else f"{use} is now given")
        return found


def digest_of(of: Path | str) -> str:
    """Return the SHA-256 of a file, or a bundle's weights, read once; a text is a SHA-256 already."""
    if isinstance(of, str):
        return of
    of = of / "model.safetensors" if of.is_dir() else of
    try:
        facts = of.stat()
        return _digest_of(of.absolute(), facts.st_size, facts.st_mtime_ns, facts.st_ino)
    except OSError as error:
        raise DataError(f"cannot read {of}: {error.strerror}; check the path") from error


_digest_of = functools.lru_cache(lambda path, *facts: file_digest(path))


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
    format: int = FORMAT  # version of the schema
    identity: Identity = Identity("", {})  # what the result depends on; before format 2 all settings, inputs

    @property
    def cost(self) -> Cost | None:
        """Return what the run cost; None if the record does not say."""
        if not self.sittings:
            return None
        wall_s, cpu_s = (fsum(each[part] for each in self.sittings) for part in ("wall_s", "cpu_s"))
        gpu_s, last = fsum(each["wall_s"] * each["gpus"] for each in self.sittings), self.sittings[-1]
        threads = int(last["threads"] * max(1, last["processes"])) or None
        return Cost(wall_s, cpu_s, gpu_s, threads, int(last["gpus"]), len(self.sittings))


def _change(key: str, was: object, now: object) -> str:
    old, new = brief(was, 40), brief(now, 40)
    return key if old == new else f"{key} {old} -> {new}"  # what differs is behind that


@contextmanager
def claim(
    folder: Path | None, wanted: Identity | None, advice: str, *, new_run: bool = False
) -> Iterator[Path | None]:
    """Lock a run folder, made if it is missing, for the run of one identity. HatError if another process has
    it, or if it holds another run, naming the differences; `new_run` moves that to the path yielded.
    """
    if folder is None:
        yield None
        return
    with ExitStack() as stack:
        stack.enter_context(FolderLock(folder, advice))
        held, moved = read_record(folder, folder=True, note=info), None
        if changed := held.identity.differences(wanted) if wanted and held.kind else []:
            real = folder.resolve() if folder.is_symlink() or folder.name in ("", "..") else folder
            first = real.with_name(f"{real.name}.{held.identity.digest[:8]}")
            names = chain([first], (Path(f"{first}.{number}") for number in count(2)))
            moved = next(name for name in names if not name.exists())
            shown = ", ".join(changed[:8] + ["..."] * (len(changed) > 8))
            if not new_run:
                other = f"{folder} holds another run: {shown}; give another folder, or --new-run"
                raise HatError(f"{other}, which moves the old one to {moved}")
            if Path.cwd().is_relative_to(real.resolve()):
                raise HatError(f"cannot move {real}: it is the working directory; start from another one")
            stack.close()
            with disk_errors(moved):
                real.rename(moved)
                if folder.is_symlink():
                    real.mkdir()  # the link stays one to the folder of the new run
            info(f"{folder} held another run ({shown}); it was moved to {moved}")
            stack.enter_context(FolderLock(folder, advice))
        yield moved


def record_path(of: Path, *, folder: bool | None = None) -> Path:
    """Return where the record of a folder or of a file is; `folder` says which `of` is, None looks."""
    inside = of.is_dir() if folder is None else folder
    return of / "run.json" if inside else of.with_name(f"{of.name}.run.json")


class Run:
    """A run under way: keeps its record on disk up to date, and adds up what it costs, with the cost of
    earlier sittings if the run `goes_on`. Inside its `with` block the record says "running", then how it
    ended. The run fills `results` and `outputs`. Without a path (see `record_path`) nothing is written.
    `inputs` are for each use a file, whose content is read, or a SHA-256 (default: those of `identity`);
    `identity` is what the result depends on (default: all settings and inputs). Each of `processes`, which
    work alike, has `threads`.
    """

    def __init__(
        self,
        path: Path | None,
        kind: str,
        *,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Path | str] | None = None,
        identity: Identity | None = None,
        device: Mapping[str, Any] | None = None,
        threads: int = 1,
        processes: int = 1,
        gpus: int = 0,
        goes_on: bool = True,
    ) -> None:
        self.path, self.state = path, "running"
        self.results: dict[str, Any] = {}
        self.outputs: dict[str, str] = {}
        inputs = identity.inputs if inputs is None and identity else inputs or {}
        digests = {use: digest_of(of) for use, of in inputs.items()} if path else {}
        settings = {key: value for key, value in settings.items() if value is not None and value != ()}
        held = _record(path, lambda text: None) if path and goes_on else Record("")
        device = {**(device or {}), "threads": threads}
        more: dict[str, Any] = {"versions": versions(), "sittings": held.sittings}
        more["identity"] = identity or Identity(kind, settings, digests)
        self.record = Record(kind, settings, digests, {**device, "cores": os.cpu_count()}, **more)
        now, before = {**device, "processes": processes}, dict(held.device)
        before["processes"] = int(held.sittings[-1]["processes"]) if held.sittings else processes
        pairs = [(key, before.get(key, value), value) for key, value in now.items()]
        if other := [_change(*each) for each in pairs if str(each[1]) != str(each[2])]:
            info(f"the run goes on with {', '.join(other)}")
        self._sitting = {"started_unix_s": round(time.time(), 3), "threads": threads}
        self._sitting |= {"processes": processes, "gpus": gpus}
        self._began = self._written = time.perf_counter()
        self._cpu_began = cpu_seconds()

    def tick(self) -> None:
        """Write the record, but not more often than every quarter of a minute; cheap to call."""
        if time.perf_counter() - self._written > 15:
            self.write()

    def vouch(self, *files: Path) -> None:
        """Take the content of files into the record as outputs of the run."""
        self.outputs |= {file.name: file_digest(file) for file in files if self.path}

    def write(self) -> None:
        """Write the record now."""
        self._written = time.perf_counter()
        if self.path is None:
            return
        own_s, children_s = (now - then for now, then in zip(cpu_seconds(), self._cpu_began, strict=True))
        self._sitting["wall_s"] = round(self._written - self._began, 3)
        self._sitting["cpu_s"] = round(own_s * self._sitting["processes"] + children_s, 3)
        content = asdict(self.record) | {"state": self.state}
        content["identity"] = {"digest": self.record.identity.digest, **content["identity"]}
        content |= {"results": self.results, "outputs": self.outputs}
        content["cost"] = {"sittings": [*content.pop("sittings"), self._sitting]}
        write_text_atomic(self.path, json.dumps(content, indent=1, default=str) + "\n")

    def __enter__(self) -> "Run":
        self.write()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: object) -> None:
        if kind is not None or self.state == "running":
            self.state = "done" if kind is None else "failed" if issubclass(kind, Exception) else "stopped"
        self.write()


def read_record(of: Path, *, folder: bool | None = None, note: Note | None = None) -> Record:
    """Return the record of a run folder or of a file; one without kind if there is none, or if it is damaged
    and `note` is told so; without `note` that is a DataError.
    """
    return _record(record_path(of, folder=folder), note)


def training_settings(checkpoint: Path) -> Mapping[str, Any]:
    """Return the recorded settings of the training of a checkpoint, or of those that it is the mean of."""
    used = read_record(checkpoint, folder=False, note=info).settings.get("inputs", ())
    for each in (checkpoint, *map(Path, used)):
        if "data" in (settings := read_record(each.parent, folder=True, note=info).settings):
            return settings
    return {}


def _record(path: Path, note: Note | None) -> Record:
    try:
        content = json.loads(path.read_text("utf-8"))
        held = content.get("format")
        if type(held) is not int or not 1 <= held <= FORMAT:
            raise ValueError(f"format {held}, this version reads up to {FORMAT}")
        parts = ("settings", "inputs", "device", "versions", "results", "outputs")
        of_run: dict[str, Any] = {name: dict(content.get(name, {})) for name in parts}
        sittings = [{key: each.get(key, 0) for key in _SITTING} for each in content["cost"]["sittings"]]
        if not all(0 <= number < inf for each in sittings for number in each.values()):
            raise ValueError("a cost that is no number")
        kind, state = (str(content.get(name)) for name in ("kind", "state"))
        identity = Identity(kind, of_run["settings"], of_run["inputs"])
        if held > 1:
            identity = Identity(**{each.name: content["identity"][each.name] for each in fields(Identity)})
        of_run |= {"sittings": tuple(sittings), "state": state, "format": held, "identity": identity}
        return Record(kind, **of_run)
    except FileNotFoundError:
        return Record("")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if note is None:
            why = f"is damaged ({brief(error)}); restore it from a copy or run again"
            raise DataError(f"{path} {why}") from error
        note(f"{path} is left out: it is damaged ({brief(error)})")
        return Record("")


def cpu_seconds() -> tuple[float, float]:
    """Return the CPU time in seconds of this process, and of those it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime
