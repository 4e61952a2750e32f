"""The wheel: it works where no checkout is, with the tasks and the table of released models."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hat.cli.files import init

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return a folder with an installed wheel, built from a copy without leftovers of earlier builds."""
    source = tmp_path_factory.mktemp("source") / "hat"
    leave = shutil.ignore_patterns(
        ".*", "build", "data", "runs", "checkpoints", "*.egg-info", "__pycache__", "tests"
    )
    shutil.copytree(ROOT, source, ignore=leave)
    to = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(to)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = to.glob("hardware_aware_transformers-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(to / "site")
        assert (
            "hat = hat.cli.main:main"
            in archive.read(
                next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
            ).decode()
        )
    return to / "site"


def run(site: Path, *words: str, cwd: Path) -> str:
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_package_knows_models_and_tasks(installed: Path, tmp_path: Path) -> None:
    assert "HAT_wmt14ende_titanxp@57.1ms_bleu@25.8" in run(
        installed, "-m", "hat", "download", "--list", cwd=tmp_path
    )
    run(installed, "-m", "hat", "init", "--to=work", cwd=tmp_path)
    assert (tmp_path / "work/configs/toy.en-de/test.sh").exists()
    assert (tmp_path / "work/scripts/run_task.sh").exists() and not list(tmp_path.rglob("*.pyc"))


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scripts").mkdir()
    assert init([f"--to={tmp_path}"]) == 2 and "scripts exists already" in capsys.readouterr().err
    assert not (tmp_path / "configs").exists()
