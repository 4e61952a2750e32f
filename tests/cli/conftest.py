"""A tiny task to train on, made once for each module."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from searching import write_predictor
from tiny_task import SUB
from training import SPACE, argv_of, binarise

from hat.cli.evo_search import main as evo_search
from hat.cli.train import main as train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binarise(tmp_path_factory.mktemp("corpus"), 1, 200)


@pytest.fixture
def files(tmp_path: Path, data: Path) -> Path:
    (tmp_path / "space.yml").write_text(yaml.safe_dump(SPACE | {"data": str(data)}))
    (tmp_path / "sub.yml").write_text(yaml.safe_dump(SUB))
    return tmp_path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a SuperTransformer, trained for two updates."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "space.yml").write_text(yaml.safe_dump(SPACE | {"data": str(data)}))
    assert train(argv_of(folder, "super", "--max-update=2")) == 0
    return folder / "super"


@pytest.fixture
def search(files: Path, trained: Path, capsys: pytest.CaptureFixture[str]):
    """Return a function that searches into a folder of that name and returns what is left and said."""
    (files / "super").mkdir()
    for path in trained.glob("checkpoint_last.pt*"):
        shutil.copy(path, files / "super")
    predictor = write_predictor(files, "another device")

    def run(name: str, *more: str, code: int = 0, flag: str = "--configs") -> tuple[dict, str]:
        argv = [f"{flag}={files}/space.yml", f"--restore-file={files}/super/checkpoint_last.pt"]
        argv += [f"--ckpt-path={predictor}", "--valid-cnt-max=8", f"--search-dir={files / name}"]
        argv += ["--profile-length=4"]  # as the predictor's rows
        capsys.readouterr()
        assert evo_search([*argv, f"--write-config-path={files / name}.yml", *more]) == code
        said = "".join(capsys.readouterr())
        path = files / name / "summary.json"
        return (json.loads(path.read_text()) if path.exists() else {}), said

    return run
