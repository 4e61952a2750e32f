"""Row 6: a disk that is full, broken, read-only, limited or unreadable, at ten points of each command."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
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
        arch = workplace.space_of(run.parent).largest()
        return round(LatencyPredictor.load(run / "predictor.pt").predict_many([arch])[0])
    if name == "preprocess":
        data = run / "bin"
        return len(PairDataset.load(str(data), "train", "en", "de")) if data.exists() else 0
    if name == "generate":
        return len((run / "out.txt").read_text().split("\n"))
    return len(checkpoints(run))


def assert_refused(done: Result, work: Path) -> None:
    """One clear error, exit code 2, and no temporary file."""
    lines = [line for line in done.err.splitlines() if "Error: " in line]
    assert done.code == 2, (done.code, done.err)
    assert len(lines) == 1 and "Traceback" not in done.err, done.err
    assert [path.name for path in work.rglob(".*")] == []


class Trial:
    """Runs one command under faults, each time in a fresh copy of the folder in which it has run before."""

    def __init__(self, name: str, forks: Forks, started: Path, work: Path) -> None:
        self.name, self.forks, self.started, self.work = name, forks, started, work
        self.command, self.argv = ARGV[name]

    def begin(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.started, self.work)
        self.had = self.state()

    def state(self) -> int:
        return state(self.work / "run", self.name)

    def run(self, fault: Fault | None = None, *said: str, may_pass: bool = False) -> Result:
        """Run with a fault; if it is refused, it is for one of the reasons `said`, and nothing is lost."""
        done = self.forks.run(self.command, self.argv, self.work, fault)
        if not may_pass or done.code:
            assert_refused(done, self.work)
            assert not said or any(text in done.err for text in said), done.err
        assert self.state() >= self.had
        return done

    def finish(self) -> int:
        done = self.forks.run(self.command, self.argv, self.work)
        assert done.code == 0, done.err
        return self.state()


@pytest.fixture(params=NAMES)
def trial(request: pytest.FixtureRequest, forks: Forks, started: dict[str, Path], tmp_path: Path) -> Trial:
    return Trial(request.param, forks, started[request.param], tmp_path / "work")


def test_ten_points_of_each_command(trial: Trial) -> None:
    trial.begin()
    points = trial.forks.run(trial.command, trial.argv, trial.work).points
    whole = trial.state()
    with Tally(6, f"{', '.join(REFUSALS)} in {trial.name}") as tally:
        calls = ("create", "write", "fsync", "rename")
        refusable = [at for at, point in enumerate(points, 1) if point in calls]
        most = min(POINTS, len(refusable))  # a translation is written in five calls
        chosen = [refusable[(len(refusable) - 1) * n // (most - 1)] for n in range(most)]
        kinds = list(REFUSALS.items())
        for turn, at in enumerate(chosen if is_full() else chosen[2::5]):
            for kind, fault in kinds if is_full() else [kinds[turn % len(kinds)]]:
                with tally.fault():
                    trial.begin()
                    try:
                        # not every system can synchronise a folder
                        may_pass = kind == "permission lost" and points[at - 1] == "fsync"
                        trial.run(replace(fault, at=at), may_pass=may_pass)
                        assert trial.state() <= whole == trial.finish()
                    except AssertionError as error:
                        where = f"{kind} at point {at} of {len(points)}, {points[at - 1]}"
                        raise AssertionError(f"{where}: {error}") from error


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = Path(tempfile.mkdtemp())
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True) if shutil.which("mount") else None
    if mounted is None or mounted.returncode:
        folder.rmdir()
        pytest.skip("a small tmpfs cannot be mounted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


FULL = "No space left", "part of the record"


def test_a_disk_that_is_really_full(trial: Trial, small_disk: Path) -> None:
    trial.work = small_disk / "work"
    with Tally(6, f"a full tmpfs in {trial.name}") as tally:
        for free in (0, 3, 40)[: count(1, 3)]:  # KiB
            with tally.fault():
                trial.begin()
                filler = small_disk / "filler"
                with suppress(OSError), open(filler, "wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass
                os.truncate(filler, filler.stat().st_size - 1024 * free)
                trial.run(None, *FULL, may_pass=free > 0)
                filler.unlink()
                trial.finish()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a command as another user")
def test_no_permission(trial: Trial) -> None:
    """The command runs as nobody, whom the folder does not belong to."""
    trial.begin()
    for path in (trial.work, *trial.work.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    had = {path: path.read_bytes() for path in trial.work.rglob("*") if path.is_file()}
    with Tally(6, f"no permission in {trial.name}") as tally, tally.fault():
        trial.run(Fault(user=65534), "Permission denied")
        assert {path: path.read_bytes() for path in trial.work.rglob("*") if path.is_file()} == had


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


def test_what_cannot_be_read(trial: Trial) -> None:
    """Refused, with the file named; the newest checkpoint is the only file with another before it."""
    with Tally(6, f"read errors in {trial.name}") as tally:
        for file in READS[trial.name] if is_full() else READS[trial.name][-2:]:
            with tally.fault():
                trial.begin()
                newest = file.startswith("checkpoint_last.pt")
                done = trial.run(Fault(unreadable=file), file, may_pass=newest)
                assert not newest or "trying the one before it" in done.err, done.err
