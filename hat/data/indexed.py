"""Sentences as ids on disk: `<prefix>.bin` holds the ids back to back, `<prefix>.idx` where each begins.

Written in the default format of fairseq; its legacy format is read only.
"""

import struct
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hat.errors import DataError
from hat.files.atomic import write_all_atomic

MAGIC, LAYOUT = b"MMIDIDX\x00\x00", "<QBQ"  # version, element code, sentences
LEGACY_MAGIC, LEGACY_LAYOUT = b"TNTIDX\x00\x00", "<QQQQQ"  # version, code, element bytes, rows, sentences
DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4"}
MAX_UINT16_VOCAB = 65_500  # dictionaries of this size and more need int32
CHUNK = 1 << 22  # numbers looked at together, so that scans keep memory flat


def paths_of(prefix: Path | str) -> tuple[Path, Path]:
    """Return `<prefix>.bin` and `<prefix>.idx`; the prefix itself may contain dots."""
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx")


def write_indexed(prefix: Path | str, sentences: Iterable[np.ndarray], vocab_size: int) -> int:
    """Write sentences (1-d integer arrays with EOS, ids below `vocab_size`) and return their number.

    Memory holds one sentence and four bytes for each. Raises DataError for an empty sentence or an id out of
    range; both files then stay as they were.
    """

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, ids in enumerate(sentences):
            if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
                found = f"ids {ids.min()} to {ids.max()}" if len(ids) else "no ids"
                raise DataError(
                    f"cannot write sentence {number} of {prefix}: it has {found}; at least EOS, and ids from "
                    f"0 to {vocab_size - 1} are allowed; encode it with the dictionary it is written for"
                )
            yield ids, np.array([len(ids)])

    return write_parts(prefix, parts(), vocab_size)


def write_parts(prefix: Path | str, parts: Iterable[tuple[np.ndarray, np.ndarray]], vocab_size: int) -> int:
    """Write parts, each the ids of some sentences back to back and their lengths; return the number of
    sentences. Memory holds one part and four bytes for each sentence; a failure leaves the old files.
    """
    code = 8 if vocab_size < MAX_UINT16_VOCAB else 4
    dtype, lengths = np.dtype(DTYPES[code]), array("i")

    def fill(files: list[BinaryIO]) -> None:
        ids_file, index = files
        for ids, some in parts:
            ids_file.write(ids.astype(dtype).tobytes())
            lengths.frombytes(some.astype(np.int32).tobytes())
        index.write(MAGIC + struct.pack(LAYOUT, 1, code, len(lengths)) + lengths.tobytes())
        begin = 0
        for at in range(0, len(lengths), CHUNK):
            ends = begin + np.cumsum(lengths[at : at + CHUNK], dtype=np.int64)
            index.write((np.concatenate(([begin], ends[:-1])) * dtype.itemsize).astype("<i8").tobytes())
            begin = int(ends[-1])

    write_all_atomic(paths_of(prefix), fill)
    return len(lengths)


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
        self.bin, self._idx = paths_of(prefix)
        try:
            size = self.bin.stat().st_size
            with open(self._idx, "rb") as file:
                dtype = self._read_index(file, self._idx.stat().st_size)
            total = int(self._starts[-1])
            asked = f"{total} ids of {dtype.itemsize} bytes"
            self._check(
                size == total * dtype.itemsize, f"{size} bytes, {self._idx.name} asks for {asked}", self.bin
            )
            empty = np.zeros(0, dtype)
            self._ids = np.memmap(self.bin, dtype=dtype, mode="r", shape=(total,)) if total else empty
        except OSError as error:
            raise DataError(
                f"cannot read the data {error.filename or self._idx}: {error.strerror}; both .idx and .bin "
                "are needed; make them with hat preprocess"
            ) from error

    def _check(self, good: bool | np.bool_, found: str, path: Path | None = None) -> None:
        if not good:
            raise DataError(
                f"{path or self._idx} is damaged: {found}; make the data again with hat preprocess"
            )

    def _read_index(self, file: BinaryIO, size: int) -> np.dtype:
        """Take lengths and offsets out of the index of `size` bytes and return the type of ids."""
        magic = file.read(len(MAGIC))
        legacy = magic.startswith(LEGACY_MAGIC)
        self._check(legacy or magic == MAGIC, f"it begins with {magic!r} instead of MMIDIDX or TNTIDX")
        self._shift = int(legacy)  # the legacy format stores ids + 1
        begin, layout = (len(LEGACY_MAGIC), LEGACY_LAYOUT) if legacy else (len(MAGIC), LAYOUT)
        header_size = struct.calcsize(layout)
        self._check(size >= begin + header_size, "it ends inside its header")
        file.seek(begin)
        version, code, *more, count = struct.unpack(layout, file.read(header_size))
        known = f"known are version 1 and the types {sorted(DTYPES)}"
        self._check(
            version == 1 and code in DTYPES, f"format version {version}, element type {code}; {known}"
        )
        dtype = np.dtype(DTYPES[code])
        needed = begin + header_size + (8 * (3 * count + 2) if legacy else 12 * count)
        self._check(size == needed, f"{size} bytes where its {count} sentences need {needed}")
        if legacy:
            rows, offsets, sizes = (np.fromfile(file, "<i8", n) for n in (count + 1, count + 1, count))
            good = more == [dtype.itemsize, count] and (rows == np.arange(count + 1)).all()
            self._check(good, "its sentences have several rows, or elements of another size")
        else:
            sizes, offsets = np.fromfile(file, "<i4", count), np.fromfile(file, "<i8", count)
        self._check(((sizes > 0) & (sizes < 1 << 31)).all(), "a sentence has no length of at least 1 (EOS)")
        self.lengths = sizes.astype(np.int32)
        self._starts = np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64)))
        expected = self._starts[: len(offsets)] * (1 if legacy else dtype.itemsize)
        self._check((offsets == expected).all(), "a sentence does not begin where the one before it ends")
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

    def check_ids(self, vocab_size: int, eos: int) -> None:
        """Read all ids. Raises DataError for one beyond the dictionary and for a sentence without EOS."""
        for start in range(0, len(self._ids), CHUNK):
            part = self._ids[start : start + CHUNK]
            low, high = int(part.min()) - self._shift, int(part.max()) - self._shift
            if low < 0 or high >= vocab_size:
                raise DataError(
                    f"{self.bin} has ids from {low} to {high}, its dictionary has 0 to {vocab_size - 1}; "
                    "they must belong together; make both again with hat preprocess"
                )
        ends = self._ids[self._starts[1:] - 1].astype(np.int64) - self._shift
        for number in np.flatnonzero(ends != eos)[:1]:
            self._check(False, f"sentence {number} does not end with </s> (id {eos}), as each must", self.bin)
