"""The folder of binary data: its contents are replaced in one step, and digests are kept of its files."""

import contextlib
import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hat.data.text import read_lines, unreadable
from hat.errors import DataError
from hat.files import atomic
from hat.files.atomic import file_digest

SUMS = "SHA256SUMS"  # as sha256sum writes it, of every other file that preprocessing wrote
MODEL_FILE = "sentencepiece.model"  # the subword model, beside the dictionaries
CODES_FILE = "bpe.codes"  # or the file of BPE merges
SPLITS = ("train", "valid", "test")
_DATA = re.compile(r"([^.]+)\.([^.-]+)-([^.-]+)\.(?:\2|\3)\.(?:bin|idx|txt)")  # split, source, target


def _pairs_in(folder: Path) -> set[tuple[str, str]]:
    found = map(_DATA.fullmatch, (path.name for path in folder.glob("*.idx")))
    return {match.group(2, 3) for match in found if match}


def listing(folder: Path) -> str:
    """Return what is in `folder`, for a message."""
    if not folder.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return f"it holds {', '.join(names[:12]) or 'nothing'}{', ...' if len(names) > 12 else ''}"


def languages(folder: Path | str, source: str | None = None, target: str | None = None) -> tuple[str, str]:
    """Return the languages given, else those in file names of `folder`; DataError if it has not one pair."""
    if source and target:
        return source, target
    found = sorted(_pairs_in(Path(folder)))
    if len(found) != 1:
        pairs = ", ".join(map("-".join, found)) or "none"
        found_there = f"cannot tell the languages of {folder}: pairs found: {pairs}; {listing(Path(folder))}"
        raise DataError(f"{found_there}; give --source-lang and --target-lang, or run hat preprocess")
    return source or found[0][0], target or found[0][1]


@contextlib.contextmanager
def replacing(destination: Path, languages: tuple[str, str]) -> Iterator[Path]:
    """Give an empty folder to fill; if the block ends without an error, it takes the place of `destination`,
    untouched until then, also if the process is killed. Earlier data of the language pair in it goes, but for
    splits that are not written anew if dictionaries and subword model stay the same; other files stay. Raises
    DataError if it holds another language pair, HatError if another process is writing to it.
    """
    destination = destination.resolve()
    if destination.is_file() or (others := _pairs_in(destination) - {languages}):
        found = "is a file" if destination.is_file() else f"holds data of {'-'.join(min(others))}"
        raise DataError(f"{destination} {found}; choose another folder, or remove it")
    fresh = destination.with_name(f".{destination.name}.new")
    with atomic.disk_errors(destination), contextlib.ExitStack() as stack:
        fresh.mkdir(parents=True, exist_ok=True)
        stack.enter_context(atomic.Lock(os.open(fresh, os.O_RDONLY), destination, "wait for it or stop it"))
        _empty(fresh, destination)  # a killed run may have left something
        stack.callback(_empty, fresh, destination, remove=True)
        yield fresh
        _take_place(fresh, destination, [f"dict.{lang}.txt" for lang in languages])


def check_digests(folder: Path, names: Iterable[str]) -> None:
    """Raise DataError if a file of `folder` has another content than the list in `folder`, if any, says."""
    digests = _digests(folder)
    for name in names:
        try:
            damaged = name in digests and digests[name] != file_digest(folder / name)
        except OSError as error:
            raise unreadable(folder / name, error) from error
        if damaged:
            found = f"{folder / name} is damaged: its SHA-256 differs from {folder / SUMS}"
            raise DataError(f"{found}; make the data again with hat preprocess")


def _digests(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    lines = list(read_lines(path)) if path.exists() else []
    for wrong in (line for line in lines if not re.fullmatch(r"[0-9a-f]{64}  [^/]+", line)):
        advice = "make the data again, or remove this file to read the data unchecked"
        raise DataError(f"{path}: {wrong[:40]!r} is no line of sha256sum; {advice}")
    return {line[66:]: line[:64] for line in lines}


def _take_place(fresh: Path, destination: Path, dictionaries: list[str]) -> None:
    digests = {path.name: file_digest(path) for path in fresh.iterdir()}
    fixed = {*dictionaries, MODEL_FILE, CODES_FILE}  # ids belong to these files
    old = [destination / name for name in fixed & digests.keys()]
    same = all(path.is_file() and file_digest(path) == digests[path.name] for path in old)
    splits = {name.split(".")[0] for name in digests if name.endswith(".idx")}
    known = _digests(destination)
    for path in destination.iterdir() if destination.exists() else ():
        split = _DATA.fullmatch(path.name)
        is_data = (split and split[1] in SPLITS) or path.name in fixed
        stays = not is_data or (same and not (split and split[1] in splits))
        if stays and path.name not in digests and path.name != SUMS and not path.is_dir():
            atomic.link_or_copy(path, fresh / path.name)
            if path.name in known:
                digests[path.name] = known[path.name]  # as it was written, not as it is by now
    atomic.write_text_atomic(fresh / SUMS, "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)))
    for name in digests:
        with open(fresh / name, "rb") as file:
            os.fsync(file.fileno())
    atomic.sync_directory(fresh)
    if destination.exists():
        with contextlib.suppress(OSError):  # some file systems have no modes
            os.chmod(fresh, destination.stat().st_mode)
        libc, here = ctypes.CDLL(None, use_errno=True), -100  # AT_FDCWD of Linux; 2 is RENAME_EXCHANGE
        names = here, os.fsencode(fresh), here, os.fsencode(destination)
        if not hasattr(libc, "renameat2") or libc.renameat2(*names, 2):  # else in three steps
            aside = fresh.with_name(f"{fresh.name}.old")
            for before, after in ((destination, aside), (fresh, destination), (aside, fresh)):
                os.rename(before, after)
    else:
        os.rename(fresh, destination)
    atomic.sync_directory(destination.parent)


def _empty(fresh: Path, destination: Path, remove: bool = False) -> None:
    # new or swapped out; a user's folders in it go to `destination`
    for path in fresh.iterdir() if fresh.exists() else ():
        if path.is_dir() and not path.is_symlink():
            os.rename(path, destination / path.name)
        else:
            path.unlink()
    if remove and fresh.exists():
        fresh.rmdir()
