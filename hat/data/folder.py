"""The folder of binary data: its contents are replaced at the end, and digests are kept of its files."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from hat.data.text import read_lines, unreadable
from hat.errors import DataError
from hat.files.atomic import disk_errors, file_digest, new_folders, write_text_atomic
from hat.files.lock import Lock

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
    """Return source and target language of the data in `folder`: those given, else as the file names say.
    Raises DataError, listing what is there, if one is needed and there is no pair or more than one.
    """
    if source and target:
        return source, target
    found = sorted(_pairs_in(Path(folder)))
    if len(found) != 1:
        why = f"pairs found: {', '.join(map('-'.join, found)) or 'none'}; {listing(Path(folder))}"
        advice = "choose with --source-lang and --target-lang, or make data with hat preprocess"
        raise DataError(f"cannot tell the languages of {folder}: {why}; {advice}")
    return source or found[0][0], target or found[0][1]


@contextlib.contextmanager
def replacing(destination: Path, languages: tuple[str, str]) -> Iterator[Path]:
    """Give an empty folder to fill; if the block ends without an error, its files go to `destination`.

    Until then, also if the process is killed, the data in `destination` is untouched. Earlier data of the
    language pair in it goes, but for splits that are not written anew if the dictionaries and the subword
    model stay the same; what has other names stays. Raises DataError if `destination` holds another language
    pair (which would lose its dictionaries) and HatError if another process is writing to it.
    """
    if destination.is_file() or (others := _pairs_in(destination) - {languages}):
        found = "is a file" if destination.is_file() else f"holds data of {'-'.join(min(others))}"
        raise DataError(f"{destination} {found}; choose another folder, or remove it")
    fresh = destination / ".new"
    with disk_errors(destination), new_folders(destination), contextlib.ExitStack() as stack:
        stack.enter_context(Lock(os.open(destination, os.O_RDONLY), destination, "wait for it or stop it"))
        shutil.rmtree(fresh, ignore_errors=True)  # of a killed run
        fresh.mkdir()
        stack.callback(shutil.rmtree, fresh)
        yield fresh
        _move_files(fresh, destination, {f"dict.{lang}.txt" for lang in languages})


def _move_files(fresh: Path, destination: Path, dictionaries: set[str]) -> None:
    """Make the files of `fresh` those of `destination`; a kill meanwhile leaves files of other digests."""
    made, known = {path.name: file_digest(path) for path in fresh.iterdir()}, _digests(destination)
    fixed = {*dictionaries, MODEL_FILE, CODES_FILE}  # ids belong to these files
    old = [destination / name for name in fixed & made.keys()]
    same = all(path.is_file() and file_digest(path) == made[path.name] for path in old)
    splits = {name.split(".")[0] for name in made if name.endswith(".idx")}
    for name in [path.name for path in destination.iterdir()]:
        split = _DATA.fullmatch(name)
        is_data = (split and split[1] in SPLITS) or name in fixed
        if is_data and not (same and not (split and split[1] in splits)):
            (destination / name).unlink()
            known.pop(name, None)
    known |= made
    write_text_atomic(destination / SUMS, "".join(f"{known[name]}  {name}\n" for name in sorted(known)))
    for name in made:
        with open(fresh / name, "rb") as file:
            os.fsync(file.fileno())
        os.replace(fresh / name, destination / name)


def check_digests(folder: Path, names: Iterable[str]) -> None:
    """Raise DataError if a file of `folder` has another content than was written. Files that no list in
    `folder` mentions, as data of other programs, cannot be checked.
    """
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
    """Return name -> SHA-256 of the list in `folder`, nothing if there is none."""
    path = folder / SUMS
    lines = list(read_lines(path)) if path.exists() else []
    for wrong in (line for line in lines if not re.fullmatch(r"[0-9a-f]{64}  [^/]+", line)):
        advice = "make the data again, or remove this file to read them unchecked"
        raise DataError(f"{path}: {wrong[:40]!r} is no line of sha256sum; {advice}")
    return {line[66:]: line[:64] for line in lines}
