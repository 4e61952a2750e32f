"""Indexed ids on disk: round trips, the legacy format, damaged files."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data.indexed import IndexedData, write_indexed, write_parts
from hat.errors import DataError

SENTENCES = st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=12), max_size=20)
EXAMPLE = [[5, 6, 2], [2], [7, 2], [9, 9, 9, 2]]


def arrays(sentences):
    return [np.array(ids, dtype=np.int32) for ids in sentences]


def write_legacy(prefix, sentences):
    sizes = [len(ids) for ids in sentences]
    rows = np.arange(len(sizes) + 1, dtype="<i8").tobytes()
    starts = np.cumsum([0, *sizes]).astype("<i8").tobytes()
    header = b"TNTIDX\0\0" + struct.pack("<QQQQQ", 1, 4, 4, len(sizes), len(sizes))
    with open(f"{prefix}.idx", "wb") as file:
        file.write(header + rows + starts + np.array(sizes, "<i8").tobytes())
    with open(f"{prefix}.bin", "wb") as file:
        file.write(b"".join((np.array(ids) + 1).astype("<i4").tobytes() for ids in sentences))


@settings(max_examples=40)
@given(SENTENCES, st.sampled_from([1000, 65_499, 65_500]), st.booleans())
def test_round_trip(tmp_path_factory, sentences, vocab_size, legacy):
    prefix = tmp_path_factory.mktemp("indexed") / "train.en-de.en"
    if legacy:
        write_legacy(prefix, sentences)
    else:
        assert write_indexed(prefix, iter(arrays(sentences)), vocab_size) == len(sentences)
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
    write_indexed(tmp_path / "a", arrays([[5, 2], [2]]), 100)
    assert (tmp_path / "a.bin").read_bytes() == b"\x05\0\x02\0\x02\0"
    assert (tmp_path / "a.idx").read_bytes() == (
        b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 8, 2) + struct.pack("<ii", 2, 1) + struct.pack("<qq", 0, 4)
    )
    write_indexed(tmp_path / "b", arrays([[65_499, 2]]), 65_500)
    assert (tmp_path / "b.idx").read_bytes()[17] == 4 and (tmp_path / "b.bin").stat().st_size == 8


@pytest.mark.parametrize("bad", [[], [-1, 2], [10, 2]])
def test_refuses_to_write_what_it_could_not_read(tmp_path, bad):
    write_indexed(tmp_path / "a", arrays([[5, 2]]), 10)
    with pytest.raises(DataError, match="sentence 1"):
        write_indexed(tmp_path / "a", arrays([[5, 2], bad]), 10)
    assert IndexedData(tmp_path / "a")[0].tolist() == [5, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.idx"]


@pytest.mark.parametrize("chunk", [1, 3, 1 << 16])
def test_parts_equal_one_file(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("hat.data.indexed.CHUNK", chunk)
    write_indexed(tmp_path / "whole", arrays(EXAMPLE), 10)
    parts = [
        (np.concatenate(arrays(part)), np.array(list(map(len, part)))) for part in (EXAMPLE[:1], EXAMPLE[1:])
    ]
    assert write_parts(tmp_path / "merged", parts, 10) == 4
    for end in ("bin", "idx"):
        assert (tmp_path / f"merged.{end}").read_bytes() == (tmp_path / f"whole.{end}").read_bytes()


@pytest.mark.parametrize(("code", "dtype"), [(3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2"), (9, "<u4")])
def test_every_type_of_ids_is_read(tmp_path, code, dtype):
    ids = np.array([30_000, 2, 5, 2], dtype)
    (tmp_path / "a.bin").write_bytes(ids.tobytes())
    index = (
        struct.pack("<QBQ", 1, code, 2) + struct.pack("<ii", 2, 2) + struct.pack("<qq", 0, 2 * ids.itemsize)
    )
    (tmp_path / "a.idx").write_bytes(b"MMIDIDX\0\0" + index)
    data = IndexedData(tmp_path / "a")
    assert [data[0].tolist(), data[1].tolist()] == [[30_000, 2], [5, 2]]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("end", ["idx", "bin"])
def test_cut_or_longer_file_is_refused_at_every_length(tmp_path, end, legacy):
    prefix = tmp_path / "a"
    write_legacy(prefix, EXAMPLE) if legacy else write_indexed(prefix, arrays(EXAMPLE), 10)
    path = tmp_path / f"a.{end}"
    whole = path.read_bytes()
    for content in [*(whole[:n] for n in range(len(whole))), whole + b"\0", whole + whole]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"a\.{end}"):
            IndexedData(prefix)


@pytest.mark.parametrize("legacy", [False, True])
def test_any_changed_header_or_offset_byte_is_refused_or_harmless(tmp_path, legacy):
    prefix = tmp_path / "a"
    write_legacy(prefix, EXAMPLE) if legacy else write_indexed(prefix, arrays(EXAMPLE), 10)
    whole = (tmp_path / "a.idx").read_bytes()
    for place in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            (tmp_path / "a.idx").write_bytes(damaged)
            with pytest.raises(DataError, match=r"a\.(idx|bin)"):
                data = IndexedData(prefix)
                # only a type of equal width can pass unseen, and its ids are then read as such
                assert place == (17 if not legacy else 16) and data.lengths.tolist() == [3, 1, 2, 4]
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
    write_indexed(tmp_path / "a", arrays([[5, 2]]), 70_000)
    (tmp_path / "a.bin").write_bytes(np.array([-5, 2], "<i4").tobytes())
    with pytest.raises(DataError, match="ids from -5 to 2"):
        IndexedData(tmp_path / "a").check_ids(70_000, 2)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(DataError, match=r"a\.bin.*preprocess"):
        IndexedData(tmp_path / "a")
    with pytest.raises(IndexError):
        write_indexed(tmp_path / "a", arrays([[5, 2]]), 10)
        IndexedData(tmp_path / "a")[-1]
