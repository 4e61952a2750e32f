"""The fork server, the tiny task and what each command makes of it, once for a test run."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import commands
import pytest
from commands import COMMANDS, Made, Run, Whole, copy_of
from forks import Fault, Forks, Result
from local_site import serving


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture(scope="session")
def run(forks: Forks) -> Iterator[Run]:
    """Run a command of the table in a folder, with a fault if any."""
    with serving() as site:

        def run(name: str, folder: Path, fault: Fault | None = None, *more: str) -> Result:
            command, *argv = COMMANDS[name].line.replace("SITE", site.url).split()
            return forks.run(command, [*argv, *more], folder, fault)

        yield run


@pytest.fixture(scope="session")
def place(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = commands.make(tmp_path_factory.mktemp("place"))
    done = run("super", folder, None, "--save-dir=start", "--max-update=2", "--save-interval-updates=0")
    assert done.code == 0, done.err
    (folder / "start" / "checkpoint_best.pt").rename(folder / "start.pt")
    return folder


@pytest.fixture(scope="session")
def made(run: Run, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return how a command ends with nothing in its way; if `begun`, a run with less to do lies before it."""

    @cache
    def made(name: str, begun: bool = False) -> Whole:
        begun, start = begun and bool(COMMANDS[name].first), place
        if begun:
            start = copy_of(place, tmp_path_factory.mktemp(name) / "begun")
            assert run(name, start, None, COMMANDS[name].first).code == 0
        end = copy_of(start, tmp_path_factory.mktemp(name) / "end")
        done = run(name, end)
        assert done.code == 0, done.err
        return Whole(start, end, done.calls)

    return made
