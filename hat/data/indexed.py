"""Sentences as ids on disk: `<prefix>.bin` holds the ids back to back, `<prefix>.idx` where each begins.

Written in the default format of fairseq; its legacy format is read only.
"""

import shutil
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hat.errors import DataError
from hat.files.atomic import write_atomic

MAGIC = b"MMIDIDX\x00\x00"
LEGACY_MAGIC = b"TNTIDX\x00\x00"
DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
MAX_UINT16_VOCAB = 65_500  # dictionaries of this size and more need int32
INDEX_CHUNK = 1 << 16  # sentences whose offsets are made together
CHUNK = 1 << 22  # numbers looked at together, so that scans keep memory flat


def idx_path(prefix: Path | str) -> Path:
    """Return `<prefix>.idx`; the prefix itself may contain dots."""
    return Path(f"{prefix}.idx")


def bin_path(prefix: Path | str) -> Path:
    """Return `<prefix>.bin`."""
    return Path(f"{prefix}.bin")


def _dtype_code(vocab_size: int) -> int:
    return 8 if vocab_size < MAX_UINT16_VOCAB else 4


def write_indexed(prefix: Path | str, sentences: Iterable[np.ndarray], vocab_size: int) -> int:
    """Write sentences (1-d integer arrays with EOS, ids below `vocab_size`) and return their number.

    Memory holds one sentence and four bytes for each. A crash leaves the old files, or no `.idx`. Raises
    DataError for an empty sentence or an id out of range.
    """
    sizes = array("i")
    write_ids(bin_path(prefix), sentences, sizes, vocab_size)
    return _write_index(prefix, [sizes], vocab_size)


def write_ids(path: Path, sentences: Iterable[np.ndarray], sizes: array, vocab_size: int) -> None:
    """Write only the `.bin` part, atomically, and append each sentence's length to `sizes`."""
    dtype = np.dtype(DTYPES[_dtype_code(vocab_size)])

    def fill(file: BinaryIO) -> None:
        for ids in sentences:
            if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
                found = f"ids {ids.min()} to {ids.max()}" if len(ids) else "no ids"
                raise DataError(
                    f"cannot write sentence {len(sizes)} of {path}: it has {found}; at least EOS, and ids "
                    f"from 0 to {vocab_size - 1} are allowed; encode it with the dictionary it is written for"
                )
            sizes.append(len(ids))
            file.write(ids.astype(dtype).tobytes())

    write_atomic(path, fill)


def merge_indexed(prefix: Path | str, parts: Sequence[tuple[Path, array]], vocab_size: int) -> int:
    """Join the `.bin` parts made by `write_ids`, in this order, and return the number of sentences."""

    def fill(file: BinaryIO) -> None:
        for path, _ in parts:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, file, 1 << 20)

    write_atomic(bin_path(prefix), fill)
    return _write_index(prefix, [lengths for _, lengths in parts], vocab_size)


def _write_index(prefix: Path | str, parts: Sequence[array], vocab_size: int) -> int:
    """Write the `.idx` of sentences of these lengths and return their number."""
    code = _dtype_code(vocab_size)
    itemsize, count = np.dtype(DTYPES[code]).itemsize, sum(map(len, parts))

    def pieces() -> Iterator[np.ndarray]:
        for part in parts:
            for start in range(0, len(part), INDEX_CHUNK):
                yield np.array(part[start : start + INDEX_CHUNK], dtype="<i4")

    def fill(file: BinaryIO) -> None:
        file.write(MAGIC + struct.pack("<QBQ", 1, code, count))
        for lengths in pieces():
            file.write(lengths.tobytes())
        offset = 0
        for lengths in pieces():
            ends = offset + np.cumsum(lengths, dtype=np.int64)
            file.write(((ends - lengths) * itemsize).astype("<i8").tobytes())
            offset = int(ends[-1])

    write_atomic(idx_path(prefix), fill)
    return count


