"""Replace the contents of a data folder in one step."""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from hat.data.text import read_lines
from hat.errors import DataError, HatError
from hat.files.atomic import sync_directory, write_text_atomic

SUMS = "SHA256SUMS"  # as sha256sum writes it, of every other file that preprocessing wrote
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # Linux, from fcntl.h and fs.h
# Names that preprocessing writes, finished, in parts or under a temporary name; {} are the languages.
_OURS = (
    r"\.?((train|valid|test)\.[^.]+-[^.]+\.[^.]+\.(bin|idx|txt)|dict\.({})\.txt|sentencepiece\.model|SHA256SUMS)"
    r"(\.part\d+)?(\.[a-z0-9_]{{8}})?"
)


@contextlib.contextmanager
def replacing(destination: Path, pair: str, languages: tuple[str, str]) -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends without an error it takes the place of `destination`.

    Earlier data of the language pair in `destination` goes; files of other names stay. Until then, also when
    the process is killed, `destination` is untouched. Raises DataError when it holds another language pair
    (which would lose its dictionaries) or when another process is writing to it.
    """
    destination = destination.resolve()
    _check_only_pair(destination, pair)
    fresh = destination.with_name(f".{destination.name}.new")
    ours = re.compile(_OURS.format("|".join(map(re.escape, languages))))
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(fresh, destination)
        try:
            _clear(fresh, destination, ours)  # a killed run may have left something
            yield fresh
            _take_place(fresh, destination)
        finally:
            if fresh.exists():
                _clear(fresh, destination, ours)
                fresh.rmdir()
            os.close(lock)
    except OSError as error:
        raise HatError(
            f"cannot write {destination}: {error.strerror or error}; earlier data, if any, is intact; "
            "free disk space or choose another folder"
        ) from error


def keep_other_splits(destination: Path, fresh: Path, dictionaries: list[str]) -> None:
    """Link the splits that only `destination` has into `fresh`, when both have the same dictionaries.

    So a test set can be added with given dictionaries. Under another dictionary the old ids mean nothing.
    """
    names = [*dictionaries, *(path.name for path in fresh.glob("sentencepiece.model"))]
    pairs = [(destination.resolve() / name, fresh / name) for name in names]
    if not all(old.is_file() and old.read_bytes() == new.read_bytes() for old, new in pairs):
        return
    splits = {path.name.split(".")[0] for path in fresh.glob("*.idx")}
    known, kept = _digests(destination), {}
    for path in destination.iterdir():
        split = re.fullmatch(r"(train|valid|test)\..*\.(bin|idx|txt)", path.name)
        if (split and split[1] not in splits) or path.name == "sentencepiece.model":
            (fresh / path.name).unlink(missing_ok=True)
            os.link(path, fresh / path.name)
            if path.name in known:
                kept[path.name] = known[path.name]  # as it was written, not as it is by now
    _write_sums(fresh, kept)


def check_digests(folder: Path, names: Iterable[str]) -> None:
    """Raise DataError where a file of `folder` has another content than was written.

    Files that no list in `folder` mentions, as data of other programs, cannot be checked.
    """
    digests = _digests(folder)
    for name in names:
        if name in digests and digests[name] != file_digest(folder / name):
            raise DataError(
                f"{folder / name} is damaged: its SHA-256 differs from {folder / SUMS}; make the data again "
                "with scripts/preprocess.py, or restore it from a copy"
            )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, reading it in blocks; raises DataError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
    return digest.hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    """Return name -> SHA-256 of the list in `folder`, nothing where there is none."""
    path = folder / SUMS
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(read_lines(path), 1):
        match = re.fullmatch(r"([0-9a-f]{64})  ([^/]+)", line)
        if not match:
            raise DataError(
                f"{path}:{number}: {line[:40]!r} is no line of sha256sum; make the data again with "
                "scripts/preprocess.py, or remove the file to read the data unchecked"
            )
        found[match[2]] = match[1]
    return found


def _check_only_pair(folder: Path, pair: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; a folder is needed; choose another --destdir")
    others = {
        m[1]
        for path in folder.glob("*.idx")
        if (m := re.match(r"[^.]+\.([^.]+-[^.]+)\.[^.]+\.idx$", path.name))
    }
    if others - {pair}:
        raise DataError(
            f"{folder} holds data of {', '.join(sorted(others - {pair}))}; one folder holds one pair, "
            f"here {pair}; choose another --destdir or remove the folder"
        )


def _lock(fresh: Path, destination: Path) -> int:
    """Return an open descriptor of the new folder, locked against other processes."""
    while True:
        fresh.mkdir(exist_ok=True)
        fd = os.open(fresh, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(fresh)):  # not renamed away in between
                return fd
        except BlockingIOError:
            os.close(fd)
            raise DataError(
                f"another process is writing {destination}; one at a time is allowed; wait for it"
            ) from None
        except FileNotFoundError:
            pass
        os.close(fd)


def _clear(fresh: Path, destination: Path, ours: re.Pattern) -> None:
    """Empty the folder `fresh`, new or swapped out; foreign files move to `destination`."""
    for path in fresh.iterdir():
        if ours.fullmatch(path.name):
            path.unlink()
        elif destination.is_dir() and not (destination / path.name).exists():
            os.rename(path, destination / path.name)
        else:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _write_sums(folder: Path, digests: dict[str, str]) -> None:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    write_text_atomic(folder / SUMS, lines)


def _take_place(fresh: Path, destination: Path) -> None:
    kept = _digests(fresh)
    names = [path.name for path in fresh.iterdir() if path.name != SUMS]
    _write_sums(fresh, {name: kept.get(name) or file_digest(fresh / name) for name in names})
    for path in fresh.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_directory(fresh)
    if destination.exists():
        shutil.copymode(destination, fresh)
        _exchange(fresh, destination)
    else:
        os.rename(fresh, destination)
    sync_directory(destination.parent)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step where the system can, else in three renames."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2") and not libc.renameat2(
        AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE
    ):
        return
    aside = one.with_name(one.name + ".old")
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)
