"""The journal keeps every acknowledged record, names damage, and has one writer."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import DataError
from hat.files.journal import Journal

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
RECORDS = st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=5)


def write(path: Path, records: list[dict]) -> None:
    with Journal(path) as journal:
        for record in records:
            journal.append(record)
        assert journal.records[len(journal.records) - len(records) :] == records


def read(path: Path) -> list[dict]:
    with Journal(path) as journal:
        return journal.records


@settings(max_examples=30)
@given(RECORDS)
def test_round_trip(records: list[dict]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep" / "j.jsonl"
        write(path, records)
        assert read(path) == records
        write(path, [{"more": 1}])
        assert read(path) == [*records, {"more": 1}]
        assert len(path.read_bytes().splitlines()) == len(records) + 1


def test_records_are_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append((tmp_path / "j").read_bytes()))
    with Journal(tmp_path / "j") as journal:
        journal.append({"a": 1})
        assert synced[-1].endswith(b"\n") and b'"a": 1' in synced[-1]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path, records = tmp_path / "j", [{"value": n} for n in range(5)]
    write(path, records)
    lines = path.read_bytes().splitlines(keepends=True)
    wrong = [b"\n", b"{}\n", b"[1]\n", b"\xff\n", lines[1].replace(b"1}", b"7}"), lines[0][:-3] + b"\n"]
    for number, damage in enumerate(wrong):
        row = number % 4
        path.write_bytes(b"".join([*lines[:row], damage, *lines[row + 1 :]]))
        before = path.read_bytes()
        with pytest.raises(DataError, match=f"{path}:{row + 1}: damaged record") as error:
            Journal(path)
        assert path.read_bytes() == before
    path.write_bytes(b"".join(lines))
    assert error is not None  # it still holds the frames of the last refusal
    assert read(path) == records, "a refused journal must not stay locked"
