"""One process at a time on a file or a folder. A lock is gone the moment its owner dies."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLock, Timeout

from hat.errors import HatError
from hat.files.atomic import disk_errors, new_folders, refuse_folder, remove_unfinished

_HELD = set[int]()  # open locks of this process
NO_FLOCK = frozenset(  # EBADF: NFS locks only what is open for writing, so no folder
    (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK, errno.EBADF)
)


class Lock(ExitStack):
    """Holds the open file or folder `fd`, which lies at `path`, for this process until `close`.

    On file systems without flock (Lustre, some shares) the file `<path>.lock` names host and process of the
    owner; the lock of a process that died is taken over. Raises HatError at once if another process has the
    lock; `advice` then says what to do. `fd` is closed by `close`, and if the lock is refused.
    """

    def __init__(self, fd: int, path: Path, advice: str) -> None:
        super().__init__()
        self.fd = fd
        self.callback(os.close, fd)
        soft = SoftFileLock(path.parent / f"{path.name}.lock", thread_local=False)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in NO_FLOCK:
                    raise
                soft.acquire(blocking=False)
                self.callback(soft.release)
        except OSError as error:
            self.close()
            if not isinstance(error, BlockingIOError | Timeout):
                reason = f"cannot lock {path}: {error.strerror}; choose another folder"
                raise HatError(reason) from error
            who = f", says {soft.lock_file}" if isinstance(error, Timeout) else ""
            raise HatError(f"{path} is being written by another process{who}; {advice}") from error
        _HELD.add(fd)
        self.callback(_HELD.discard, fd)


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


class FolderLock(ExitStack):
    """Keeps a folder for one process; the empty file `run.lock` stays, a lock without its process does not.

    What writers killed before left unfinished is removed. If the block fails before anything else was
    written, what was made for the lock, file and folder, is removed. Raises HatError if another process has
    the folder, or if nothing can be written into it.
    """

    def __init__(self, folder: Path, advice: str) -> None:
        super().__init__()
        path = folder / "run.lock"
        is_new = not path.exists()
        with disk_errors(path):
            self.enter_context(new_folders(folder))
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self.enter_context(Lock(fd, folder, advice))
        remove_unfinished(folder)
        before = set(os.listdir(folder))

        def remove(kind: type | None, value: object, trace: object) -> None:
            with suppress(OSError):
                if value is not None and is_new and set(os.listdir(folder)) == before:
                    path.unlink()

        self.push(remove)
