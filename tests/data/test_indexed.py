"""Indexed ids on disk: round trips, the legacy format, damaged files."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data.indexed import IndexedData, write_indexed
from hat.errors import DataError

SENTENCES = st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=12), max_size=20)
EXAMPLE = [[5, 6, 2], [2], [7, 2], [9, 9, 9, 2]]


def write(prefix, sentences, legacy=False, vocab_size=10):
    if not legacy:
        arrays = (np.array(ids, dtype=np.int32) for ids in sentences)
        assert write_indexed(prefix, arrays, vocab_size) == len(sentences)
        return
    sizes = [len(ids) for ids in sentences]
    numbers = [*range(len(sizes) + 1), *np.cumsum([0, *sizes]), *sizes]
    header = b"TNTIDX\0\0" + struct.pack("<QQQQQ", 1, 4, 4, len(sizes), len(sizes))
    with open(f"{prefix}.idx", "wb") as index, open(f"{prefix}.bin", "wb") as file:
        index.write(header + np.array(numbers, "<i8").tobytes())
        file.write(b"".join((np.array(ids) + 1).astype("<i4").tobytes() for ids in sentences))


@settings(max_examples=40)
@given(SENTENCES, st.sampled_from([1000, 65_499, 65_500]), st.booleans(), st.sampled_from([1, 3, 1 << 16]))
def test_round_trip(tmp_path_factory, sentences, vocab_size, legacy, chunk):
    prefix = tmp_path_factory.mktemp("indexed") / "train.en-de.en"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hat.data.indexed.CHUNK", chunk)
        write(prefix, sentences, legacy, vocab_size)
    data = IndexedData(prefix)
    assert [data[i].tolist() for i in range(len(data))] == sentences
    assert data.lengths.dtype == np.int32 and data.lengths.tolist() == list(map(len, sentences))
    if sentences:
        with pytest.raises(DataError, match="they must belong together"):
            data.check_ids(max(i for ids in sentences for i in ids), 2)
    order = np.arange(len(sentences))[::-1]
    flat, lengths = data.gather(order)
    assert flat.tolist() == [i for k in order for i in sentences[k]]
    assert lengths.tolist() == [len(sentences[k]) for k in order]


def test_exact_bytes(tmp_path):
    write(tmp_path / "a", [[5, 2], [2]], vocab_size=100)
    assert (tmp_path / "a.bin").read_bytes() == b"\x05\0\x02\0\x02\0"
    assert (tmp_path / "a.idx").read_bytes() == (
        b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 8, 2) + struct.pack("<ii", 2, 1) + struct.pack("<qq", 0, 4)
    )
    write(tmp_path / "b", [[65_499, 2]], vocab_size=65_500)
    assert (tmp_path / "b.idx").read_bytes()[17] == 4 and (tmp_path / "b.bin").stat().st_size == 8


@pytest.mark.parametrize("bad", [[], [-1, 2], [10, 2]])
def test_refuses_to_write_what_it_could_not_read(tmp_path, bad):
    write(tmp_path / "a", [[5, 2]])
    with pytest.raises(DataError, match="sentence 1"):
        write(tmp_path / "a", [[5, 2], bad])
    assert IndexedData(tmp_path / "a")[0].tolist() == [5, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.idx"]


@pytest.mark.parametrize(("code", "dtype"), [(3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2"), (9, "<u4")])
def test_every_type_of_ids_is_read(tmp_path, code, dtype):
    ids = np.array([30_000, 2, 5, 2], dtype)
    (tmp_path / "a.bin").write_bytes(ids.tobytes())
    index = struct.pack("<QBQ", 1, code, 2) + struct.pack("<iiqq", 2, 2, 0, 2 * ids.itemsize)
    (tmp_path / "a.idx").write_bytes(b"MMIDIDX\0\0" + index)
    data = IndexedData(tmp_path / "a")
    assert [data[0].tolist(), data[1].tolist()] == [[30_000, 2], [5, 2]]


@pytest.mark.parametrize("legacy", [False, True])
def test_cut_longer_or_changed_files_are_refused(tmp_path, legacy):
    prefix = tmp_path / "a"
    write(prefix, EXAMPLE, legacy)
    for end in ("bin", "idx"):
        path = tmp_path / f"a.{end}"
        whole = path.read_bytes()
        for content in [*(whole[:n] for n in range(len(whole))), whole + b"\0", whole + whole]:
            path.write_bytes(content)
            with pytest.raises(DataError, match=rf"a\.{end}"):
                IndexedData(prefix)
        path.write_bytes(whole)
    for place in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=r"a\.(idx|bin)"):
                data = IndexedData(prefix)
                # only a type of equal width can pass unseen, and its ids are then read as such
                assert place == (16 if legacy else 17) and data.lengths.tolist() == [3, 1, 2, 4]
                raise DataError("a.idx")


@pytest.mark.parametrize("count", [5, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_count_allocates_nothing(tmp_path, count, legacy):
    (tmp_path / "a.bin").write_bytes(b"")
    header = struct.pack("<QQQQQ", 1, 4, 4, count, count) if legacy else struct.pack("<QBQ", 1, 8, count)
    (tmp_path / "a.idx").write_bytes((b"TNTIDX\0\0" if legacy else b"MMIDIDX\0\0") + header)
    with pytest.raises(DataError, match="bytes where its"):
        IndexedData(tmp_path / "a")


def test_negative_id_and_missing_files(tmp_path):
    write(tmp_path / "a", [[5, 2]], vocab_size=70_000)
    (tmp_path / "a.bin").write_bytes(np.array([-5, 2], "<i4").tobytes())
    data = IndexedData(tmp_path / "a")
    with pytest.raises(DataError, match="ids from -5 to 2"):
        data.check_ids(70_000, 2)
    with pytest.raises(IndexError):
        data[-1]
    (tmp_path / "a.bin").unlink()
    with pytest.raises(DataError, match=r"a\.bin.*preprocess"):
        IndexedData(tmp_path / "a")
