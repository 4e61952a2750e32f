"""A tiny task to train on, made once for each module."""

from pathlib import Path

import pytest
import yaml
from tiny_task import SUB
from training import SPACE, binarise


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda fd: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binarise(tmp_path_factory.mktemp("corpus"), 1, 200)


@pytest.fixture
def files(tmp_path: Path, data: Path) -> Path:
    (tmp_path / "space.yml").write_text(yaml.safe_dump(SPACE | {"data": str(data)}))
    (tmp_path / "sub.yml").write_text(yaml.safe_dump(SUB))
    return tmp_path
