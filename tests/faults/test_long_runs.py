"""Row 10: told to end, numbers that are not finite, and memory over thousands of updates and decodes."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forks import ROOT, Fault, Forks, Result
from tally import Tally, count
from tiny_task import assert_same
from workplace import ARGV, checkpoints, copy_of

from hat.files.journal import Journal
from hat.latency.table import read_table
from hat.train.checkpoint import load

SIGNALS = {15: 143, 2: 130}


@pytest.mark.parametrize("name", ["super", "sub", "collect", "search"])
def test_sigterm_and_ctrl_c_save_and_leave(name: str, forks: Forks, place: Path, tmp_path: Path) -> None:
    """At counted calls, half of them within a save, and the same command ends as if nothing had come."""
    command, argv = ARGV[name]
    whole = copy_of(place, tmp_path / "whole")
    done = forks.run(command, argv, whole)
    points = len(done.points)
    rng = random.Random(name)
    with Tally(10, f"SIGTERM and SIGINT in {name}") as tally:
        for turn in range(count(1, 20)):
            number = (15, 2)[(turn + len(name)) % 2]
            at = rng.randrange(points // 8, points)
            with tally.fault():
                work = copy_of(place, tmp_path / "work")
                done = forks.run(command, argv, work, Fault(at=at, signal=number))
                where = f"signal {number} at point {at} of {points}: {done.code} {done.err[-300:]}"
                assert done.code == SIGNALS[number], where
                assert done.seconds < 10 and "Traceback" not in done.err, where
                assert "same command" in done.err, where
                assert not list(work.rglob("*.unfinished")), where
                again = forks.run(command, argv, work)
                assert again.code == 0, again.err
                _assert_ended_alike(name, work / "run", whole / "run")


def _assert_ended_alike(name: str, run: Path, whole: Path) -> None:
    if name in ("super", "sub"):
        assert_same(load(run / "checkpoint_last.pt"), load(whole / "checkpoint_last.pt"))
        assert_same(load(run / "checkpoint_best.pt"), load(whole / "checkpoint_best.pt"))
    elif name == "collect":
        rows = [[row.arch for row in read_table(folder / "rows.csv")] for folder in (run, whole)]
        assert rows[0] == rows[1]
    else:
        with Journal(run / "journal.jsonl") as one, Journal(whole / "journal.jsonl") as other:
            assert one.records == other.records


def test_a_loss_that_is_not_finite(forks: Forks, place: Path, tmp_path: Path) -> None:
    command, argv = ARGV["super"]
    with Tally(10, "a loss that is not finite") as tally:
        for amp in ("fp32", "bf16")[: count(1, 2)]:
            with tally.fault():
                work = copy_of(place, tmp_path / amp)
                argv = [*ARGV["super"][1], f"--amp={amp}"]
                assert forks.run(command, [*argv, "--max-update=4"], work).code == 0
                before = load(work / "run" / "checkpoint_last.pt")
                burst = ["--lr=1e30", "--warmup-updates=0", "--lr-scheduler=fixed", "--clip-norm=0"]
                done = forks.run(command, [*argv, *burst], work)
                _assert_said(done)
                assert_same(load(work / "run" / "checkpoint_last.pt"), before)
                assert all(
                    bool(weight.isfinite().all())
                    for checkpoint in checkpoints(work / "run")
                    for weight in checkpoint.weights.values()
                )
                done = forks.run(command, argv, work)
                assert done.code == 0 and "resumed run at update 4" in done.err, done.err


def _assert_said(done: Result) -> None:
    lines = [line for line in done.err.splitlines() if "Error: " in line]
    assert done.code == 2 and len(lines) == 1 and "Traceback" not in done.err, done.err
    assert "no weight was changed" in lines[0] and "Lower --lr" in lines[0], lines[0]


@pytest.mark.parametrize("size", [1e12, float("inf"), float("nan")])
def test_an_exploding_gradient(size: float, place: Path) -> None:
    """A huge one is clipped, one that is not finite is refused before any weight changes."""
    from hat.data.pairs import PairDataset
    from hat.errors import TrainingError
    from hat.train.policy import ScheduleConfig
    from hat.train.trainer import OptimConfig, Trainer

    start = load(place / "start.pt")
    model = start.model()
    optim, schedule = OptimConfig(clip_norm=1.0), ScheduleConfig("fixed", lr=1e-3)
    trainer = Trainer(model, optim, schedule, dtype=torch.float32, device=torch.device("cpu"), seed=1)
    data = PairDataset.load(str(place / "bin"), "train", "en", "de")
    batch, arch = data.batch(range(8)), start.space.largest()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    hook = model.source_embed.weight.register_hook(lambda grad: grad * size)
    with Tally(10, "an exploding gradient") as tally, tally.fault():
        if size == 1e12:
            assert trainer.train_step([batch], arch).grad_norm > 1e9
            moved = max(float((w.detach() - before[n]).abs().max()) for n, w in model.named_parameters())
            assert 0 < moved < 0.01
        else:
            with pytest.raises(TrainingError, match=r"the gradient norm is .* no weight was changed"):
                trainer.train_step([batch], arch)
            assert all(torch.equal(w, before[n]) for n, w in model.named_parameters())
        hook.remove()
        assert trainer.train_step([batch], arch).grad_norm < 1e3


MEMORY = """
import sys
from pathlib import Path
import torch
import hat.log
seen = []
def look():
    seen.append(int(Path("/proc/self/statm").read_text().split()[1]))
"""
UPDATES = """
hat.log.RunLog.advance = lambda self, done, **shown: look()
from hat.cli.train import main
assert main(sys.argv[2:]) == 0
print(seen)
"""
DECODES = """
torch.set_num_threads(1)
from hat.data.pairs import PairDataset
from hat.decode.beam import BeamConfig
from hat.decode.generate import translate
from hat.model.inference import InferenceModel
from hat.train.checkpoint import load
model = InferenceModel(load(Path("start.pt")).model().eval(), load(Path("start.pt")).space.largest())
data = PairDataset.load("bin", "train", "en", "de")
while len(seen) < int(sys.argv[1]):
    for batch in translate(model, data, BeamConfig(beam=5, max_len_b=10), batch_size=1):
        look()
print(seen)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["updates", "decodes"])
def test_memory_stays_flat(what: str, place: Path, tmp_path: Path) -> None:
    """Resident memory of the last tenth against that after the first fifth: at most 5% more."""
    number = count(300, 2000) if what == "updates" else count(900, 5000)
    work = copy_of(place, tmp_path / "work")
    more = [f"--max-update={number}", "--log-interval=100", f"--save-interval-updates={number // 5}"]
    more += ["--keep-interval-updates=2", "--keep-last-epochs=2", "--save-interval=50"]
    argv = [*ARGV["super"][1], *more, "--validate-interval=50"] if what == "updates" else []
    code = MEMORY + (UPDATES if what == "updates" else DECODES)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with Tally(10, f"{what} in one process") as tally:
        command = [sys.executable, "-c", code, str(number), *argv]
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        pages = json.loads(done.stdout.split("\n")[-2])
        tally.injected += len(pages)
        early, late = max(pages[: len(pages) // 5]), max(pages[-(len(pages) // 10) :])
        assert len(pages) >= number and late < 1.05 * early
        tally.survived += len(pages)
