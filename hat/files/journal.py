"""An append-only record file: each acknowledged record survives a kill, one writer at a time."""

import fcntl
import json
import os
import zlib
from pathlib import Path
from types import TracebackType

from hat.errors import DataError, HatError


class Journal:
    """JSON lines with a checksum each; opened by one process, which holds a lock until it ends.

    Raises DataError where a record in the middle is damaged (the file and the line are named) and HatError
    where another process writes the same journal. An unfinished last line, left by a kill, is dropped on
    opening.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b")  # noqa: SIM115 - held open for the lock; closed in close()
        except OSError as error:
            raise HatError(f"cannot open {path}: {error.strerror}; choose another folder") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise HatError(f"{path} is being written by another process; wait for it or stop it") from error
        try:
            self.records = self._recover()
        except DataError:
            self._file.close()  # a refused journal stays free for others
            raise

    def append(self, record: dict) -> None:
        """Write one record; once this returns it is on disk."""
        body = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        line = json.dumps({"crc32": zlib.crc32(body.encode()), "record": record}, ensure_ascii=False)
        try:
            self._file.write(line.encode("utf-8") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise HatError(
                f"cannot write {self.path}: {error.strerror}; free disk space and run again"
            ) from error
        self.records.append(record)

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _recover(self) -> list[dict]:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        return [_record(line, self.path, n) for n, line in enumerate(whole.split(b"\n")[:-1], 1)]


def read_journal(path: Path) -> list[dict]:
    """Return the records of a journal without opening it for writing; an unfinished last line is left out.

    Raises DataError where it is missing or damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
    return [_record(line, path, n) for n, line in enumerate(content.split(b"\n")[:-1], 1)]


def _record(line: bytes, path: Path, number: int) -> dict:
    try:
        entry = json.loads(line)
        body = json.dumps(entry["record"], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        if zlib.crc32(body.encode()) == entry["crc32"]:
            return entry["record"]
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(
        f"{path}:{number}: damaged record; move the file away to start anew, or restore it from a copy"
    )
