"""The latency table: one CSV row per measured architecture, appended whole; a killed collection goes on."""

import csv
import io
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from hat.errors import ArchError, DataError
from hat.files.atomic import digest_matches, digest_path, sync_directory
from hat.files.journal import append_whole
from hat.files.lock import Lock
from hat.log import say
from hat.space import FEATURE_NAMES, Arch, features

LATENCY_NAMES = ("latency_mean_encoder", "latency_mean_decoder", "latency_std_encoder", "latency_std_decoder")
RELEASE_COLUMNS = (*FEATURE_NAMES, *LATENCY_NAMES)
ARCH_COLUMN = "arch"
CHECK_COLUMN = "crc32"  # the last of our own tables
_CHECK = re.compile(rb"(.*),(crc32=[0-9a-f]{8})", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """One measurement. Latencies are milliseconds; `arch` is None in tables of the 2020 release.

    Raises DataError if a number is not finite, a latency is negative, or `arch` has other features.
    """

    features: tuple[float, ...]  # in the order of FEATURE_NAMES
    latency_mean_encoder: float
    latency_mean_decoder: float
    latency_std_encoder: float
    latency_std_decoder: float
    arch: Arch | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)  # how it was measured: device, threads, ...

    def __post_init__(self) -> None:
        if len(self.features) != len(FEATURE_NAMES):
            raise DataError(f"a row has {len(FEATURE_NAMES)} features, got {len(self.features)}")
        for name, value in zip(RELEASE_COLUMNS, (*self.features, *self.latencies), strict=True):
            if not math.isfinite(value) or (name in LATENCY_NAMES and value < 0):
                raise DataError(f"{name} is {value!r}; allowed are finite numbers, latencies not negative")
        if not 0 < self.total_ms < math.inf:
            raise DataError(f"the mean latencies add up to {self.total_ms} ms; nothing was measured")
        if self.arch is not None:
            for name, held, own in zip(FEATURE_NAMES, self.features, features(self.arch), strict=True):
                if not math.isclose(held, own, rel_tol=1e-6):
                    raise DataError(f"{name} is {held!r}, but the architecture of the row has {own!r}")

    @property
    def latencies(self) -> tuple[float, ...]:
        """Return the four latency columns in the order of LATENCY_NAMES."""
        return tuple(getattr(self, name) for name in LATENCY_NAMES)

    @property
    def total_ms(self) -> float:
        """Return what the predictor learns: mean encoder plus mean decoder latency."""
        return self.latency_mean_encoder + self.latency_mean_decoder


class LatencyTable(list[Row]):
    """Rows of one latency table, and what a collection added to it.

    Attributes:
        path: the file; None if the rows are kept in memory only.
        new_rows: rows that were measured now.
        unstable: those of them whose median did not settle.
        seconds: time they took.
        drift_percent: how much slower the machine was at the last row than before the first.
    """

    path: Path | None = None
    new_rows: int = 0
    unstable: int = 0
    seconds: float = 0.0
    drift_percent: float = 0.0


def row_of(
    arch: Arch, encoder: tuple[float, float], decoder: tuple[float, float], conditions: Mapping[str, object]
) -> Row:
    """Return the row of one architecture; `encoder` and `decoder` are (mean, standard deviation) in ms."""
    texts = {name: " ".join(str(value).split()) for name, value in conditions.items()}
    return Row(tuple(features(arch)), encoder[0], decoder[0], encoder[1], decoder[1], arch, texts)


def find_table(path: str | Path, say: Callable[[str], object]) -> Path:
    """Return `path`, or the same name without `_all` if only that exists, saying so.

    The release ships tables as `<name>_all.csv`, its measuring script writes `<name>.csv`. Raises DataError
    if neither exists.
    """
    path = Path(path)
    if path.exists():
        return path
    own = path.with_name(path.stem.removesuffix("_all") + path.suffix)
    if own != path and own.exists():
        say(f"{path} does not exist; reading {own} instead")
        return own
    tried = f"{path} does not exist" if own == path else f"neither {path} nor {own} exists"
    raise DataError(
        f"no latency table: {tried}; check --lat-dataset-path, or measure one with latency_dataset.py"
    )


