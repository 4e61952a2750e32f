"""The folder of binary data: new files take the place of old ones together, and digests are kept of all."""

import contextlib
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
MODEL_FILE = "sentencepiece.model"  # the subword model, beside the dictionaries
CODES_FILE = "bpe.codes"  # or the file of BPE merges
_SPLIT = re.compile(r"(train|valid|test)\.([^.]+-[^.]+)\.[^.]+\.(bin|idx|txt)")


@contextlib.contextmanager
def replacing(destination: Path, pair: str, languages: tuple[str, str]) -> Iterator[Path]:
    """Give an empty folder to fill; if the block ends without an error, its files go to `destination`.

    Until then, also if the process is killed, `destination` is untouched. Earlier data of the language pair
    in it is removed, but for splits that are not written anew if the dictionaries and the subword model stay
    the same; files of other names stay. If a process is killed while files are moved, the digests tell.
    Raises DataError if `destination` holds another language pair (which would lose its dictionaries) or if
    another process is writing to it.
    """
    destination = destination.resolve()
    _check_only_pair(destination, pair)
    fresh = destination.with_name(f".{destination.name}.new")
    try:
        fresh.mkdir(parents=True, exist_ok=True)
        lock = os.open(fresh, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in fresh.iterdir():  # a killed run may have left something
                path.unlink()
            try:
                yield fresh
                _take_place(fresh, destination, [f"dict.{lang}.txt" for lang in languages])
            finally:
                shutil.rmtree(fresh)
        except BlockingIOError:
            raise DataError(
                f"another process is writing {destination}; one at a time is allowed; wait for it"
            ) from None
        finally:
            os.close(lock)
    except OSError as error:
        raise HatError(
            f"cannot write {destination}: {error.strerror or error}; earlier data, if any, is intact; "
            "free disk space or choose another folder"
        ) from error


def check_digests(folder: Path, names: Iterable[str]) -> None:
    """Raise DataError if a file of `folder` has another content than was written.

    Files that no list in `folder` mentions, as data of other programs, cannot be checked.
    """
    digests = _digests(folder)
    for name in names:
        if name in digests and digests[name] != file_digest(folder / name):
            raise DataError(
                f"{folder / name} is damaged: its SHA-256 differs from {folder / SUMS}; make the data again "
                "with hat preprocess, or restore it from a copy"
            )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, reading it in blocks; raises DataError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
    return digest.hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    """Return name -> SHA-256 of the list in `folder`, nothing if there is none."""
    path = folder / SUMS
    found = {}
    for number, line in enumerate(read_lines(path) if path.exists() else (), 1):
        match = re.fullmatch(r"([0-9a-f]{64})  ([^/]+)", line)
        if not match:
            raise DataError(
                f"{path}:{number}: {line[:40]!r} is no line of sha256sum; make the data again with hat "
                "preprocess, or remove the file to read the data unchecked"
            )
        found[match[2]] = match[1]
    return found


def _check_only_pair(folder: Path, pair: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; a folder is needed; choose another --destdir")
    names = (re.match(r"[^.]+\.([^.]+-[^.]+)\.[^.]+\.idx$", path.name) for path in folder.glob("*.idx"))
    if others := {name[1] for name in names if name} - {pair}:
        raise DataError(
            f"{folder} holds data of {', '.join(sorted(others))}; one folder holds one pair, here {pair}; "
            "choose another --destdir or remove the folder"
        )


def _take_place(fresh: Path, destination: Path, dictionaries: list[str]) -> None:
    """Move all files of `fresh`; the new digests go first, so that no old file is taken for a new one."""
    new = {path.name: file_digest(path) for path in fresh.iterdir()}
    for name in new:
        with open(fresh / name, "rb") as file:
            os.fsync(file.fileno())
    destination.mkdir(exist_ok=True)
    models = [name for name in (MODEL_FILE, CODES_FILE) if name in new]
    old = [destination / name for name in dictionaries + models]
    same = all(path.is_file() and file_digest(path) == new[path.name] for path in old)
    splits = {name.split(".")[0] for name in new if name.endswith(".idx")}
    known, kept, stale = _digests(destination), {}, []
    for path in destination.iterdir():
        split = _SPLIT.fullmatch(path.name)
        is_data = split or path.name in (*dictionaries, MODEL_FILE, CODES_FILE)
        if not is_data or path.name in new:
            continue
        if same and not (split and split[1] in splits):
            kept |= {path.name: known[path.name]} if path.name in known else {}
        else:
            stale.append(path)
    digests = sorted((new | kept).items())
    write_text_atomic(destination / SUMS, "".join(f"{digest}  {name}\n" for name, digest in digests))
    for path in stale:
        path.unlink()
    for name in new:
        os.replace(fresh / name, destination / name)
    sync_directory(destination)
