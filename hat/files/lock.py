"""One process at a time on a file or a folder. A lock is gone the moment its owner dies."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLock, Timeout

from hat.errors import HatError
from hat.files.atomic import disk_errors, new_folders, refuse_folder, remove_unfinished

_HELD = set[int]()  # open locks of this process
NO_FLOCK = frozenset(  # EBADF: NFS locks only what is open for writing, so no folder
    (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK, errno.EBADF)
)


class Lock(AbstractContextManager["Lock"]):
    """Holds the open file or folder `fd`, which lies at `path`, for this process until `close`.

    On file systems without flock (Lustre, some shares) the file `<path>.lock` names host and process of the
    owner; the lock of a process that died is taken over. Raises HatError at once if another process has the
    lock; `advice` then says what to do. `fd` is closed by `close`, and if the lock is refused.
    """

    def __init__(self, fd: int, path: Path, advice: str) -> None:
        self.fd = fd
        self._soft = SoftFileLock(path.parent / f"{path.name}.lock", thread_local=False)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in NO_FLOCK:
                    raise
                self._soft.acquire(blocking=False)
        except OSError as error:
            os.close(fd)
            if not isinstance(error, BlockingIOError | Timeout):
                reason = f"cannot lock {path}: {error.strerror}; choose another folder"
                raise HatError(reason) from error
            who = f", says {self._soft.lock_file}" if isinstance(error, Timeout) else ""
            raise HatError(f"{path} is being written by another process{who}; {advice}") from error
        _HELD.add(fd)

    def close(self) -> None:
        """Give the lock up."""
        _HELD.discard(self.fd)
        self._soft.release()
        os.close(self.fd)

    def __exit__(self, *error: object) -> None:
        self.close()


def held_locks() -> tuple[int, ...]:
    """Return the open locks of this process, so that a process started by it can share them."""
    return tuple(_HELD)


@contextmanager
def file_lock(path: Path, advice: str) -> Iterator[None]:
    """Keep a file for the process that writes it; HatError if it cannot be written or another has it."""
    refuse_folder(path)
    beside = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        with disk_errors(path):
            stack.enter_context(new_folders(path.parent))
            fd = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        stack.enter_context(Lock(fd, path, advice))
        stack.callback(beside.unlink, missing_ok=True)
        yield


class FolderLock(AbstractContextManager["FolderLock"]):
    """Keeps a folder for one process; the empty file `run.lock` stays, a lock without its process does not.

    What writers killed before left unfinished is removed. If the block fails before anything else was
    written, what was made for the lock, file and folder, is removed. Raises HatError if another process has
    the folder, or if nothing can be written into it.
    """

    def __init__(self, folder: Path, advice: str) -> None:
        self._path = path = folder / "run.lock"
        self._before = set(os.listdir(folder)) if folder.is_dir() else None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise HatError(f"cannot write {path}: {error.strerror}; choose another folder") from error
        self._lock = Lock(fd, folder, advice)
        remove_unfinished(folder)

    def __exit__(self, kind: type | None, value: object, trace: object) -> None:
        before, name = self._before or set(), self._path.name
        if value is not None and name not in before:
            with suppress(OSError):
                if set(os.listdir(self._path.parent)) == {*before, name}:
                    self._path.unlink()
                    if self._before is None:
                        self._path.parent.rmdir()
        self._lock.close()
