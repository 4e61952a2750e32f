"""The counting behind `scripts/run_fault_tests.sh`."""

import json
from pathlib import Path

import pytest
from tally import Tally, count, summary


def test_a_line_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tally"
    monkeypatch.setenv("HAT_FAULT_TALLY", str(file))
    with Tally(9, "cut lines") as tally:
        for _ in range(3):
            with tally.fault():
                tally.lose("lines", 2)
    with pytest.raises(AssertionError), Tally(2, "flips") as tally, tally.fault():
        raise AssertionError("not survived, but counted")
    with Tally(9, "NUL") as tally, tally.fault():
        pass
    assert list(summary([json.loads(line) for line in file.read_text().splitlines()])) == [
        " 2 bit rot: 1 faults injected, 0 survived, lost: nothing [flips]",
        " 9 data and YAML: 4 faults injected, 4 survived, lost: 6 lines [cut lines, NUL]",
    ]
    for full, number in (("", 5), ("full", 300)):
        monkeypatch.setenv("HAT_FAULTS", full)
        assert count(5, 300) == number
