"""python -m benchmarks front-check on searches written by hand."""

import json
from pathlib import Path

import pytest

from benchmarks.front_check import study

RANDOM = [(4.0, 10.0), (3.0, 20.0), (2.0, 40.0)]  # of the box to (4, 40) an eighth
SEARCH = [(4.0, 40.0), (3.5, 10.0), (3.0, 20.0)]


def folder_of(path: Path, points: list[tuple[float, float]]) -> Path:
    path.mkdir()
    (path / "summary.json").write_text('{"objectives": ["latency"]}')
    rows = "".join(f"{loss},{ms}\n" for loss, ms in points)
    (path / "evaluations.csv").write_text(f"loss,predicted_ms\n{rows}")
    return path


@pytest.mark.parametrize(
    ("search", "more", "code", "said"),
    [
        (SEARCH, [], 0, "search's hypervolume after 3 evaluations, wanted after at most 150: held"),
        (SEARCH, ["--at-most=2"], 1, "after 3 evaluations, wanted after at most 2: NOT HELD"),
        (SEARCH[:2], [], 1, "99% of random search's hypervolume not reached"),
    ],
)
def test_how_soon_random_search_was_overtaken(search, more, code, said, tmp_path, capsys) -> None:
    folders = {"search": folder_of(tmp_path / "a", search), "random": folder_of(tmp_path / "b", RANDOM)}
    argv = [f"--{name}-dir={folder}" for name, folder in folders.items()]
    assert study([*argv, "--json", *more]) == code
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert said in out and found["held"] is (code == 0) and found["hypervolume"]["random"] == 1 / 8


def test_folders_that_cannot_be_compared_are_refused(tmp_path, capsys) -> None:
    assert study([]) == 2 and "--search-dir and --random-dir are needed" in capsys.readouterr().err
    argv = [f"--search-dir={folder_of(tmp_path / 'a', [])}", f"--random-dir={tmp_path}/missing"]
    assert study(argv) == 2 and "not the folder of a finished search" in capsys.readouterr().err
    folder_of(tmp_path / "missing", RANDOM)
    assert study(argv) == 2 and "must have scored something" in capsys.readouterr().err
