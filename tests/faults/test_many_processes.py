"""Row 8: one of two processes is killed, stopped, asked to leave or fails; or their launcher is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import pytest
from commands import COMMANDS, SAVE_EVERY, copy_of, log, products
from faulty_rank import KINDS, VARIABLE
from forks import HERE, ROOT
from tally import Tally

pytestmark = pytest.mark.slow  # each run imports torch three times

LAUNCH = "from hat.train.distributed import launch; raise SystemExit(launch('faulty_rank', None, 2, None))"
STARTERS = {
    "train.py": ["-c", LAUNCH],
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node=2", str(HERE / "faulty_rank.py")],
}
GONE_S = {"SIGSTOP": 70.0}  # the others wait for a stopped process, and the launcher for its end
OTHERS_GONE_S = 10.0
WHERE = [(0, "save"), (0, "all-reduce"), (1, "wait"), (1, "forward"), (1, "all-reduce")]
FAULTS = [
    (starter, kind, rank, place)
    for starter, kind, (rank, place) in product(STARTERS, KINDS, WHERE)
    if (kind != "launcher killed" or rank == 0) and (starter == "train.py" or place == "all-reduce")
]


class Training:
    """A training of two processes in `folder`; a fault ("kind,rank,place") goes to one of them."""

    def __init__(self, starter: str, folder: Path, fault: str) -> None:
        self.folder = folder
        for name in ("fault", "rank0.pid", "rank1.pid"):
            (folder / name).unlink(missing_ok=True)
        env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        env |= {"PYTHONPATH": f"{ROOT}:{HERE}"} | ({VARIABLE: fault} if fault else {})
        command = [sys.executable, *STARTERS[starter], *COMMANDS["super"].line.split()[1:]]
        with open(folder / "said", "w") as said:
            self.process = subprocess.Popen(
                command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=said
            )

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    def left(self) -> list[int]:
        """Return the processes that are alive."""
        found = [self.process.pid] if self.process.poll() is None else []
        for path in self.folder.glob("rank?.pid"):
            with suppress(OSError, ValueError):
                pid = int(path.read_text())
                state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
                found += [pid] if state != "Z" else []
        return found

    def gone(self, within_s: float) -> None:
        """Wait until the fault has happened and nothing is left of the run."""
        started, mark = time.monotonic(), self.folder / "fault"
        while not mark.exists() or not mark.read_text():
            assert self.process.poll() is None, f"ended before the fault: {self.said[-2000:]}"
            assert time.monotonic() - started < 120, "the fault never happened"
            time.sleep(0.02)
        while left := self.left():
            seconds = time.time() - float(mark.read_text())
            assert seconds < within_s, f"{len(left)} processes are left after {seconds:.0f} s: {self.said}"
            time.sleep(0.05)


@contextmanager
def training(starter: str, folder: Path, fault: str = "") -> Iterator[Training]:
    run = Training(starter, folder, fault)
    try:
        yield run
    finally:
        for pid in run.left():
            os.kill(pid, signal.SIGKILL)
        run.process.wait(10)


def trained(starter: str, folder: Path) -> dict:
    """Train to the end, or go on to it, and return the products."""
    with training(starter, folder) as run:
        assert run.process.wait(120) == 0, run.said
        assert not run.left()
    return products(folder)


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What two processes make that nothing interrupted."""
    return trained("train.py", copy_of(place, tmp_path_factory.mktemp("ranks") / "whole"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize(("starter", "kind", "rank", "where"), FAULTS)
def test_all_end_and_the_run_goes_on_exactly(
    starter: str, kind: str, rank: int, where: str, place: Path, whole: dict, tmp_path: Path
) -> None:
    folder = copy_of(place, tmp_path / "work")
    with Tally(8, f"{kind} under {starter}") as tally, tally.fault():
        with training(starter, folder, f"{kind},{rank},{where}") as run:
            run.gone(GONE_S.get(kind, OTHERS_GONE_S))
            assert run.process.returncode != 0
            if kind in ("SIGTERM", "launcher killed"):
                assert run.said.count("and saved; the same command goes on from here") == 1, run.said
            elif kind == "exception":
                assert "ArithmeticError: injected by a test" in run.said, run.said
            else:
                assert "RankError: rank " in run.said and "un the same command again" in run.said, run.said
        saved = len(COMMANDS["super"].held(folder / "run"))
        lost = max([0, *(line["update"] - saved for line in log(folder / "run"))])
        assert lost <= (0 if kind in ("SIGTERM", "launcher killed") else SAVE_EVERY)
        tally.lose("updates, made again", lost)
        assert trained(starter, folder) == whole
        assert not list(folder.rglob("*.unfinished"))
