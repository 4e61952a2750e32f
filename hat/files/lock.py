"""One process at a time on the files of a run: a lock of the system's, gone the moment its owner dies."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from hat.errors import HatError
from hat.files.atomic import remove_unfinished


def lock_or_refuse(fd: int, path: Path, advice: str) -> None:
    """Lock an open file; raises HatError at once where another process holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise HatError(f"{path} is being written by another process; {advice}") from error
    except OSError as error:
        raise HatError(
            f"cannot lock {path}: {error.strerror}; use a folder on a file system with locks"
        ) from error


class FolderLock:
    """Keeps a folder for one process; the empty file `run.lock` stays, a lock without its process does not.

    What writers killed before left unfinished is removed. A folder made for the lock goes with it where an
    error came before anything else was written there. Raises HatError where another process has the folder,
    or where nothing can be written into it.
    """

    def __init__(self, folder: Path, advice: str) -> None:
        self._path = path = folder / "run.lock"
        self._made = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise HatError(f"cannot write {path}: {error.strerror}; choose another folder") from error
        try:
            lock_or_refuse(self._fd, folder, advice)
            remove_unfinished(folder)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if value is not None and self._made and os.listdir(self._path.parent) == [self._path.name]:
            with suppress(OSError):
                self._path.unlink()
                self._path.parent.rmdir()
        os.close(self._fd)
