"""The latency table: round trips, hostile rows, cuts at every byte, one writer."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from toy_rows import draw_arch

from hat.errors import DataError, HatError
from hat.latency.table import RELEASE_COLUMNS, Row, TableWriter, find_table, read_table, row_of

CONDITIONS = {"device": 'cpu "x", 2 GHz', "threads": 1, "beam": 4}
HEAD = ",".join(RELEASE_COLUMNS)
PLAIN = "640,6,2048.0,8.0,512,2,1024.0,4.0,4.0,1.5,5.5,124.5,0.05,0.4"


def row_number(n: int) -> Row:
    return row_of(draw_arch(random.Random(n)), (10.0 + n / 3, 0.1), (100.0 + n / 7, 0.2), CONDITIONS)


def fill(path: Path, count: int) -> list[Row]:
    with TableWriter(path) as table:
        for n in range(len(table.records), count):
            table.append(row_number(n))
        return table.records


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "t.csv"
    rows = fill(path, 5)
    assert read_table(path) == rows == [row_number(n) for n in range(5)]
    assert rows[0].conditions == {"device": 'cpu "x", 2 GHz', "threads": "1", "beam": "4"}
    assert rows[3].total_ms == pytest.approx(11 + 100 + 3 / 7)
    head = path.read_bytes().split(b"\n")[0] + b"\n"
    path.write_bytes(head)  # a head alone is a table, too
    assert read_table(path) == [] and len(fill(path, 2)) == 2


def test_release_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{HEAD}\r\n{PLAIN}\r\n")
    (row,) = read_table(path)
    assert row.features[:3] == (640, 6, 2048) and row.total_ms == 130 and row.arch is None
    with pytest.raises(DataError, match="no latency table of our own .*give another --lat-dataset-path"):
        TableWriter(path)
    assert path.read_text().endswith("0.4\n")


def test_one_writer_and_one_way_of_measuring(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t.csv") as table:
        with pytest.raises(HatError, match="written by another process"):
            TableWriter(tmp_path / "t.csv")
        table.append(row_number(0))
    with TableWriter(tmp_path / "t.csv") as table:
        with pytest.raises(DataError, match="holds other columns than .*dtype"):
            table.append(replace(row_number(1), conditions={**row_number(1).conditions, "dtype": "fp16"}))
        table.append(row_number(1))
    assert read_table(tmp_path / "t.csv") == [row_number(0), row_number(1)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("124.5", "nan", "latency_mean_decoder"),
        ("5.5,124.5", "1e308,1e308", "add up to inf"),
        ("5.5,124.5", "0,0", "nothing was measured"),
        ("5.5", "-5.5", "not negative"),
        ("640", "__import__('os')", "could not convert"),
        ("640", '"640', "unexpected end"),
        (PLAIN, "", "0 cells"),
    ],
)
def test_damaged_row_names_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{HEAD}\n{PLAIN}\n{PLAIN.replace(old, new, 1)}\n{PLAIN}\n")
    with pytest.raises(DataError, match=f"t.csv:3: .*{message}"):
        read_table(path)


def test_find_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, released = tmp_path / "x.csv", tmp_path / "x_all.csv"
    with pytest.raises(DataError, match="neither .*x_all.csv nor .*x.csv exists"):
        find_table(released)
    own.touch()
    assert find_table(released) == own and "does not exist; reading" in capsys.readouterr().err
    released.touch()
    assert find_table(str(released)) == released
    with pytest.raises(DataError, match="is empty"):
        read_table(own)
    with pytest.raises(DataError, match="cannot read"):
        read_table(tmp_path)
