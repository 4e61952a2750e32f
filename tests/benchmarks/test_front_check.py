"""python -m benchmarks front-check on summaries written by hand."""

import json

import pytest

from benchmarks.front_check import study
from hat.search.strategies import compare

RANDOM = [(4.0, 10.0), (3.0, 20.0), (2.0, 40.0)]  # of the box to (4, 40) an eighth
SEARCH = [(4.0, 40.0), (3.5, 10.0), (3.0, 20.0)]


@pytest.mark.parametrize(
    ("search", "more", "code", "said"),
    [
        (
            SEARCH,
            [],
            0,
            "99% of random search's hypervolume after 3 evaluations, wanted after at most 150: held",
        ),
        (SEARCH, ["--at-most=2"], 1, "after 3 evaluations, wanted after at most 2: NOT HELD"),
        (SEARCH[:2], [], 1, "99% of random search's hypervolume not reached"),
    ],
)
def test_how_soon_random_search_was_overtaken(search, more, code, said, tmp_path, capsys) -> None:
    comparison = compare({"search": search, "random": RANDOM, "depth": []})
    (tmp_path / "summary.json").write_text(json.dumps({"comparison": comparison}))
    assert study([f"--search-dir={tmp_path}", "--json", *more]) == code
    out = capsys.readouterr().out
    assert said in out and json.loads(out.splitlines()[-1])["held"] is (code == 0)


def test_a_search_without_random_architectures_is_refused(tmp_path, capsys) -> None:
    assert study([]) == 2 and "--search-dir is needed" in capsys.readouterr().err
    assert study([f"--search-dir={tmp_path}"]) == 2 and "summary.json" in capsys.readouterr().err
    (tmp_path / "summary.json").write_text(json.dumps({"mode": "pareto"}))
    assert study([f"--search-dir={tmp_path}"]) == 2
    assert "compares with no random architecture" in capsys.readouterr().err
