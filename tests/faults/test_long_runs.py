"""Row 10: numbers that are not finite, and memory over thousands of updates and decodes."""

from pathlib import Path

import pytest
import torch
from commands import Run, assert_refused, copy_of
from tally import Tally, count
from tiny_task import assert_same

from hat.data.pairs import PairDataset
from hat.decode.beam import BeamConfig
from hat.decode.translator import translate
from hat.model.inference import InferenceModel
from hat.train.checkpoint import load
from hat.train.trainer import OptimConfig, ScheduleConfig, Trainer


@pytest.mark.parametrize("amp", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_loss_that_is_not_finite(amp: str, run: Run, place: Path, tmp_path: Path) -> None:
    burst = ["--lr=1e30", "--warmup-updates=0", "--lr-scheduler=fixed", "--clip-norm=0"]
    with Tally(10, "a loss that is not finite") as tally, tally.fault():
        work = copy_of(place, tmp_path / "work")
        assert run("super", work, None, f"--amp={amp}", "--max-update=4").code == 0
        before = load(work / "run" / "checkpoint_last.pt")
        start = "--restore-file=run/checkpoint_last.pt"
        done = run("super", work, None, f"--amp={amp}", *burst, "--save-dir=burst", start)
        assert_refused(done, "no weight was changed", "Lower --lr")
        assert_same(load(work / "run" / "checkpoint_last.pt"), before)
        for path in work.glob("*/*.pt"):
            assert all(bool(weight.isfinite().all()) for weight in load(path).weights.values())
        done = run("super", work, None, f"--amp={amp}")
        assert done.code == 0 and "resumed run at update 4" in done.err, done.err


def trainer_of(place: Path) -> Trainer:
    optim, schedule = OptimConfig(clip_norm=1.0), ScheduleConfig("fixed", lr=1e-3)
    model, cpu = load(place / "start.pt").model(), torch.device("cpu")
    return Trainer(model, optim, schedule, dtype=torch.float32, device=cpu, seed=1)


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["updates", "decodes"])
def test_memory_stays_flat(what: str, place: Path) -> None:
    """Resident memory of the last tenth against that after the first fifth: at most 5% more."""
    number, pages = count(300, 4000), list[int]()
    data, arch = PairDataset.load(place / "bin", "train"), load(place / "start.pt").space.largest()
    trainer = trainer_of(place)
    model = InferenceModel(load(place / "start.pt").model().eval(), arch)
    with Tally(10, f"{what} in one process") as tally:
        while len(pages) < number:
            if what == "updates":
                trainer.train_step([data.batch(range(len(pages) % 90, len(pages) % 90 + 8))], arch)
                pages.append(resident_pages())
            else:
                for _ in translate(model, data, BeamConfig(beam=5, max_len_b=10), batch_size=1):
                    pages.append(resident_pages())
        tally.injected += len(pages)
        early, late = max(pages[: len(pages) // 5]), max(pages[-(len(pages) // 10) :])
        assert late < 1.05 * early
        tally.survived += len(pages)