def read_table(path: str | Path) -> list[Row]:
    """Return the rows of a table of the release (14 columns) or of our own (with `arch` and conditions).

    Raises DataError, naming file and line, if the file is unreadable, cut off or a row is damaged.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read the latency table {path}: {error.strerror}; check --lat-dataset-path"
        ) from error
    if not content:
        raise DataError(f"{path} is empty; a latency table starts with its column names")
    if not content.endswith(b"\n"):
        raise DataError(
            f"{path}:{len(content.splitlines())}: the last line does not end, so it may be cut off; "
            "resume measuring with latency_dataset.py, or restore the file from a copy"
        )
    columns, rows = _parse(content, path)
    if ARCH_COLUMN not in columns and digest_matches(path, content) is False:
        raise DataError(
            f"{path} is damaged: its SHA-256 differs from {digest_path(path).name}; fetch it again with "
            "download_model.py, or restore it from a copy"
        )
    return rows


class TableWriter:
    """Appends rows to a table of our own; `rows` holds all of them, those found on opening included.

    An unfinished last line, left by a kill, is dropped on opening. The first row fixes the columns. Without a
    path the rows stay in memory. Raises DataError if the file holds other columns or a damaged row, HatError
    if another process writes it.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.rows: list[Row] = []
        self._lock: Lock | None = None
        if path is None:
            return
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise DataError(
                f"cannot write the latency table {path}: {error.strerror}; check --lat-dataset-path"
            ) from error
        self._lock = Lock(fd, self.path, "wait for it, stop it, or give another --lat-dataset-path")
        try:
            sync_directory(self.path.parent)
            self._head, self._columns, self.rows = self._recover(fd)
        except BaseException:
            self._lock.close()
            raise

    def append(self, row: Row) -> None:
        """Write one row; once this returns it is on disk, and a failed write leaves no part of it behind."""
        if self._lock is None:
            self.rows.append(row)
            return
        if row.arch is None:
            raise DataError("a row without architecture belongs to a release table; measure it again")
        columns = [*RELEASE_COLUMNS, ARCH_COLUMN, *row.conditions]
        if len({*columns, CHECK_COLUMN}) <= len(columns):
            raise DataError(f"a measuring condition has the name of another column: {', '.join(columns)}")
        if self._columns and self._columns != columns:
            raise DataError(_differs(self.path, self._columns, columns))
        numbers = [repr(float(value)) for value in (*row.features, *row.latencies)]
        arch = json.dumps(row.arch.to_yaml(), separators=(",", ":"))
        head = self._head or _csv_line([*columns, CHECK_COLUMN])
        line = _csv_line([*numbers, arch, *row.conditions.values()])
        if _is_checked(head):  # tables begun before there was a checksum go on without
            line += b"," + _checksum(head, line)
        append_whole(self._lock.fd, line + b"\n" if self._head else head + b"\n" + line + b"\n", self.path)
        self._head, self._columns = head, columns
        self.rows.append(row)

    def close(self) -> None:
        """Release the lock."""
        if self._lock:
            self._lock.close()

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _recover(self, fd: int) -> tuple[bytes, list[str], list[Row]]:
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}; check the disk") from error
        whole = content[: content.rfind(b"\n") + 1]
        if whole:
            columns, rows = _parse(whole, self.path)
            if ARCH_COLUMN not in columns:
                raise DataError(_differs(self.path, columns, [*columns, ARCH_COLUMN]))
        else:
            columns, rows = [], []
            start = ",".join((*RELEASE_COLUMNS, ARCH_COLUMN)).encode()
            if content[: len(start)] != start[: len(content)]:
                raise DataError(
                    f"{self.path} is no latency table (it starts with {content[:40]!r}) and is left as it "
                    "is; give another --lat-dataset-path"
                )
        if len(whole) < len(content):  # only now: a file that is no table stays as it is
            say(f"{self.path}: the unfinished last row is dropped, {len(rows)} rows are kept")
            os.ftruncate(fd, len(whole))
            os.fsync(fd)
        return whole.split(b"\n")[0].removesuffix(b"\r"), columns, rows


