"""The latency table: one CSV row per measured architecture, appended whole; a killed collection goes on."""

import csv
import io
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hat.errors import BOM, DataError, HatError, brief, foreign
from hat.files.atomic import digest_matches, digest_path
from hat.files.journal import Appended
from hat.log import info
from hat.space import FEATURE_NAMES, Arch, features

LATENCY_NAMES = ("latency_mean_encoder", "latency_mean_decoder", "latency_std_encoder", "latency_std_decoder")
RELEASE_COLUMNS = (*FEATURE_NAMES, *LATENCY_NAMES)
ARCH_COLUMN, CHECK_COLUMN = "arch", "crc32"  # of our own tables, the latter last
_OTHER = "give another --lat-dataset-path"


@dataclass(frozen=True)
class Row:
    """One measurement in ms; `arch` is None in tables of 2020. DataError if infinite or negative."""

    features: tuple[float, ...]  # in the order of FEATURE_NAMES
    latency_mean_encoder: float
    latency_mean_decoder: float
    latency_std_encoder: float
    latency_std_decoder: float
    arch: Arch | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)  # how it was measured: device, threads, ...

    def __post_init__(self) -> None:
        for name, value in zip(RELEASE_COLUMNS, self.numbers, strict=True):
            if not math.isfinite(value) or (name in LATENCY_NAMES and value < 0):
                raise DataError(f"{name} is {value!r}; allowed are finite numbers, latencies not negative")
        if not 0 < self.total_ms < math.inf:
            raise DataError(f"the mean latencies add up to {self.total_ms} ms; nothing was measured")

    @property
    def numbers(self) -> tuple[float, ...]:
        """Return features and latencies in the order of RELEASE_COLUMNS."""
        return (*self.features, *(getattr(self, name) for name in LATENCY_NAMES))

    @property
    def total_ms(self) -> float:
        """Return what the predictor learns: mean encoder plus mean decoder latency."""
        return self.latency_mean_encoder + self.latency_mean_decoder


class LatencyTable(list[Row]):
    """Rows of one latency table, and what a collection added to it."""

    path: Path | None = None  # None if the rows are kept in memory only
    new_rows: int = 0  # rows that were measured now
    interval_percent: float = 0.0  # median of the rows: how far the truth may lie
    seconds: float = 0.0  # time they took
    drift_percent: float = 0.0  # how much slower the machine was at the last row than at the first


def row_of(
    arch: Arch, encoder: tuple[float, float], decoder: tuple[float, float], conditions: Mapping[str, object]
) -> Row:
    """Return the row of one architecture; `encoder` and `decoder` are (mean, standard deviation) in ms."""
    texts = {name: " ".join(str(value).split()) for name, value in conditions.items()}
    return Row(tuple(features(arch)), encoder[0], decoder[0], encoder[1], decoder[1], arch, texts)


def find_table(path: str | Path) -> Path:
    """Return `path`, or the name without `_all`, saying so, if only that exists; DataError for neither."""
    path = Path(path)
    own = path.with_name(path.stem.removesuffix("_all") + path.suffix)
    if path.exists():
        return path
    if not own.exists():
        tried = f"{path} does not exist" if own == path else f"neither {path} nor {own} exists"
        advice = "check --lat-dataset-path, or measure one with latency_dataset.py"
        raise DataError(f"no latency table: {tried}; {advice}")
    info(f"{path} does not exist; reading {own} instead")
    return own


