"""An append-only record file: each acknowledged record survives a kill, one writer at a time."""

import contextlib
import errno
import json
import os
import zlib
from pathlib import Path
from typing import Any, cast

from hat.errors import DataError, HatError
from hat.files.atomic import sync_directory
from hat.files.lock import Lock
from hat.log import say


class Journal:
    """JSON lines with a checksum each; opened by one process, which holds a lock until it ends.

    Raises DataError if a record in the middle is damaged (the file and the line are named) and HatError if
    another process writes the same journal. An unfinished last line, left by a kill, is dropped on opening.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise HatError(f"cannot open {path}: {error.strerror}; choose another folder") from error
        self._lock = Lock(fd, path, "wait for it or stop it")
        try:
            self.records, whole = _read(path)
            if whole < os.fstat(fd).st_size:  # only now: a damaged journal stays as it is
                say(f"{path}: the unfinished last record is dropped, {len(self.records)} records are kept")
                os.ftruncate(fd, whole)
                os.fsync(fd)
            sync_directory(path.parent)
        except BaseException as error:
            self.close()  # a refused journal stays free for others
            if isinstance(error, OSError):
                raise HatError(f"cannot read {path}: {error.strerror}; check the disk") from error
            raise

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; once this returns it is on disk. A failed write leaves no part of it behind."""
        line = json.dumps({"crc32": _checksum(record), "record": record}, ensure_ascii=False)
        append_whole(self._lock.fd, line.encode("utf-8") + b"\n", self.path)
        self.records.append(record)

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def append_whole(fd: int, line: bytes, path: Path) -> None:
    """Append `line` to an open file and wait for the disk; raises HatError and takes it back otherwise."""
    size = os.fstat(fd).st_size
    try:
        if os.write(fd, line) != len(line):
            raise OSError(errno.ENOSPC, "the disk took only a part of the record")
        os.fsync(fd)
    except BaseException as error:
        with contextlib.suppress(OSError):  # else the part is an unfinished line, dropped on opening
            os.ftruncate(fd, size)
        if not isinstance(error, OSError):
            raise
        raise HatError(
            f"cannot write {path}: {error.strerror}; free disk space and run again; what was written before "
            "is kept"
        ) from error


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the records of a journal without opening it for writing; an unfinished last line is left out.

    Raises DataError if it is missing or damaged.
    """
    try:
        return _read(path)[0]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the records in a file, and how many bytes they have."""
    content, records = path.read_bytes(), []
    *lines, unfinished = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if _checksum(entry["record"]) != entry["crc32"]:
                raise ValueError
            records.append(cast("dict[str, Any]", entry["record"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path}:{number}: damaged record; restore the file, or move it away to start anew"
            ) from error
    return records, len(content) - len(unfinished)


def _checksum(record: Any) -> int:
    body = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return zlib.crc32(body.encode())
