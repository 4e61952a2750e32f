"""Row 6: a disk that is full, broken, read-only, limited or unreadable, at ten points of each command."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import workplace
from forks import Fault, Forks, Result
from tally import Tally, count, is_full
from workplace import ARGV, checkpoints, copy_of

from hat.data.pairs import PairDataset
from hat.files.journal import Journal
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import read_table
from hat.train.checkpoint import load_newest

POINTS = 10
NAMES = list(ARGV) if is_full() else ["super", "collect", "predict", "search"]
BEFORE = {  # what a first, undisturbed run does differently, so that the second one has work to do
    "super": ["--max-update=4"],
    "sub": ["--max-update=4"],
    "collect": ["--lat-dataset-size=3"],
    "search": ["--evo-iter=2"],
}
REFUSALS = {
    "full disk": Fault(code=errno.ENOSPC, lasts=True, half=True),
    "write error": Fault(code=errno.EIO, lasts=True),
    "permission lost": Fault(code=errno.EACCES),
    "file-size limit": Fault(code=errno.EFBIG, half=True),
}


@pytest.fixture(scope="module")
def started(forks: Forks, place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder for each command in which it has run before."""
    folders = {}
    for name in NAMES:
        command, argv = ARGV[name]
        folders[name] = copy_of(place, tmp_path_factory.mktemp(name) / "work")
        done = forks.run(command, [*argv, *BEFORE.get(name, [])], folders[name])
        assert done.code == 0, done.err
    return folders


def again(started: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(started, folder))


def state(run: Path, name: str) -> int:
    """Return how much work the run folder of a command holds; everything in it must be readable."""
    if name in ("super", "sub"):
        checkpoints(run)
        newest = load_newest(run, lambda text: None)
        return newest.state["trainer"]["num_updates"] if newest else 0
    if name == "collect":
        return len(read_table(run / "rows.csv"))
    if name == "search":
        with Journal(run / "journal.jsonl") as journal:
            return len(journal.records)
    if name == "predict":
        return round(LatencyPredictor.load(str(run / "predictor.pt"), (), None).predict_many([_arch(run)])[0])
    if name == "preprocess":
        data = run / "bin"
        return len(PairDataset.load(str(data), "train", "en", "de")) if data.exists() else 0
    if name == "generate":
        return len((run / "out.txt").read_text().split("\n"))
    return len(checkpoints(run))


def _arch(run: Path):
    return workplace.space_of(run.parent).largest()


def assert_refused(done: Result, work: Path) -> None:
    """One clear error, exit code 2, and no temporary file."""
    lines = [line for line in done.err.splitlines() if "Error: " in line]
    assert done.code == 2, (done.code, done.err)
    assert len(lines) == 1 and "Traceback" not in done.err, done.err
    assert litter(work) == [], litter(work)


def litter(work: Path) -> list[str]:
    return [path.name for path in work.rglob(".*")]


