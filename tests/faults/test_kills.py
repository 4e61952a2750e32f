"""Row 1: SIGKILL at each write, fsync and rename of a save and at random moments; then the same again."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from forks import Fault, Forks
from tally import Tally, count, is_full
from tiny_task import assert_same
from workplace import ARGV, SAVE_EVERY, checkpoints, copy_of, last_update, losses

from hat.files.journal import Journal
from hat.latency.table import TableWriter
from hat.train.checkpoint import load, load_newest

FRONT = ["--pareto", "--pareto-evaluations=10", "--pareto-population=5", "--pareto-children=3"]
COMMANDS = ARGV | {"front": ("evo-search", [*ARGV["search"][1], *FRONT, "--latency-constraints", "45", "60"])}
NAMES = ("super", "sub", "collect", "search", "front")
ONE_SAVE = 34  # points; a save of two checkpoints with their digests has 30


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run."""

    folder: Path
    points: list[str]
    seconds: float

    @property
    def run(self) -> Path:
        return self.folder / "run"


@pytest.fixture(scope="module")
def wholes(forks: Forks, place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    found = {}
    for name in NAMES:
        command, argv = COMMANDS[name]
        folder = copy_of(place, tmp_path_factory.mktemp(name) / "whole")
        done = forks.run(command, argv, folder)
        assert done.code == 0, done.err
        found[name] = Whole(folder, done.points, done.seconds)
    return found


def killed(name: str, run: Path) -> tuple[int, bytes]:
    """Check what a kill left; returns how many units of work are lost and what must not change any more."""
    if name in ("super", "sub"):
        checkpoints(run)  # all readable
        newest = load_newest(run, lambda text: None) if run.exists() else None
        saved = newest.state["trainer"]["num_updates"] if newest else 0
        lost = max(0, last_update(run) - saved)
        assert lost <= SAVE_EVERY, "more than one save interval"
        return lost, b""
    path = run / ("rows.csv" if name == "collect" else "journal.jsonl")
    if not path.exists():
        return 0, b""
    content = path.read_bytes()
    kept = content[: content.rfind(b"\n") + 1]
    with TableWriter(path) if name == "collect" else Journal(path):
        return int(len(kept) < len(content)), kept


def finished(name: str, run: Path, whole: Path, kept: bytes) -> None:
    """Check that the run has ended as the uninterrupted one."""
    if name in ("super", "sub"):
        for file in ("checkpoint_last.pt", "checkpoint_best.pt"):
            assert_same(load(run / file), load(whole / file))
        assert losses(run) == losses(whole)
        assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in whole.iterdir())
    elif name == "collect":
        assert (run / "rows.csv").read_bytes().startswith(kept), "an acknowledged row changed"
        with TableWriter(run / "rows.csv") as one, TableWriter(whole / "rows.csv") as other:
            assert [row.arch for row in one.records] == [row.arch for row in other.records]
    else:
        content = (run / "journal.jsonl").read_bytes()
        assert content.startswith(kept) and content == (whole / "journal.jsonl").read_bytes()
        one, other = (json.loads((folder / "summary.json").read_text()) for folder in (run, whole))
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds"}:
            assert one[key] == other[key], key
        left = [_texts(folder.parent) for folder in (run, whole)]
        assert left[0] == left[1] and len(left[0]) >= (4 if name == "front" else 2)


def _texts(work: Path) -> dict[str, bytes]:
    """Return the table and the architectures that a search has written."""
    paths = [work / "run" / "evaluations.csv", *work.glob("found*.yml"), *work.glob("run/front/*")]
    return {str(path.relative_to(work)): path.read_bytes() for path in paths}


class Killing:
    """Kills one command again and again, each time in a fresh folder, and lets it go on."""

    def __init__(self, name: str, forks: Forks, place: Path, whole: Whole, work: Path) -> None:
        self.name, self.forks, self.place, self.whole, self.work = name, forks, place, whole, work
        self.command, self.argv = COMMANDS[name]

    def once(self, tally: Tally, where: str, fault: Fault | None = None, **how: object) -> bool:
        """Kill once; returns False where the command ended before the kill came."""
        work = copy_of(self.place, self.work)
        done = self.forks.run(self.command, self.argv, work, fault, **how)  # type: ignore[arg-type]
        if done.code == 0:
            return False
        assert done.code == -9, (where, done.err)
        with tally.fault():
            try:
                lost, kept = killed(self.name, work / "run")
                again = self.forks.run(self.command, self.argv, work)
                assert again.code == 0, again.err
                finished(self.name, work / "run", self.whole.run, kept)
            except AssertionError as error:
                raise AssertionError(f"{self.name} killed at {where}: {error}") from error
            unit = "updates, made again" if self.name in ("super", "sub") else "unacknowledged records"
            tally.lose(unit, lost)
        return True


@pytest.fixture
def killing(name: str, forks: Forks, place: Path, wholes: dict[str, Whole], tmp_path: Path) -> Killing:
    return Killing(name, forks, place, wholes[name], tmp_path / "work")


@pytest.mark.parametrize("name", NAMES)
def test_at_each_write_fsync_and_rename_of_a_save(name: str, killing: Killing) -> None:
    points = killing.whole.points
    first = {"super": len(points) // 3, "sub": len(points) // 3, "front": len(points) - ONE_SAVE}.get(name, 0)
    window = list(range(first + 1, min(first + ONE_SAVE, len(points)) + 1))
    assert {"write", "fsync", "rename", "create"} <= {points[at - 1] for at in window} or name == "search"
    fast = {"super": 4, "sub": 1, "collect": 2, "search": 3, "front": 2}[name]
    chosen = window if is_full() else window[1 :: max(1, len(window) // fast)][:fast]
    with Tally(1, f"points of {name}") as tally:
        for at in chosen:
            half = points[at - 1] == "write" and at % 2 == 0
            where = f"point {at} of {len(points)}, {points[at - 1]}"
            assert killing.once(tally, where, Fault(at=at, half=half)), where


@pytest.mark.parametrize("name", NAMES)
def test_at_random_moments(name: str, killing: Killing) -> None:
    rng = random.Random(name)
    wanted = count(1, 50)
    with Tally(1, f"random moments of {name}") as tally:
        for _ in range(4 * wanted):
            if tally.injected == wanted:
                break
            after_s = rng.uniform(0, killing.whole.seconds)
            killing.once(tally, f"{after_s:.3f} s", kill_after_s=after_s)
        assert tally.injected == wanted
