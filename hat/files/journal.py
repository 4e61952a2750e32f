"""An append-only record file: each acknowledged record survives a kill, one writer at a time."""

import contextlib
import errno
import json
import os
import zlib
from pathlib import Path
from types import TracebackType
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
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise HatError(f"cannot open {path}: {error.strerror}; choose another folder") from error
        self._lock = Lock(fd, path, "wait for it or stop it")
        try:
            self.records = self._recover()
        except BaseException:
            self.close()  # a refused journal stays free for others
            raise

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; once this returns it is on disk. A failed write leaves no part of it behind."""
        body = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        line = json.dumps({"crc32": zlib.crc32(body.encode()), "record": record}, ensure_ascii=False)
        append_whole(self._lock.fd, line.encode("utf-8") + b"\n", self.path)
        self.records.append(record)

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _recover(self) -> list[dict[str, Any]]:
        try:
            content = self.path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            records = [_record(line, self.path, n) for n, line in enumerate(whole.split(b"\n")[:-1], 1)]
            if len(whole) < len(content):  # only now: a damaged journal stays as it is
                say(f"{self.path}: the unfinished last record is dropped, {len(records)} records are kept")
                os.ftruncate(self._lock.fd, len(whole))
                os.fsync(self._lock.fd)
            sync_directory(self.path.parent)
        except OSError as error:
            raise HatError(f"cannot read {self.path}: {error.strerror}; check the disk") from error
        return records


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
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
    return [_record(line, path, n) for n, line in enumerate(content.split(b"\n")[:-1], 1)]


def _record(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        body = json.dumps(entry["record"], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        if zlib.crc32(body.encode()) == entry["crc32"]:
            return cast("dict[str, Any]", entry["record"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(
        f"{path}:{number}: damaged record; move the file away to start anew, or restore it from a copy"
    )
