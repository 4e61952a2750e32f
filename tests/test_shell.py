"""The shell scripts work from any folder, whatever CDPATH says."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path for path in [*ROOT.glob("scripts/*.sh"), *ROOT.glob("configs/*/*.sh")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_help_in_another_folder_with_cdpath(script: Path, tmp_path: Path) -> None:
    shared = script.name == "get_preprocessed.sh" and script.parent.name == "scripts"
    if shared or script.name in ("steps.sh", "environment.sh", "run_tests.sh", "run_fault_tests.sh"):
        assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
        return
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/steps.sh").write_text("echo wrong; exit 9\n")
    env = os.environ | {"CDPATH": str(tmp_path)}
    words = ["task", "--"] if script.name == "test.sh" and script.parent.name == "scripts" else []
    done = subprocess.run(
        ["bash", str(script), *words, "--help"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("usage:"), done.stdout + done.stderr