class IndexedData:
    """The sentences under `prefix`, memory-mapped: ids stay on disk, only lengths and offsets are in memory.

    `lengths` is an int32 array [sentences] of ids per sentence, EOS included.
    """

    def __init__(self, prefix: Path | str) -> None:
        """Open and check both files, of either format.

        Raises DataError, naming the file, if one is missing, cut off, too long or contradicts the other;
        nothing is allocated before the sizes in the header have been compared with the file.
        """
        self.prefix = Path(prefix)
        self._idx, self._bin = idx_path(prefix), bin_path(prefix)
        try:
            bin_size = self._bin.stat().st_size
            with open(self._idx, "rb") as file:
                dtype = self._read_index(file, self._idx.stat().st_size)
            total = int(self._starts[-1])
            self._check(
                bin_size == total * dtype.itemsize,
                f"{bin_size} bytes where {self._idx.name} asks for {total} ids of {dtype.itemsize} bytes",
                self._bin,
            )
            empty = np.zeros(0, dtype)
            self._ids = np.memmap(self._bin, dtype=dtype, mode="r", shape=(total,)) if total else empty
        except OSError as error:
            raise DataError(
                f"cannot read the data {error.filename or self._idx}: {error.strerror}; both .idx and .bin "
                "are needed; make them with hat preprocess"
            ) from error

    def _check(self, good: bool, found: str, path: Path | None = None) -> None:
        if not good:
            path = path or self._idx
            raise DataError(f"{path} is damaged: {found}; make the data again with hat preprocess")

    def _read_index(self, file: BinaryIO, size: int) -> np.dtype:
        """Take lengths and offsets out of the index of `size` bytes and return the type of ids."""
        magic = file.read(len(MAGIC))
        legacy = magic[: len(LEGACY_MAGIC)] == LEGACY_MAGIC
        self._check(legacy or magic == MAGIC, f"it begins with {magic!r} instead of MMIDIDX or TNTIDX")
        self._shift = int(legacy)  # the legacy format stores ids + 1
        file.seek(len(LEGACY_MAGIC) if legacy else len(MAGIC))
        layout = "<QQQQQ" if legacy else "<QBQ"
        header = file.read(struct.calcsize(layout))
        self._check(len(header) == struct.calcsize(layout), "it ends inside its header")
        version, code, *rest = struct.unpack(layout, header)
        self._check(version == 1, f"format version {version}, known is 1")
        self._check(code in DTYPES, f"element type code {code}, known are {sorted(DTYPES)}")
        dtype, count = np.dtype(DTYPES[code]), rest[-1]
        if legacy:
            self._check(rest[0] == dtype.itemsize, f"elements of {rest[0]} bytes with type code {code}")
            self._check(rest[1] == count, f"{count} sizes for {rest[1]} sentences; each must be one row")
        needed = 48 + 8 * (3 * count + 2) if legacy else 26 + 12 * count
        self._check(size == needed, f"{size} bytes where its {count} sentences need {needed}")
        if legacy:
            rows, offsets, sizes = (np.fromfile(file, "<i8", n) for n in (count + 1, count + 1, count))
            self._check(bool((rows == np.arange(count + 1)).all()), "sentences of several rows")
        else:
            sizes, offsets = np.fromfile(file, "<i4", count), np.fromfile(file, "<i8", count)
        if len(wrong := np.flatnonzero((sizes < 1) | (sizes >= 1 << 31))):
            found = f"sentence {wrong[0]} has length {sizes[wrong[0]]}, at least 1 (EOS) is allowed"
            self._check(False, found)
        self.lengths = sizes.astype(np.int32)
        self._starts = np.zeros(count + 1, np.int64)
        np.cumsum(self.lengths, out=self._starts[1:])
        expected = self._starts[: len(offsets)] * (1 if legacy else dtype.itemsize)
        if len(wrong := np.flatnonzero(offsets != expected)):
            found = f"sentence {wrong[0]} begins at {offsets[wrong[0]]} instead of {expected[wrong[0]]}"
            self._check(False, found)
        return dtype

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the ids [length] of one sentence as int64."""
        if not 0 <= index < len(self):
            raise IndexError(f"sentence {index} of {len(self)}")
        return self._ids[self._starts[index] : self._starts[index + 1]].astype(np.int64) - self._shift

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of several sentences back to back (int64 [sum of lengths]) and the lengths."""
        lengths = self.lengths[indices].astype(np.int64)
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1] if len(ends) else 0)
        places += np.repeat(self._starts[indices] - (ends - lengths), lengths)
        return self._ids[places].astype(np.int64) - self._shift, lengths

    def last_ids(self) -> np.ndarray:
        """Return the last id of every sentence (int64 [sentences]), which must be EOS."""
        return self._ids[self._starts[1:] - 1].astype(np.int64) - self._shift

    def max_id(self) -> int:
        """Read all ids and return the largest, -1 without sentences. Raises DataError for one below 0."""
        largest = -1
        for start in range(0, len(self._ids), CHUNK):
            part = self._ids[start : start + CHUNK]
            smallest = int(part.min()) - self._shift
            self._check(smallest >= 0, f"id {smallest}, ids are 0 or more", self._bin)
            largest = max(largest, int(part.max()) - self._shift)
        return largest
