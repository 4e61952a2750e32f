"""The library: every public name loads and is documented, docs/library.md runs, and so does the tour."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixed_latencies import fix_latencies

import hat

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "examples/tour.py"
TINY = {
    "pieces=600": "pieces=200",
    "evo_iter=4": "evo_iter=1, population_size=4, parent_size=2, mutation_size=1, crossover_size=1",
    "target_len=12)": "target_len=12, max_iterations=2)",
    "(fastest + slowest) / 2": "1e6",
    "[limit_ms], config": "[limit_ms], measure=False, config",
}


@pytest.mark.parametrize("name", [name for name in hat.__all__ if name != "__version__"])
def test_every_public_name_loads_and_is_documented(name: str) -> None:
    found = getattr(hat, name)
    if callable(found):
        assert found.__doc__ and "\n" not in found.__doc__.strip().split(".")[0].strip()[:1]


def test_packages_that_are_functions_too() -> None:
    import hat.report.page
    import hat.search.run

    assert callable(hat.search) and callable(hat.report)
    assert hat.search.run.search is not None and hat.report.page.report is not None


def test_the_tour_imports_hat_alone_in_a_few_statements() -> None:
    tree = ast.parse(TOUR.read_text("utf-8"))
    assert len(tree.body) <= 20
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name.split(".")[0] for node in imports for alias in node.names}
    assert names <= {"hat", *sys.stdlib_module_names}
    assert TOUR.read_text().count("# %%") >= 6


@pytest.fixture
def work(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    fix_latencies(monkeypatch)
    return tmp_path


def test_the_tour_in_a_tiny_setting(work: Path, capsys) -> None:
    text = TOUR.read_text("utf-8")
    tiny, count = re.subn(r"(?m)^PAIRS, UPDATES, ROWS = .*$", "PAIRS, UPDATES, ROWS = 300, 3, 12", text)
    assert count == 1
    for written, small in TINY.items():
        assert written in tiny
        tiny = tiny.replace(written, small)
    exec(compile(tiny, str(TOUR), "exec"), {})
    assert "measured" in capsys.readouterr().out
    assert (work / "runs/tour/report/index.html").exists()


@pytest.mark.slow
def test_the_tour_as_written(work: Path) -> None:
    done = subprocess.run([sys.executable, str(TOUR)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_examples_of_the_page(work: Path) -> None:
    """All Python blocks of docs/library.md, one after the other, as one program."""
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / "docs/library.md").read_text("utf-8"))
    assert len(blocks) >= 8
    exec(compile("\n".join(blocks), "docs/library.md", "exec"), {})
