"""Write a file whole or not at all, also across a power cut, and keep a digest beside it."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from hat.errors import HatError

UNFINISHED = ".unfinished"


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left in `folder`; nobody else may be writing there."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def sync_directory(folder: Path) -> None:
    """Make a rename inside `folder` durable. No effect where folders cannot be opened."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Create or replace `path` with what `fill` writes; a crash leaves the previous file intact.

    Raises HatError when the disk refuses (full, no permission, file-size limit); nothing temporary is left.
    """
    tmp = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, tmp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
        with os.fdopen(fd, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(tmp, 0o666 & ~_umask())  # mkstemp makes files private; users share runs
        os.replace(tmp, path)
        tmp = None
        sync_directory(path.parent)
    except OSError as error:
        raise HatError(
            f"cannot write {path}: {error.strerror or error}; the previous file, if any, is intact; "
            "free disk space or choose another folder"
        ) from error
    finally:
        if tmp is not None and os.path.exists(tmp):
            os.unlink(tmp)


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


def check_writable(path: Path) -> None:
    """Raise HatError where `path` could not be written later, before long work is spent on its content."""
    if path.is_dir():
        raise HatError(f"cannot write {path}: it is a folder; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise HatError(f"cannot write {path}: {error.strerror}; choose another folder") from error


def digest_path(path: Path) -> Path:
    """Return where the SHA-256 of `path` is kept."""
    return path.with_name(path.name + ".sha256")


def write_with_digest(path: Path, content: bytes) -> None:
    """Write `content` atomically with its SHA-256 beside it.

    Two files cannot be renamed in one step, so the digest file goes first and lists the new digest and those
    before it, and is cut to the new one at the end: whichever content a crash leaves under `path`, also after
    several crashes, it is found valid.
    """
    if path.is_dir():
        raise HatError(f"cannot write {path}: it is a folder; give the name of a file")
    fresh = hashlib.sha256(content).hexdigest()
    before = _listed_digests(path) if digest_path(path).exists() else _digest_of(path)
    lines = dict.fromkeys([fresh, *before])
    write_text_atomic(digest_path(path), "".join(f"{digest}  {path.name}\n" for digest in lines))
    write_atomic(path, lambda file: file.write(content))
    write_text_atomic(digest_path(path), f"{fresh}  {path.name}\n")


def digest_matches(path: Path, content: bytes) -> bool | None:
    """Return whether `content` of `path` has the recorded SHA-256, or None where no digest file exists."""
    if not digest_path(path).exists():
        return None
    return hashlib.sha256(content).hexdigest() in _listed_digests(path)


def _listed_digests(path: Path) -> list[str]:
    try:
        return [line.split()[0] for line in digest_path(path).read_text("ascii").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []


def _digest_of(path: Path) -> list[str]:
    try:
        return [hashlib.sha256(path.read_bytes()).hexdigest()]
    except OSError:
        return []


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
