"""The part of a download received so far: it survives a kill, and one process at a time adds to it."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from io import FileIO
from pathlib import Path
from types import TracebackType

from hat.errors import HatError
from hat.files.atomic import sync_directory, write_text_atomic

SAVE_EVERY_S = 2.0
_BLOCK = 1 << 20


class Partial:
    """Open `<name>.part` for writing; what was received from `url` before is kept if it proves intact.

    `<name>.part.json` says which version of the file it is and how much of it is surely on disk, with its
    SHA-256. Raises HatError where another process downloads the same file or the disk refuses.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.target, self.url = path, url
        self.path = path.with_name(path.name + ".part")
        self.state_path = path.with_name(path.name + ".part.json")
        self.validator = ""  # of the version being received
        self.total: int | None = None
        self.resumed = False  # whether bytes of two answers are joined
        self._saved_at = time.monotonic()
        try:
            self._made = [folder for folder in path.parents if not folder.exists()]  # the innermost first
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._lock()
            self._load()
        except OSError as error:
            raise self._refused(error) from error

    @property
    def have(self) -> int:
        """Return how many bytes from the start of the file were received."""
        return self._have

    @property
    def is_kept(self) -> bool:
        """Return whether the next attempt, or the next run, can go on behind what was received.

        Where the server names no version, its size and the bytes that are asked for twice must agree.
        """
        return self._have > 0 and (bool(self.validator) or self.total is not None)

    @property
    def sha256(self) -> str:
        """Return the digest of the bytes received."""
        return self._hash.hexdigest()

    def restart(self, validator: str = "", total: int | None = None) -> None:
        """Forget what was received; the next bytes are the first of the version `validator` names."""
        self.validator, self.total, self.resumed = validator, total, False
        self._have, self._hash = 0, hashlib.sha256()
        try:
            self._file.seek(0)
            self._file.truncate()
        except OSError as error:
            raise self._refused(error) from error

    def need_room(self) -> None:
        """Raise HatError where the disk has no room for the rest; what was received stays."""
        free = shutil.disk_usage(self.path.parent).free
        left = (self.total or 0) - self.have
        if left > free:
            raise HatError(
                f"cannot write {self.target}: {left} more bytes are needed, the disk has {free}; free disk "
                "space or choose another folder, then run the same command again"
            )

    def put(self, at: int, block: bytes) -> bool:
        """Write the block that begins at byte `at`; return False where bytes received before are others."""
        try:
            if at < self._have:
                self._file.seek(at)
                known = self._file.read(min(len(block), self._have - at))
                if known != block[: len(known)]:
                    return False
                block = block[len(known) :]
            self._file.seek(self._have)
            view = memoryview(block)
            while view:
                written = self._file.write(view)
                self._hash.update(view[:written])
                self._have += written
                view = view[written:]
            if time.monotonic() - self._saved_at > SAVE_EVERY_S:
                self.save()
        except OSError as error:  # a full disk harms all that runs, so the part is given up
            self.discard()
            raise self._refused(error) from error
        return True

    def save(self) -> None:
        """Make what was received durable."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self.discard()
            raise self._refused(error) from error
        state = {
            "url": self.url,
            "validator": self.validator,
            "total": self.total,
            "bytes": self._have,
            "sha256": self.sha256,
        }
        if self.is_kept:
            write_text_atomic(self.state_path, json.dumps(state) + "\n")
        self._saved_at = time.monotonic()

    def finish(self) -> None:
        """Give the received file its final name."""
        try:
            os.replace(self.path, self.target)
            self.state_path.unlink(missing_ok=True)
            sync_directory(self.target.parent)
        except OSError as error:
            raise self._refused(error) from error

    def discard(self) -> None:
        """Remove what was received."""
        self._have, self._hash, self.validator, self.total = 0, hashlib.sha256(), "", None
        self.path.unlink(missing_ok=True)
        self.state_path.unlink(missing_ok=True)

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_mine() and not self.is_kept:
            self.discard()
        self._file.close()
        with contextlib.suppress(OSError):  # a folder that holds something stays
            for folder in self._made:
                folder.rmdir()

    def _lock(self) -> FileIO:
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            file = os.fdopen(fd, "r+b", buffering=0)  # nothing is left to write after an error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                raise HatError(
                    f"{self.target} is being downloaded by another process; wait for it or stop it"
                ) from error
            self._file = file
            if self._is_mine():
                return file
            file.close()  # the other process finished between our opening and locking

    def _is_mine(self) -> bool:
        """Return whether the open file still has its name; it may have got its final one."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _load(self) -> None:
        """Take over what an earlier run saved, as far as its digest proves it."""
        self._have, self._hash = 0, hashlib.sha256()
        try:
            state = json.loads(self.state_path.read_text("utf-8"))
            url, validator, total = state["url"], state["validator"], state["total"]
            size, digest = state["bytes"], state["sha256"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            url = validator = total = size = digest = None
        if url == self.url and type(validator) is str and type(size) is int:
            left = size
            while left > 0 and (block := self._file.read(min(left, _BLOCK))):
                self._hash.update(block)
                left -= len(block)
            fits = bool(validator) if total is None else type(total) is int and size <= total
            if left == 0 and fits and self.sha256 == digest:
                self.validator, self.total, self._have = validator, total, size
                self._file.truncate(size)
                return
        self.restart()
        self.state_path.unlink(missing_ok=True)

    def _refused(self, error: OSError) -> HatError:
        return HatError(
            f"cannot write {self.target}: {error.strerror or error}; the previous file, if any, is intact; "
            "free disk space or choose another folder"
        )