def _differs(path: Path, held: Sequence[str], wanted: Sequence[str]) -> str:
    on_one_side = set(held) ^ set(wanted)
    first = next((name for name in (*held, *wanted) if name in on_one_side), "their order")
    return (
        f"{path} holds other columns than this measurement (first difference: {first}); rows measured in "
        "different ways must not mix: give another --lat-dataset-path or move the file away"
    )


def _is_checked(head: bytes) -> bool:
    return head.endswith(b"," + CHECK_COLUMN.encode())


def _checksum(head: bytes, line: bytes) -> bytes:
    """Return the last cell of a row: it vouches for the column names and for the row in front of it."""
    return b"crc32=%08x" % zlib.crc32(line, zlib.crc32(head))


def _proven(line: bytes, head: bytes, where: str) -> bytes:
    """Return a row without its checksum; raises DataError if it does not fit."""
    line = line.removesuffix(b"\r")
    found = _CHECK.fullmatch(line)
    if bool(found) != _is_checked(head) or (found and found[2] != _checksum(head, found[1])):
        raise DataError(
            f"{where}: damaged row, its checksum does not fit it and the column names; restore the table "
            "from a copy, or remove the line"
        )
    return found[1] if found else line


def _csv_line(cells: Sequence[str]) -> bytes:
    """Return one line of CSV without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    line = text.getvalue()
    if line.count("\n") != 1 or "\r" in line:
        raise DataError(f"a cell of a latency table must be one line of text, got {line!r}")
    return line[:-1].encode("utf-8")


def _parse(content: bytes, path: Path) -> tuple[list[str], list[Row]]:
    """Return column names and rows of whole lines; a line is a row, so damage cannot shift the others."""
    head, *lines = content.split(b"\n")[:-1]
    head = head.removesuffix(b"\r")
    columns = _cells(head, path, 1)
    if _is_checked(head):
        columns.pop()
    release = len(RELEASE_COLUMNS)
    own = columns[release : release + 1] == [ARCH_COLUMN] and len(set(columns)) == len(columns)
    if tuple(columns[:release]) != RELEASE_COLUMNS or not (own or len(columns) == release):
        raise DataError(
            f"{path}:1: not the column names of a latency table, which are {','.join(RELEASE_COLUMNS)} and "
            f"in our own tables {ARCH_COLUMN} and measuring conditions; got {','.join(columns)[:200]!r}"
        )
    proven = ((n, _proven(line, head, f"{path}:{n}")) for n, line in enumerate(lines, 2))
    return columns, [_row(_cells(line, path, n), columns, f"{path}:{n}") for n, line in proven]


def _cells(line: bytes, path: Path, number: int) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8").removesuffix("\r")], strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}:{number}: not a line of UTF-8 CSV text ({error}); remove the line"
        ) from error


def _row(cells: list[str], columns: list[str], where: str) -> Row:
    if len(cells) != len(columns):
        raise DataError(f"{where}: {len(cells)} cells, but the header has {len(columns)}; remove the line")
    by_name = dict(zip(columns, cells, strict=True))
    numbers = [_number(by_name.pop(name), name, where) for name in RELEASE_COLUMNS]
    split = len(FEATURE_NAMES)
    try:
        arch = _arch(by_name.pop(ARCH_COLUMN)) if ARCH_COLUMN in by_name else None
        mean_encoder, mean_decoder, std_encoder, std_decoder = numbers[split:]
        return Row(
            tuple(numbers[:split]), mean_encoder, mean_decoder, std_encoder, std_decoder, arch, by_name
        )
    except DataError as error:
        raise DataError(f"{where}: {error}; remove the line") from error


def _number(cell: str, name: str, where: str) -> float:
    try:
        if "_" in cell:  # float() reads 1_0 as 10
            raise ValueError
        return float(cell)
    except ValueError as error:
        raise DataError(f"{where}: {name} is {cell[:40]!r}, not a number; remove the line") from error


def _arch(cell: str) -> Arch:
    try:
        return Arch.from_yaml(dict(json.loads(cell)))
    except (ArchError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"the cell {ARCH_COLUMN} holds no architecture ({error})") from error
