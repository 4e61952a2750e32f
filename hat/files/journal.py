"""Append-only files of records: each acknowledged record survives a kill, one writer at a time."""

import errno
import json
import os
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from hat.errors import DataError
from hat.files.atomic import Lock, disk_errors, sync_directory
from hat.log import info

R = TypeVar("R")


class Appended(ExitStack, Generic[R]):
    """Lines that one process appends to a file, locked until `close`; without a path, none are kept.
    `records` are those that `read` finds in it; an unfinished last line, left by a kill, is dropped. Raises
    HatError, with `advice`, if another process writes the file or the disk refuses.
    """

    def __init__(self, path: Path | None, read: Callable[[bytes], list[R]], advice: str) -> None:
        super().__init__()
        self.records: list[R] = []
        self._fd: int | None = None
        if path is None:
            return
        self.path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            self.enter_context(Lock(fd, path, f"wait for it, stop it, or {advice}"))
            self._fd = fd
            try:
                content = path.read_bytes()
                self.records, whole = read(content), content.rfind(b"\n") + 1
                if whole < len(content):
                    info(f"{path}: the unfinished last record is dropped, {len(self.records)} are kept")
                    os.ftruncate(fd, whole)
                    os.fsync(fd)
                sync_directory(path.parent)
            except BaseException:
                self.close()  # a refused file stays free for others
                raise

    def _append_line(self, line: bytes) -> None:
        if (fd := self._fd) is None:
            return
        size = os.fstat(fd).st_size
        with disk_errors(self.path):
            try:
                if os.write(fd, line) != len(line):
                    raise OSError(errno.ENOSPC, "the disk took only a part of the record")
                os.fsync(fd)
            except BaseException:
                with suppress(OSError):  # else the part is an unfinished line, dropped on opening
                    os.ftruncate(fd, size)
                raise


class Journal(Appended[dict[str, Any]]):
    """JSON lines with a checksum each. Raises DataError, naming the line, if one in the middle is damaged."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, lambda content: _parse(content, path), "choose another folder")

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; once this returns it is on disk. A failed write leaves no part of it behind."""
        line = json.dumps({"crc32": _checksum(record), "record": record}, ensure_ascii=False)
        self._append_line(f"{line}\n".encode())
        self.records.append(record)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the records of a journal that is only read; DataError if it is missing or damaged."""
    try:
        return _parse(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error


def _parse(content: bytes, path: Path) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            entry = json.loads(line)
            if _checksum(entry["record"]) != entry["crc32"]:
                raise ValueError
            records.append(entry["record"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}:{number}: damaged record; restore it, or begin a new one") from error
    return records


def _checksum(record: Any) -> int:
    body = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return zlib.crc32(body.encode())
