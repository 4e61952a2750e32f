"""Locks: one owner at a time, gone with their owner, also on file systems without flock."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hat.errors import HatError
from hat.files.atomic import FolderLock
from hat.files.journal import Journal


@pytest.fixture(params=[0, errno.ENOSYS])
def without_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What the file system answers to flock; 0: it has one."""

    def refuse(fd: int, how: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    if request.param:
        monkeypatch.setattr("fcntl.flock", refuse)
    return int(request.param)


@pytest.mark.parametrize(
    "take",
    [lambda folder: Journal(folder / "j"), lambda folder: FolderLock(folder, "wait for it or stop it")],
    ids=["journal", "folder"],
)
def test_one_owner(take: Callable[[Path], Journal | FolderLock], without_flock: int, tmp_path: Path) -> None:
    with take(tmp_path):
        for _ in range(2):
            with pytest.raises(HatError, match=f"{tmp_path}.* is being written by another process.*wait"):
                take(tmp_path)
    with take(tmp_path):
        pass
    left = {path.name for path in tmp_path.rglob("*")} - {"j", "run.lock"}
    assert not left, "a lock that nobody has leaves nothing"


def test_a_lock_dies_with_its_owner(without_flock: int, tmp_path: Path) -> None:
    source, sink = os.pipe()
    other = os.fork()
    if other == 0:
        try:
            journal = Journal(tmp_path / "j")
            journal.append({"from": "the other process"})
            os.write(sink, b"locked")
            signal.pause()
        finally:
            os._exit(3)
    try:
        assert os.read(source, 6) == b"locked"
        with pytest.raises(HatError, match="is being written by another process"):
            Journal(tmp_path / "j")
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    with Journal(tmp_path / "j") as journal:
        assert journal.records == [{"from": "the other process"}]


def test_a_folder_made_for_a_run_that_fails_at_once_goes(tmp_path: Path) -> None:
    for stays in (False, True):
        with pytest.raises(ValueError), FolderLock(tmp_path / "run", "wait"):  # noqa: PT011
            if stays:
                (tmp_path / "run" / ".a.1.unfinished").write_bytes(b"")
            raise ValueError
        assert (tmp_path / "run").exists() == stays
    with FolderLock(tmp_path / "run", "wait"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.lock"]
