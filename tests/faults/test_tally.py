"""The counting behind `scripts/run_fault_tests.sh`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tally as module
from tally import Tally, count


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
    assert [json.loads(line)["row"] for line in file.read_text().splitlines()] == [9, 2, 9]
    done = subprocess.run(
        [sys.executable, module.__file__, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        " 2 bit rot: 1 faults injected, 0 survived, lost: nothing [flips]",
        " 9 data and YAML: 4 faults injected, 4 survived, lost: 6 lines [cut lines, NUL]",
    ]


def test_the_default_run_injects_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HAT_FAULTS", raising=False)
    assert count(5, 300) == 5
    monkeypatch.setenv("HAT_FAULTS", "full")
    assert count(5, 300) == 300
