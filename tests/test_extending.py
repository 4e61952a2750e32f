"""Every extension of docs/extending.md applies to the package as it is, and its script runs.

A block belongs to the comment above it, `<!-- NAME: apply -->` or `<!-- NAME: run -->`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"<!-- ([^:>]+): (apply|run) -->\n```(?:diff|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
BLOCKS = {
    (name, use): text for name, use, text in BLOCK.findall((ROOT / "docs/extending.md").read_text("utf-8"))
}


def test_every_block_says_what_is_done_with_it() -> None:
    page = (ROOT / "docs/extending.md").read_text("utf-8")
    assert page.count("\n```") == 2 * len(BLOCKS) == 4 * len({name for name, _ in BLOCKS})


@pytest.mark.parametrize("name", sorted({name for name, _ in BLOCKS}))
def test_an_extension_works(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "hat", tmp_path / "hat", ignore=shutil.ignore_patterns("__pycache__"))
    env = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "GIT_CEILING_DIRECTORIES": str(tmp_path.parent),
    }
    applied = subprocess.run(
        ["git", "apply", "-"],
        input=BLOCKS[name, "apply"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert applied.returncode == 0, applied.stderr
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKS[name, "run"]], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