@pytest.mark.parametrize("name", NAMES)
def test_ten_points_of_each_command(
    name: str, forks: Forks, started: dict[str, Path], tmp_path: Path
) -> None:
    command, argv = ARGV[name]
    work = again(started[name], tmp_path / "work")
    had = state(work / "run", name)
    points = forks.run(command, argv, work).points
    whole = state(work / "run", name)
    with Tally(6, f"{', '.join(REFUSALS)} in {name}") as tally:
        refusable = [
            at for at, point in enumerate(points, 1) if point in ("create", "write", "fsync", "rename")
        ]
        most = min(POINTS, len(refusable))  # a translation is written in five calls
        chosen = [refusable[(len(refusable) - 1) * n // (most - 1)] for n in range(most)]
        kinds = list(REFUSALS.items())
        for turn, at in enumerate(chosen if is_full() else chosen[2::5]):
            for kind, fault in kinds if is_full() else [kinds[turn % len(kinds)]]:
                with tally.fault():
                    where = f"{kind} at point {at} of {len(points)}, {points[at - 1]}"
                    work = again(started[name], tmp_path / "work")
                    done = forks.run(command, argv, work, Fault(**{**vars(fault), "at": at}))
                    try:
                        assert_refused(done, work)
                        assert had <= state(work / "run", name) <= whole
                        done = forks.run(command, argv, work)
                        assert done.code == 0, done.err
                        assert state(work / "run", name) == whole
                    except AssertionError as error:
                        raise AssertionError(f"{where}: {error}") from error


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = Path(tempfile.mkdtemp())
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"a small tmpfs cannot be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_is_really_full(
    name: str, forks: Forks, started: dict[str, Path], small_disk: Path
) -> None:
    command, argv = ARGV[name]
    with Tally(6, f"a full tmpfs in {name}") as tally:
        for free in (0, 3, 40)[: count(1, 3)]:  # KiB
            with tally.fault():
                work = again(started[name], small_disk / "work")
                had = state(work / "run", name)
                filler = small_disk / "filler"
                with suppress(OSError), open(filler, "wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass
                size = filler.stat().st_size - 1024 * free
                os.truncate(filler, size)
                done = forks.run(command, argv, work)
                if done.code:
                    assert_refused(done, work)
                    assert "No space left" in done.err or "part of the record" in done.err, done.err
                assert done.code == 2 or free
                assert state(work / "run", name) >= had
                filler.unlink()
                assert forks.run(command, argv, work).code == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_on_the_size_of_files(
    name: str, forks: Forks, started: dict[str, Path], tmp_path: Path
) -> None:
    command, argv = ARGV[name]
    with Tally(6, f"RLIMIT_FSIZE in {name}") as tally:
        for limit in (16, 700, 5000)[: count(1, 3)]:
            with tally.fault():
                work = again(started[name], tmp_path / "work")
                had = state(work / "run", name)
                done = forks.run(command, argv, work, Fault(limit=limit))
                if done.code:
                    assert_refused(done, work)
                    assert "File too large" in done.err or "part of the record" in done.err, done.err
                assert done.code == 2 or limit > 16
                assert state(work / "run", name) >= had
                assert forks.run(command, argv, work).code == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a command as another user")
def test_no_permission(name: str, forks: Forks, started: dict[str, Path], tmp_path: Path) -> None:
    """The command runs as nobody, whom the folder does not belong to."""
    command, argv = ARGV[name]
    work = again(started[name], tmp_path / "work")
    for path in (work, *work.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    had = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    with Tally(6, f"no permission in {name}") as tally, tally.fault():
        done = forks.run(command, argv, work, Fault(user=65534))
        assert_refused(done, work)
        assert "Permission denied" in done.err
        assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == had


READS = {
    "super": ["space.yml", "train.en-de.en.idx", "dict.en.txt", "checkpoint_last.pt"],
    "sub": ["sub.yml", "train.en-de.de.idx", "checkpoint_last.pt.sha256"],
    "collect": ["rows.csv", "dict.de.txt"],
    "predict": ["rows.csv"],
    "search": ["start.pt", "predictor.pt", "journal.jsonl", "evo.yml"],
    "average": ["start.pt"],
    "preprocess": ["train.en", "valid.de"],
    "generate": ["start.pt", "dict.en.txt", "valid.en-de.en.idx"],
}


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_read(name: str, forks: Forks, started: dict[str, Path], tmp_path: Path) -> None:
    """Refused, with the file named; the newest checkpoint is the only file with another before it."""
    command, argv = ARGV[name]
    with Tally(6, f"read errors in {name}") as tally:
        for file in READS[name] if is_full() else READS[name][-2:]:
            with tally.fault():
                work = again(started[name], tmp_path / "work")
                had = state(work / "run", name)
                done = forks.run(command, argv, work, Fault(unreadable=file))
                if file.startswith("checkpoint_last.pt"):
                    assert done.code == 0 and "trying the one before it" in done.err, done.err
                else:
                    assert_refused(done, work)
                    assert file in done.err, done.err
                assert state(work / "run", name) >= had
