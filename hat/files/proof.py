"""Whether a file is what its name says, seen from its structure: nothing in it is run or unpickled.

A check takes a path and raises ValueError saying what is wrong.
"""

import csv
import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hat.files.pickle_machine import Opaque, run
from hat.files.web import plain, web_page

Check = Callable[[Path], None]
_ITEM_BYTES = {
    **{"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1},
    **{"Byte": 1, "Bool": 1, "ComplexFloat": 8, "ComplexDouble": 16},
}
_BLOCK = 1 << 16
_MIB = 1 << 20
_ZIP_MAGIC = b"PK\x03\x04"
# What PyTorch wrote before 1.6 begins with a pickle of its number and one of its protocol.
_SEQUENCE_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."


def check_for(path: Path) -> Check:
    """Return the check of structure that the suffix of `path` asks for."""
    return _CHECKS.get(path.suffix.lower(), check_not_a_page)


def check_not_a_page(path: Path) -> None:
    """Raise ValueError for a web page."""
    with open(path, "rb") as file:
        page = web_page(file.read(_BLOCK))
    if page:
        raise ValueError(f"it is {page}")


def check_checkpoint(path: Path) -> None:
    """Raise ValueError for a file that torch.save did not write; nothing in it is unpickled."""
    with open(path, "rb") as file:
        head = file.read(_BLOCK)
    if head.startswith(_SEQUENCE_MAGIC):
        _check_sequence(path)
        return
    if not head.startswith(_ZIP_MAGIC):
        found = web_page(head) or "a file of another kind"
        raise ValueError(f"it is {found}, not a checkpoint of torch.save")
    names = _zip_names(path)
    if sum(name.endswith("/data.pkl") and name.count("/") == 1 for name in names) != 1:
        raise ValueError("it is a zip archive without data.pkl, not a checkpoint of torch.save")


def _check_sequence(path: Path) -> None:
    """Raise ValueError where a file of PyTorch before 1.6 is not as long as its tensors need.

    Such a file has no checksums: number, protocol, system, values and keys are pickles, which are followed
    without building anything they name; behind them lies each storage, its count and its numbers.
    """
    sizes: dict[str, int] = {}

    def storage(pid: Any) -> Opaque:
        _, kind, key, _, numel, *_ = pid
        sizes[key] = numel * _ITEM_BYTES[kind.name.rpartition(".")[2].removesuffix("Storage")]
        return Opaque(kind.name)

    try:
        with open(path, "rb") as file:
            *_, keys = (run(file, {}, storage) for _ in range(5))
            at = file.tell()
        needed = at + sum(8 + sizes[key] for key in keys)
    except Exception as error:  # damage makes the parsers raise many kinds
        if isinstance(error, OSError):
            raise
        raise ValueError(f"it is no whole checkpoint of torch.save ({plain(error)})") from error
    if path.stat().st_size != needed:
        raise ValueError(f"it has {path.stat().st_size} bytes, its tensors need {needed}")


def check_zip(path: Path) -> None:
    """Raise ValueError for what is no whole zip archive."""
    check_not_a_page(path)
    _zip_names(path)


def check_gzip(path: Path) -> None:
    """Raise ValueError for what is not gzip from its first to its last byte."""
    check_not_a_page(path)
    try:
        with gzip.open(path) as file:
            if not path.stat().st_size:  # which gzip takes for no data, well packed
                raise EOFError("it is empty")
            while file.read(_MIB):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"it is not whole gzip data ({plain(error)})") from error


def check_tar(path: Path) -> None:
    """Raise ValueError for what is no whole tar archive."""
    check_not_a_page(path)
    try:
        with tarfile.open(path, "r:") as archive:
            for _ in archive:
                pass
    except tarfile.TarError as error:
        raise ValueError(f"it is not a whole tar archive ({plain(error)})") from error


def check_csv(path: Path, columns: Sequence[str]) -> None:
    """Raise ValueError for what is not a CSV table with `columns` and at least one row."""
    check_not_a_page(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            if next(rows, None) != list(columns):
                raise ValueError(f"its columns are others than {','.join(columns)}")
            sizes = [len(row) for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"it is no CSV table ({plain(error)})") from error
    if set(sizes) != {len(columns)}:
        raise ValueError("it is a CSV table without rows, or with cut ones")


def _zip_names(path: Path) -> list[str]:
    """Return the names in a zip archive whose entries all have their checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
            names = archive.namelist()
    except Exception as error:  # damage makes zipfile raise many kinds
        if isinstance(error, OSError):
            raise
        raise ValueError(f"it is not a whole zip archive ({plain(error)})") from error
    if wrong is not None:
        raise ValueError(f"a wrong checksum of {plain(wrong)}")
    return names


_CHECKS: dict[str, Check] = {
    ".pt": check_checkpoint,
    ".gz": check_gzip,
    ".tgz": check_gzip,
    ".tar": check_tar,
    ".zip": check_zip,
    ".html": lambda path: None,
    ".htm": lambda path: None,
}
