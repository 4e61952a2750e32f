"""Row 8: one of two processes is killed, stopped, asked to leave or fails; or their launcher is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from faulty_rank import KINDS, PLACES, RankFault
from forks import ROOT
from tally import Tally, is_full
from tiny_task import assert_same
from workplace import ARGV, SAVE_EVERY, checkpoints, copy_of, last_update, losses

from hat.files.atomic import UNFINISHED
from hat.train.checkpoint import load, load_newest

if not sys.platform.startswith("linux"):
    pytest.skip("looks for processes in /proc", allow_module_level=True)

HERE = Path(__file__).parent
STARTERS = {
    "train.py": [
        "-c",
        "from hat.train.distributed import launch; raise SystemExit(launch('faulty_rank', None, 2, None))",
    ],
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node=2", str(HERE / "faulty_rank.py")],
}
GONE_S = {"SIGSTOP": 70.0}  # the others wait for a stopped process, and the launcher for its end
OTHERS_GONE_S = 10.0
EVERY = [
    (starter, RankFault(kind, rank, place))
    for starter, kind, rank, place in product(STARTERS, KINDS, (0, 1), PLACES)
    if (kind != "launcher killed" or rank == 0)
    # a stopped process costs a minute; with torchrun it is told apart by who is stopped only
    and not (starter == "torchrun" and kind == "SIGSTOP" and place != "all-reduce")
]
FAST = [("train.py", RankFault("SIGKILL", 0, "save"))]


class Run:
    """A training of two processes in `folder`; `fault` goes to one of them."""

    def __init__(self, starter: str, folder: Path, fault: RankFault | None = None) -> None:
        self.folder = folder
        for name in ("fault", "rank0.pid", "rank1.pid"):
            (folder / name).unlink(missing_ok=True)
        env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | (fault.env if fault else {})
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE)])
        command = [sys.executable, *STARTERS[starter], *ARGV["super"][1]]
        self._said = (folder / "said").open("w+")
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=self._said
        )

    @property
    def said(self) -> str:
        self._said.seek(0)
        return self._said.read()

    def left(self) -> list[int]:
        """Return the processes that are alive."""
        ranks = [int(text) for path in self.folder.glob("rank?.pid") if (text := path.read_text())]
        return [pid for pid in (self.process.pid, *ranks) if self._alive(pid)]

    def _alive(self, pid: int) -> bool:
        if pid == self.process.pid:
            return self.process.poll() is None
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
        except OSError:
            return False

    def gone(self, within_s: float) -> float:
        """Wait until the fault has happened and nothing is left of the run; returns the seconds between."""
        started = time.monotonic()
        while not (mark := self.folder / "fault").exists() or not mark.read_text():
            assert self.process.poll() is None, f"ended before the fault: {self.said[-2000:]}"
            assert time.monotonic() - started < 120, "the fault never happened"
            time.sleep(0.02)
        happened = float(mark.read_text())
        while left := self.left():
            seconds = time.time() - happened
            assert seconds < within_s, f"{len(left)} processes are left after {seconds:.0f} s: {self.said}"
            time.sleep(0.05)
        return time.time() - happened

    def close(self) -> None:
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        self._said.close()


@contextmanager
def started(starter: str, folder: Path, fault: RankFault | None = None) -> Iterator[Run]:
    run = Run(starter, folder, fault)
    try:
        yield run
    finally:
        run.close()


def trained(starter: str, folder: Path) -> Path:
    """Train to the end, or go on to it, and return the run folder."""
    with started(starter, folder) as run:
        assert run.process.wait(120) == 0, run.said
        assert not run.left()
    return folder / "run"


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two processes that nothing interrupted."""
    return trained("train.py", copy_of(place, tmp_path_factory.mktemp("ranks") / "whole"))


@pytest.mark.parametrize(
    ("starter", "fault"),
    EVERY if is_full() else FAST,
    ids=lambda value: value if isinstance(value, str) else f"{value.kind} {value.rank} {value.place}",
)
def test_all_end_and_the_run_goes_on_exactly(
    starter: str, fault: RankFault, place: Path, whole: Path, tmp_path: Path
) -> None:
    folder = copy_of(place, tmp_path / "work")
    with Tally(8, f"{fault.kind} under {starter}") as tally, tally.fault():
        with started(starter, folder, fault) as run:
            run.gone(GONE_S.get(fault.kind, OTHERS_GONE_S))
            assert run.process.returncode != 0
            _check_words(run.said, fault)
        checkpoints(folder / "run")  # all readable
        newest = load_newest(folder / "run", lambda text: None)
        saved = newest.state["trainer"]["num_updates"] if newest else 0
        lost = max(0, last_update(folder / "run") - saved)
        assert lost <= (0 if fault.kind in ("SIGTERM", "launcher killed") else SAVE_EVERY)
        tally.lose("updates, made again", lost)
        trained(starter, folder)
        for file in ("checkpoint_last.pt", "checkpoint_best.pt"):
            assert_same(load(folder / "run" / file), load(whole / file))
        assert losses(folder / "run") == losses(whole)
        assert not list((folder / "run").glob(f"*{UNFINISHED}")), "temporary files stay"


def _check_words(said: str, fault: RankFault) -> None:
    """One of the processes, or the launcher, says what happened and what to do."""
    if fault.kind in ("SIGTERM", "launcher killed"):
        assert said.count("and saved; the same command goes on from here") == 1, said
    elif fault.kind == "exception":
        assert "ArithmeticError: injected by a test" in said, said
    else:
        assert "RankError: rank " in said and "un the same command again" in said, said
