"""Sentences as ids on disk, in the default format of fairseq; its legacy format is read only."""

import struct
from array import array
from collections.abc import Iterable, Sequence
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
Flat = tuple[np.ndarray, np.ndarray]  # ids of sentences back to back, and the length of each


def flat(sentences: Sequence[np.ndarray]) -> Flat:
    """Return sentences (1-d id arrays that end with EOS, at least one) back to back, and their lengths."""
    return np.concatenate(sentences).astype(np.int64), np.array([len(ids) for ids in sentences])


def paths_of(prefix: Path | str) -> tuple[Path, Path]:
    """Return `<prefix>.bin` and `<prefix>.idx`; the prefix itself may contain dots."""
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx")


def write_indexed(prefix: Path | str, sentences: Iterable[np.ndarray], vocab_size: int) -> int:
    """Write sentences (1-d integer arrays with EOS, ids below `vocab_size`), see `write_parts`."""
    return write_parts(prefix, (flat([ids]) for ids in sentences), vocab_size)


def write_parts(prefix: Path | str, parts: Iterable[Flat], vocab_size: int) -> int:
    """Write parts of sentences, all or none; return how many. DataError for an empty one or a wrong id."""
    code = 8 if vocab_size < MAX_UINT16_VOCAB else 4
    dtype, lengths = np.dtype(DTYPES[code]), array("i")

    def fill(files: list[BinaryIO]) -> None:
        for ids, some in parts:
            if not some.all() or ids.min() < 0 or ids.max() >= vocab_size:
                allowed = f"at least EOS, and 0 to {vocab_size - 1}, are allowed; take its own dictionary"
                raise DataError(f"cannot write to {prefix} from sentence {len(lengths)} on: {allowed}")
            files[0].write(ids.astype(dtype).tobytes())
            lengths.frombytes(some.astype(np.int32).tobytes())
        files[1].write(MAGIC + struct.pack(LAYOUT, 1, code, len(lengths)) + lengths.tobytes())
        begin = 0
        for at in range(0, len(lengths), CHUNK):
            ends = begin + np.cumsum(lengths[at : at + CHUNK], dtype=np.int64)
            files[1].write((np.concatenate(([begin], ends[:-1])) * dtype.itemsize).astype("<i8").tobytes())
            begin = int(ends[-1])

    write_all_atomic(paths_of(prefix), fill)
    return len(lengths)


class IndexedData:
    """Sentences under `prefix`, memory-mapped; `lengths` is an int32 array of ids per sentence with EOS."""

    def __init__(self, prefix: Path | str) -> None:
        """Open files of either format; DataError for one missing, cut off or contradicting the other."""
        self.prefix = Path(prefix)
        self.bin, self._idx = paths_of(prefix)
        try:
            size, dtype = self.bin.stat().st_size, self._read_index(self._idx.read_bytes())
            total = int(self._starts[-1])
            found = f"{size} bytes, {self._idx.name} asks for {total} ids of {dtype.itemsize} bytes"
            self._check(size == total * dtype.itemsize, found, self.bin)
            self._ids = np.memmap(self.bin, dtype, "r", shape=(total,)) if total else np.zeros(0, dtype)
        except OSError as error:
            found = f"cannot read the data {error.filename or self._idx}: {error.strerror}"
            raise DataError(f"{found}; .idx and .bin are needed; make them with hat preprocess") from error

    def _check(self, good: bool | np.bool_, found: str, path: Path | None = None) -> None:
        if not good:
            path = path or self._idx
            raise DataError(f"{path} is damaged: {found}; make the data again with hat preprocess")

    def _read_index(self, index: bytes) -> np.dtype:
        legacy = index.startswith(LEGACY_MAGIC)
        magic, layout = (LEGACY_MAGIC, LEGACY_LAYOUT) if legacy else (MAGIC, LAYOUT)
        begin = len(magic) + struct.calcsize(layout)
        known = index.startswith(magic) and len(index) >= begin
        self._check(known, f"it begins with {index[:9]!r}, and not with the header of MMIDIDX or TNTIDX")
        version, code, *more, count = struct.unpack_from(layout, index, len(magic))
        known = version == 1 and code in DTYPES
        self._check(known, f"version {version}, type {code}; known are version 1, types {sorted(DTYPES)}")
        needed = begin + (8 * (3 * count + 2) if legacy else 12 * count)
        self._check(len(index) == needed, f"{len(index)} bytes where its {count} sentences need {needed}")
        dtype, self._shift = np.dtype(DTYPES[code]), int(legacy)  # the legacy format stores ids + 1
        if legacy:
            numbers = np.frombuffer(index, "<i8", offset=begin)
            rows, offsets, sizes = np.split(numbers, (count + 1, 2 * count + 2))
            good = more == [dtype.itemsize, count] and (rows == np.arange(count + 1)).all()
            self._check(good, "its sentences have several rows, or elements of another size")
        else:
            middle = begin + 4 * count
            sizes, offsets = np.frombuffer(index[begin:middle], "<i4"), np.frombuffer(index[middle:], "<i8")
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

    def gather(self, indices: np.ndarray) -> Flat:
        """Return the ids of several sentences back to back (int64 [sum of lengths]) and the lengths."""
        lengths = self.lengths[indices].astype(np.int64)
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1] if len(ends) else 0)
        places += np.repeat(self._starts[indices] - (ends - lengths), lengths)
        return self._ids[places].astype(np.int64) - self._shift, lengths

    def count(self, index: int) -> tuple[int, int]:
        """Return the number of all ids, and of those that are `index`."""
        parts = (self._ids[at : at + CHUNK] for at in range(0, len(self._ids), CHUNK))
        return len(self._ids), sum(int(np.count_nonzero(part == index + self._shift)) for part in parts)

    def check_ids(self, vocab_size: int, eos: int) -> None:
        """Read all ids. Raises DataError for one beyond the dictionary and for a sentence without EOS."""
        for start in range(0, len(self._ids), CHUNK):
            part = self._ids[start : start + CHUNK]
            low, high = int(part.min()) - self._shift, int(part.max()) - self._shift
            if low < 0 or high >= vocab_size:
                found = f"{self.bin} has ids from {low} to {high}, its dictionary has 0 to {vocab_size - 1}"
                raise DataError(f"{found}; they must belong together; make both with hat preprocess")
        ends = self._ids[self._starts[1:] - 1].astype(np.int64) - self._shift
        for number in np.flatnonzero(ends != eos)[:1]:
            self._check(False, f"sentence {number} does not end with </s> (id {eos}), as each must", self.bin)
