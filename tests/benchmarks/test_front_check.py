"""python -m benchmarks front-check on journals written by hand."""

import json
from pathlib import Path

import pytest

from benchmarks.front_check import study
from hat.files.journal import Journal
from hat.model.count import count_macs, count_params
from hat.rng import rng_for
from hat.space import SearchSpace, sample, space_to_plain

RANDOM = [(4.0, 10.0), (3.0, 20.0), (2.0, 40.0)]  # of the box to (4, 40) an eighth
SEARCH = [(4.0, 40.0), (3.5, 10.0), (3.0, 20.0)]


def write(path: Path, points: list[tuple[float, float]]) -> None:
    with Journal(path) as journal:
        if points:
            journal.append({"kind": "hat search", "format": 1})
        for loss, ms in points:
            journal.append({"loss": loss, "latency_ms": ms})


@pytest.mark.parametrize(
    ("search", "more", "code", "said"),
    [
        (SEARCH, [], 0, "99% of random search's hypervolume after 3 eval"),
        (SEARCH, ["--at-most=2"], 1, "after 3 evaluations, wanted after at most 2"),
        (SEARCH[:2], [], 1, "99% of random search's hypervolume not reached"),
        (SEARCH[:2], ["--share=0.75", "--at-most=2"], 0, "75% of random search's"),
    ],
)
def test_how_soon_random_search_was_overtaken(search, more, code, said, tmp_path, capsys) -> None:
    for name, points in (("journal", search), ("random", RANDOM), ("depth", [])):
        write(tmp_path / f"{name}.jsonl", points)
    assert study([f"--search-dir={tmp_path}", *more]) == code
    assert said in capsys.readouterr().out


def test_a_search_without_random_architectures_is_refused(tmp_path, capsys) -> None:
    assert study([]) == 2 and "--search-dir is needed" in capsys.readouterr().err
    for name, points in (("journal", RANDOM), ("random", []), ("depth", RANDOM)):
        write(tmp_path / f"{name}.jsonl", points)
    assert study([f"--search-dir={tmp_path}"]) == 2
    assert "random.jsonl holds no scored architecture" in capsys.readouterr().err


@pytest.mark.parametrize("objectives", [["params"], ["flops", "latency"]])
def test_the_objectives_of_the_search_are_compared(
    objectives, tiny_space: SearchSpace, tmp_path, capsys
) -> None:
    header = {"space": space_to_plain(tiny_space), "objectives": objectives, "profile_length": 7}
    archs = [sample(tiny_space, rng_for(1, "test", n)) for n in range(6)]
    costs = {
        "params": [float(count_params(arch, tiny_space)) for arch in archs],
        "flops": [2.0 * count_macs(arch, tiny_space, 7) for arch in archs],
        "latency": [30.0 + n for n in range(6)],
    }
    for name in ("journal", "random", "depth"):
        with Journal(tmp_path / f"{name}.jsonl") as journal:
            journal.append(header if name == "journal" else {})
            for n, arch in enumerate(archs):
                journal.append({"arch": arch.to_yaml(), "loss": 3 + n / 10, "latency_ms": 30.0 + n})
    study([f"--search-dir={tmp_path}", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["reference"] == [3.5, *(max(costs[name]) for name in objectives)]