def read_table(path: str | Path) -> list[Row]:
    """Return the rows of a table of 2020 (14 columns) or of ours; DataError names file and line of damage."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check --lat-dataset-path") from error
    if found := foreign(path, content[:4096]):
        raise DataError(f"{path}: the file {found}")
    if not content.endswith(b"\n"):
        what = f"{path}:{content.count(10) + 1}: the file is empty or its last line does not end"
        raise DataError(f"{what}; resume measuring with latency_dataset.py, or restore it from a copy")
    if digest_matches(path, content) is False:
        what = f"{path} is damaged: its SHA-256 differs from {digest_path(path).name}"
        raise DataError(f"{what}; fetch it again with download_model.py, or restore it from a copy")
    return _parse(content.removeprefix(BOM), path)


class TableWriter(Appended[Row]):
    """Appends rows to a table of our own; `records` holds all, those found on opening included. The first row
    fixes the columns. Without a path the rows stay in memory. Raises DataError if the file holds other
    columns or a damaged row, HatError if another process writes it.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._head = b""
        super().__init__(Path(path) if path is not None else None, self._recover, _OTHER)

    def _recover(self, content: bytes) -> list[Row]:
        start = ",".join((*RELEASE_COLUMNS, ARCH_COLUMN)).encode()
        if content[: len(start)] != start[: len(content)]:
            what = f"{self.path} is no latency table of our own (it starts with {content[:40]!r})"
            raise DataError(f"{what} and stays as it is; {_OTHER}")
        whole = content[: content.rfind(b"\n") + 1]
        self._head = whole.partition(b"\n")[0]
        return _parse(whole, self.path) if whole else []

    def append(self, row: Row) -> None:
        """Write one row; once this returns it is on disk, and a failed write leaves no part of it behind."""
        assert row.arch, "a row without architecture belongs to a release table"
        head = ",".join((*RELEASE_COLUMNS, ARCH_COLUMN, *row.conditions, CHECK_COLUMN)).encode()
        if self._head not in (b"", head):
            what = f"{self.path} holds other columns than {head.decode()}"
            raise DataError(f"{what}; rows measured in different ways must not mix: {_OTHER}")
        arch, text = json.dumps(row.arch.to_yaml(), separators=(",", ":")), io.StringIO()
        numbers = [repr(float(value)) for value in row.numbers]
        csv.writer(text, lineterminator="").writerow([*numbers, arch, *row.conditions.values()])
        line = text.getvalue().encode()
        begin = b"" if self._head else head + b"\n"
        self._append_line(begin + line + b"," + _checksum(head, line) + b"\n")
        self._head = head
        self.records.append(row)


def _checksum(head: bytes, line: bytes) -> bytes:
    return b"crc32=%08x" % zlib.crc32(line, zlib.crc32(head))  # the last cell: of column names and row


def _parse(content: bytes, path: Path) -> list[Row]:
    # a line is a row: damage shifts no other
    head, *lines = content.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
    columns, count = head.decode("utf-8", "replace").split(","), len(RELEASE_COLUMNS)
    own = columns[count : count + 1] == [ARCH_COLUMN] and columns.pop() == CHECK_COLUMN
    if tuple(columns[:count]) != RELEASE_COLUMNS or not (own or len(columns) == count):
        names = f"{','.join(RELEASE_COLUMNS)}, and in our own also {ARCH_COLUMN} to {CHECK_COLUMN}"
        raise DataError(f"{path}:1: not the column names of a latency table, {names}; got {brief(columns)}")
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            if own:
                line, _, check = line.rpartition(b",")
                if check != _checksum(head, line):
                    raise DataError("damaged, its checksum does not fit it and the column names")
            cells = next(csv.reader([line.decode()], strict=True), [])
            if len(cells) != len(columns):
                raise DataError(f"{len(cells)} cells, but the header has {len(columns)}")
            *held, encoder, decoder, encoder_std, decoder_std = map(float, cells[:count])
            arch = Arch.from_yaml(dict(json.loads(cells[count]))) if own else None
            conditions = dict(zip(columns[count + 1 :], cells[count + 1 :], strict=True))
            rows.append(Row(tuple(held), encoder, decoder, encoder_std, decoder_std, arch, conditions))
        except (HatError, csv.Error, TypeError, ValueError) as error:
            advice = "restore the table from a copy, or remove the line"
            raise DataError(f"{path}:{number}: no row of a latency table: {error}; {advice}") from error
    return rows
