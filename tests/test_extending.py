"""All extensions of docs/extending.md apply to one copy of the package, and their scripts run there.

A block belongs to the comment above it, `<!-- NAME: apply -->` or `<!-- NAME: run -->`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"<!-- ([^:>]+): (apply|run) -->\n```(?:diff|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
RUN_ALL = "import runpy, sys; [runpy.run_path(path) for path in sys.argv[1:]]"


def test_the_extensions_work(tmp_path: Path) -> None:
    page = (ROOT / "docs/extending.md").read_text("utf-8")
    blocks = {(name, use): text for name, use, text in BLOCK.findall(page)}
    names = sorted({name for name, _ in blocks})
    assert page.count("\n```") == 2 * len(blocks) == 4 * len(names), "each block says what is done with it"
    shutil.copytree(ROOT / "hat", tmp_path / "hat", ignore=shutil.ignore_patterns("__pycache__"))
    own = {
        "PYTHONPATH": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "GIT_CEILING_DIRECTORIES": str(tmp_path.parent),
    }

    def done(*command: str, text: str = "") -> None:
        result = subprocess.run(
            command, input=text, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr

    for name in names:
        done("git", "apply", "-", text=blocks[name, "apply"])
        (tmp_path / f"{name}.py").write_text(blocks[name, "run"], encoding="utf-8")
    done(sys.executable, "-c", RUN_ALL, *(f"{name}.py" for name in names))
