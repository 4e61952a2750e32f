"""hat run: what is up to date is skipped, what was stopped goes on, and the table that ends a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hat.cli.options import OutputOptions
from hat.cli.run import Stages, Task, TaskRunOptions, main, text_table
from hat.errors import HatError
from hat.run import Run, read_record, record_path

NUMBERS = ("params", "flops", "constraint_ms", "predicted_ms", "measured_ms", "bleu")
LARGEST = dict(zip(NUMBERS, (1_390_000, 39_000_000, None, 26.97, 24.48, 86.79), strict=True))
LARGEST |= {"name": "largest", "weights": "inherited", "within_limit": None}
FOUND = dict(zip(NUMBERS, (880_000, 22_000_000, 20.0, 18.39, 18.64, 97.54), strict=True))
FOUND |= {"name": "found@20ms", "weights": "trained", "within_limit": True}
PLAIN = """\
model       #Params    FLOPs  limit ms  predicted ms  measured ms   BLEU  weights
-----------------------------------------------------------------------------------
largest      1.39 M  0.039 G                   26.97        24.48  86.79  inherited
found@20ms   0.88 M  0.022 G        20         18.39        18.64  97.54  trained"""
MARKED = """\
found@20ms   0.88 M  0.022 G        20         18.39        20.50  97.54  trained !
! found@20ms measures 20.50 ms, 2.5% above its limit of 20 ms; search under a lower limit, or measure a \
larger latency dataset"""


def test_all_within_their_limits() -> None:
    assert text_table([LARGEST, FOUND]) == PLAIN


def test_one_above_its_limit_is_marked_and_explained() -> None:
    above = FOUND | {"measured_ms": 20.5, "within_limit": False}
    assert text_table([LARGEST, above]).split("\n")[3:] == MARKED.split("\n")


class Book:
    """A task folder whose one stage is started again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran = folder, 0
        self.given, self.made, self.state = (folder / name for name in ("given", "made", "state"))
        self.given.write_text("1")

    def start(self, work: Callable[[], Any] | None = None, **changes: Any) -> Any:
        held = read_record(self.folder, folder=True)
        run = Run(record_path(self.folder), "task", settings={})
        run.results |= held.results

        def function() -> Any:
            self.ran += 1
            self.state.touch()
            self.made.touch()
            return work() if work else {"count": self.ran}

        how = {"settings": {"seed": 1}, "inputs": [self.given], "outputs": [self.made], "state": self.state}
        with run:
            return Stages(run, 3).run("one", function, **(how | changes))

    @property
    def entry(self) -> dict[str, Any]:
        found: dict[str, Any] = read_record(self.folder).results["stages"]["one"]
        return found


def test_a_stage_that_is_up_to_date_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = Book(tmp_path)
    assert book.start() == book.start() == {"count": 1}
    said = capsys.readouterr().out
    assert said == "stage 1 of 3: one\nstage 1 of 3: one: up to date (0 s when it ran)\n"
    book.given.touch()  # the same content
    assert book.start() == {"count": 1}
    book.made.unlink()
    assert book.start() == {"count": 2} and not (tmp_path / "state.old").exists()
    assert book.start(always=True) == {"count": 3}
    book.given.write_text("2")
    assert book.start() == {"count": 4} and book.start(settings={"seed": 2}) == {"count": 5}
    assert (tmp_path / "state.old").exists() and book.entry["spent"]["sittings"] == 1


@pytest.mark.parametrize("error", [HatError("no"), KeyboardInterrupt()])
def test_a_stage_that_failed_goes_on_and_its_costs_add_up(error: BaseException, tmp_path: Path) -> None:
    book = Book(tmp_path)

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        book.start(fail)
    assert book.entry["seconds"] is None
    assert book.start() == {"count": 2} and not (tmp_path / "state.old").exists()
    assert book.entry["spent"]["sittings"] == 2
    for _ in range(3):  # the record of its folder knows sittings that were killed
        with Run(record_path(tmp_path / "made", folder=False), "train", settings={}, threads=2):
            pass
    book.start(always=True, state=None)
    assert book.entry["spent"]["sittings"] == 3 and book.entry["spent"]["threads"] == 2


def test_a_stage_must_make_what_it_is_for(tmp_path: Path) -> None:
    with pytest.raises(HatError, match="stage one ended without making .*absent"):
        Book(tmp_path).start(outputs=[tmp_path / "absent"])


def test_threads_of_a_stage_do_not_stay(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    Book(tmp_path).start(lambda: torch.set_num_threads(before + 1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--task is needed: one of"),
        (["--task=none.en-de"], "there is no task 'none.en-de'"),
        (["--task=toy.en-de", "--hardware=abacus"], "must hold exactly one file abacus.yml, found 0"),
        (["--task=toy.en-de", "--average=0"], "--average must be at least 1"),
    ],
)
def test_what_cannot_be_run_is_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(("hardware", "gpu"), [("cpu_xeon_amx", False), ("gpu_titanxp", True)])
def test_the_device_of_a_task_is_that_of_its_table(hardware: str, gpu: bool, tmp_path: Path) -> None:
    options = TaskRunOptions("iwslt14.de-en", hardware, run_dir=str(tmp_path))
    assert Task(options, quiet=OutputOptions().no_progress_bar).gpu is gpu
