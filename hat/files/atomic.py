"""Files written whole or not at all, also across a power cut; digests beside them; locks."""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import SoftFileLock, Timeout

from hat.errors import HatError

UNFINISHED = ".unfinished"
NO_FLOCK = frozenset(  # EBADF: NFS locks only what is open for writing, so no folder
    (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK, errno.EBADF)
)
_HELD = set[int]()  # open locks of this process


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove what killed writers left in `folder`, or of its file `name` only; nobody may be writing them."""
    for path in folder.glob(f".{name}*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def sync_directory(folder: Path) -> None:
    """Make a rename inside `folder` durable, on file systems that can synchronise folders."""
    try:
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):  # not: an unknown call
            raise


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` another name of the file `source`; a copy if the file system has no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)


@contextmanager
def new_folders(folder: Path) -> Iterator[None]:
    """Make `folder` and those above it; if the block fails, remove those of them that are still empty."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # a folder that holds something stays
            for each in made:
                each.rmdir()
        raise


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Make HatErrors of what the disk refuses (full, no permission) while the block writes `path`."""
    try:
        yield
    except OSError as error:
        found = f"cannot write {path}: {error.strerror or error}; what was there before is intact"
        raise HatError(f"{found}; free disk space or choose another folder") from error


def write_atomic(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Create or replace `path` with what `fill` writes; on a crash or full disk it stays as it was."""
    unfinished = path.parent / f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}"
    with disk_errors(path), new_folders(path.parent):
        try:
            with open(unfinished, "xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            sync_directory(path.parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise


def write_text_atomic(path: Path, text: str) -> None:
    """Create or replace a UTF-8 text file, whole or not at all."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8")))


def write_all_atomic(paths: Sequence[Path], fill: Callable[[list[BinaryIO]], object]) -> None:
    """Create or replace `paths` with what `fill` writes into their open files, none before all are whole."""

    def opened(files: list[BinaryIO]) -> None:
        if len(files) == len(paths):
            fill(files)
        else:
            write_atomic(paths[len(files)], lambda file: opened([*files, file]))

    opened([])


def refuse_folder(path: Path) -> None:
    """Raise HatError if `path`, which is to be written, is a folder."""
    if os.path.isdir(path):  # also if the name is too long to ask for
        raise HatError(f"cannot write {path}: it is a folder; give the name of a file")


def check_writable(path: Path) -> Path:
    """Return the nearest folder that is there; HatError if the file `path` cannot be written below it.
    Nothing is made: this is asked before long work is spent on the content.
    """
    refuse_folder(path)
    with disk_errors(path):
        there = next(folder for folder in path.absolute().parents if folder.exists())
        tempfile.TemporaryFile(dir=there).close()
    return there


def digest_path(path: Path) -> Path:
    """Return where the SHA-256 of `path` is kept."""
    return path.with_name(path.name + ".sha256")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; memory stays flat."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_with_digest(path: Path, content: bytes) -> None:
    """Write `content` atomically with its SHA-256 beside it."""
    refuse_folder(path)
    with recording(path, hashlib.sha256(content).hexdigest()):
        write_atomic(path, lambda file: file.write(content))


@contextmanager
def recording(path: Path, digest: str) -> Iterator[None]:
    """Record `digest` beside `path`; the block puts the content with that SHA-256 at `path`. Until it has,
    the digests before are listed, too: whichever content a crash leaves at `path` is valid.
    """

    def record(digests: Iterable[str]) -> None:
        write_text_atomic(digest_path(path), "".join(f"{each}  {path.name}\n" for each in digests))

    before = recorded_digests(path)
    if not digest_path(path).exists():
        with suppress(OSError):
            before = [file_digest(path)]
    record(dict.fromkeys([digest, *before]))
    yield
    record([digest])


def digest_matches(path: Path, content: bytes) -> bool | None:
    """Return whether `content` of `path` has the recorded SHA-256, or None if no digest file exists."""
    is_known = hashlib.sha256(content).hexdigest() in recorded_digests(path)
    return is_known if digest_path(path).exists() else None


def recorded_digests(path: Path) -> list[str]:
    """Return the SHA-256 values that the digest file of `path` lists, the newest first."""
    try:
        return [line.split()[0] for line in digest_path(path).read_text("ascii").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []


class Lock(ExitStack):
    """Holds the open file or folder `fd`, at `path`, for this process until `close`, which closes it. On file
    systems without flock (Lustre, some shares) the file `<path>.lock` names host and process of the owner;
    the lock of a dead process is taken over. Raises HatError, with `advice`, if another process has the lock.
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
                raise HatError(f"cannot lock {path}: {error.strerror}; choose another folder") from error
            who = f", says {soft.lock_file}" if isinstance(error, Timeout) else ""
            raise HatError(f"{path} is being written by another process{who}; {advice}") from error
        _HELD.add(fd)
        self.callback(_HELD.discard, fd)


def held_locks() -> tuple[int, ...]:
    """Return the open locks of this process, so that a process started by it can share them."""
    return tuple(_HELD)


def _lock_beside(stack: ExitStack, beside: Path, path: Path, advice: str) -> None:
    with disk_errors(path):
        stack.enter_context(new_folders(beside.parent))
        fd = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
    stack.enter_context(Lock(fd, path, advice))


@contextmanager
def file_lock(path: Path, advice: str) -> Iterator[None]:
    """Keep a file for the process that writes it; HatError if it cannot be written or another has it."""
    refuse_folder(path)
    beside = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        _lock_beside(stack, beside, path, advice)
        stack.callback(beside.unlink, missing_ok=True)
        yield


class FolderLock(ExitStack):
    """Keeps a folder for one process by the file `run.lock`, or raises HatError. What killed writers left
    there is removed; so is what was made for the lock if the block fails before anything else was written.
    """

    def __init__(self, folder: Path, advice: str) -> None:
        super().__init__()
        path = folder / "run.lock"
        is_new = not path.exists()
        _lock_beside(self, path, folder, advice)
        remove_unfinished(folder)
        before = set(os.listdir(folder))

        def remove(kind: type | None, value: object, trace: object) -> None:
            with suppress(OSError):
                if value is not None and is_new and set(os.listdir(folder)) == before:
                    path.unlink()

        self.push(remove)
