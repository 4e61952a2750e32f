"""The fork server and the tiny task, made once for a test run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import workplace
from forks import Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture(scope="session")
def place(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workplace.make(tmp_path_factory.mktemp("place"))
    command, argv = workplace.ARGV["super"]
    done = forks.run(command, [*argv, "--max-update=2", "--save-interval-updates=0"], folder)
    assert done.code == 0, done.err
    (folder / "start.pt").write_bytes((folder / "run" / "checkpoint_best.pt").read_bytes())
    return folder
