"""scripts/front_check.py on journals written by hand, and behind a search."""

import json
from pathlib import Path

import pytest
from searching import FRONT, space_of

from hat.cli.front_check import main
from hat.files.journal import Journal
from hat.model.count import count_macs, count_params
from hat.rng import rng_for
from hat.search.constraints import Constraints
from hat.search.run import depth_grid
from hat.space import sample, space_to_plain

RANDOM = [(4.0, 10.0), (3.0, 20.0), (2.0, 40.0)]  # of the box to (4, 40) an eighth


def write(path: Path, points: list[tuple[float, float]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with Journal(path) as journal:
        if points:
            journal.append({"kind": "hat search", "format": 1})
        for loss, ms in points:
            journal.append({"loss": loss, "latency_ms": ms})


@pytest.mark.parametrize(
    ("search", "more", "code", "said"),
    [
        ([(4.0, 40.0), (3.5, 10.0), (3.0, 20.0)], [], 0, "99% of random search's hypervolume after 3 eval"),
        (
            [(4.0, 40.0), (3.5, 10.0), (3.0, 20.0)],
            ["--at-most=2"],
            1,
            "after 3 evaluations, wanted after at most 2",
        ),
        ([(4.0, 40.0), (3.5, 10.0)], [], 1, "99% of random search's hypervolume not reached"),
        ([(4.0, 40.0), (3.5, 10.0)], ["--share=0.75", "--at-most=2"], 0, "75% of random search's"),
    ],
)
def test_how_soon_random_search_was_overtaken(search, more, code, said, tmp_path, capsys) -> None:
    for name, points in (("journal", search), ("random", RANDOM), ("depth", [])):
        write(tmp_path / f"{name}.jsonl", points)
    assert main([f"--search-dir={tmp_path}", *more]) == code
    assert said in capsys.readouterr().out


def test_a_search_without_random_architectures_is_refused(tmp_path, capsys) -> None:
    for name, points in (("journal", RANDOM), ("random", []), ("depth", RANDOM)):
        write(tmp_path / f"{name}.jsonl", points)
    assert main([f"--search-dir={tmp_path}"]) == 2
    assert "random.jsonl holds no scored architecture" in capsys.readouterr().err


@pytest.mark.parametrize("objectives", [["params"], ["flops", "latency"]])
def test_the_objectives_of_the_search_are_compared(objectives, files, capsys) -> None:
    space, length = space_of(files), 7
    header = {"space": space_to_plain(space), "objectives": objectives, "profile_length": length}
    archs = [sample(space, rng_for(1, "test", n)) for n in range(6)]
    costs = {
        "params": [float(count_params(arch, space)) for arch in archs],
        "flops": [2.0 * count_macs(arch, space, length) for arch in archs],
        "latency": [30.0 + n for n in range(6)],
    }
    (files / "run").mkdir()
    for name in ("journal", "random", "depth"):
        with Journal(files / "run" / f"{name}.jsonl") as journal:
            journal.append(header if name == "journal" else {})
            for n, arch in enumerate(archs):
                journal.append({"arch": arch.to_yaml(), "loss": 3 + n / 10, "latency_ms": 30.0 + n})
    main([f"--search-dir={files}/run", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["reference"] == [3.5, *(max(costs[name]) for name in objectives)]


def test_a_search_whose_limits_leave_no_depth_is_compared_as_it_was(search, files, capsys) -> None:
    argv = [*FRONT, "--pareto-evaluations=8", "--ablations=8", "--objectives", "params"]
    space = space_of(files)
    most = min(
        count_params(arch, space)
        for arch in depth_grid(Constraints(space, lambda archs: [1.0] * len(archs)))
    )
    summary, _ = search("tight", *argv, f"--max-params={most - 1}")
    assert (files / "tight" / "depth.jsonl").read_bytes() == b""
    main([f"--search-dir={files}/tight", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: found[name] for name in summary["comparison"]} == summary["comparison"]
    assert main([f"--search-dir={files}/tight", "--share=0.01"]) == 0
