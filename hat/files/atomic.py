"""Write a file whole or not at all, also across a power cut, and keep a digest beside it."""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from hat.errors import HatError

UNFINISHED = ".unfinished"
# What shares of Windows, virtual machines and FAT answer to calls that they do not know.
UNSUPPORTED = frozenset(
    (errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EISDIR)
)


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove what killed writers left in `folder`, or of its file `name` only; nobody may be writing them."""
    for path in folder.glob(f".{name}*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def sync_directory(folder: Path) -> None:
    """Make a rename inside `folder` durable. No effect on file systems that cannot synchronise folders."""
    try:
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` another name of the file `source`; a copy if the file system has no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)


@contextlib.contextmanager
def new_folders(folder: Path) -> Iterator[None]:
    """Make `folder` and those above it; if the block fails, remove those of them that are still empty."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # a folder that holds something stays
            for each in made:
                each.rmdir()
        raise


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Make HatErrors of what the disk refuses (full, no permission) while the block writes `path`."""
    try:
        yield
    except OSError as error:
        raise HatError(
            f"cannot write {path}: {error.strerror or error}; what was there before is intact; "
            "free disk space or choose another folder"
        ) from error


def write_atomic(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Create or replace `path` with what `fill` writes; a crash leaves the previous file intact. Raises
    HatError when the disk refuses (full, no permission, file-size limit); nothing temporary is left.
    """
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
            with contextlib.suppress(OSError):
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


def check_writable(path: Path) -> None:
    """Raise HatError if `path` cannot be written, before long work is spent on its content; makes nothing."""
    refuse_folder(path)
    with disk_errors(path):
        there = next(folder for folder in path.absolute().parents if folder.exists())
        tempfile.TemporaryFile(dir=there).close()


def digest_path(path: Path) -> Path:
    """Return where the SHA-256 of `path` is kept."""
    return path.with_name(path.name + ".sha256")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, reading the file in blocks."""
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


@contextlib.contextmanager
def recording(path: Path, digest: str) -> Iterator[None]:
    """Record `digest` beside `path`; the block puts the content with that SHA-256 at `path`.

    Two files cannot be renamed in one step. Therefore the digest file first lists the new digest and those
    before it, and only the new one after the block. So whichever content a crash leaves at `path` is found
    valid, also after several crashes.
    """

    def record(digests: Iterable[str]) -> None:
        write_text_atomic(digest_path(path), "".join(f"{each}  {path.name}\n" for each in digests))

    before = recorded_digests(path)
    if not digest_path(path).exists():
        with contextlib.suppress(OSError):
            before = [file_digest(path)]
    record(dict.fromkeys([digest, *before]))
    yield
    record([digest])


def digest_matches(path: Path, content: bytes) -> bool | None:
    """Return whether `content` of `path` has the recorded SHA-256, or None if no digest file exists."""
    if not digest_path(path).exists():
        return None
    return hashlib.sha256(content).hexdigest() in recorded_digests(path)


def recorded_digests(path: Path) -> list[str]:
    """Return the SHA-256 values that the digest file of `path` lists, the newest first."""
    try:
        return [line.split()[0] for line in digest_path(path).read_text("ascii").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []
