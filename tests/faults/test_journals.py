"""Row 4: records cut at any byte, and records that the disk did not take."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tally import Tally, is_full
from toy_rows import draw_arch

from hat.errors import HatError
from hat.files.journal import Journal
from hat.latency.table import TableWriter, read_table, row_of

RECORDS = 5
ARCH = draw_arch(random.Random(1))


def journal(path: Path, *numbers: int) -> list[int]:
    with Journal(path) as file:
        for n in numbers:
            file.append({"n": n, "text": "\u00e4\u20ac" * (n % 3)})
        assert all(record["text"] == "\u00e4\u20ac" * (record["n"] % 3) for record in file.records)
        return [record["n"] for record in file.records]


def table(path: Path, *numbers: int) -> list[int]:
    conditions = {"device": 'cpu "\u00e4", 2 GHz'}
    with TableWriter(path) as file:
        for n in numbers:
            file.append(row_of(ARCH, (1.0, 0.1), (10.0 + n, 0.1), conditions))
    rows = read_table(path)
    assert all(row.conditions == conditions for row in rows)
    return [round(row.latency_mean_decoder - 10) for row in rows]


Append = Callable[..., list[int]]  # appends records to a file and returns those that it then holds
KINDS = pytest.mark.parametrize("append", [journal, table])


@KINDS
def test_cut_at_every_byte_of_the_last_three_records(append: Append, tmp_path: Path) -> None:
    """Three restarts after each cut; the second of them is cut, too."""
    path, rng = tmp_path / "file", random.Random(1)
    append(path, *range(RECORDS))
    whole = path.read_bytes()
    newlines = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    ends = newlines[-RECORDS:]  # without the table's header
    with Tally(4, f"cuts of a {append.__name__}") as tally:
        for cut in [*range(ends[-4], len(whole), 1 if is_full() else 19), len(whole)]:
            with tally.fault():
                kept = [n for n, end in enumerate(ends) if end <= cut]
                path.write_bytes(whole[:cut])
                assert append(path) == kept  # first restart: does nothing
                append(path, 7)  # second restart: one record, then killed within the next
                acknowledged = path.read_bytes()
                append(path, 8)
                unfinished = path.read_bytes()
                path.write_bytes(unfinished[: rng.randrange(len(acknowledged), len(unfinished))])
                assert append(path, 9) == [*kept, 7, 9]  # third restart
                tally.lose("unacknowledged records", 2)


@KINDS
def test_a_record_that_did_not_fit_leaves_nothing(
    append: Append, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes a part, or takes all and fails to sync; the writer goes on when there is room again."""
    path, write = tmp_path / "file", os.write

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    append(path, 0)
    before = path.read_bytes()
    with Tally(4, "refused records") as tally:
        for call, instead in (("os.write", lambda fd, data: write(fd, data[:9])), ("os.fsync", refuse)):
            with tally.fault():
                with monkeypatch.context() as patch, pytest.raises((HatError, OSError)):
                    patch.setattr(call, instead)
                    append(path, 1)
                assert path.read_bytes() == before
    assert append(path, 1) == [0, 1]
