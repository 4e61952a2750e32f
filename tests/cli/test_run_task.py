"""hat run: what is up to date is skipped, what was stopped goes on, and the table that ends a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hat.cli.run import text_table
from hat.cli.stages import Stages
from hat.errors import HatError
from hat.report.collect import Model, Report
from hat.run import Identity, Run, read_record, record_path

NUMBERS = ("params", "flops", "constraint_ms", "predicted_ms", "measured_ms", "bleu")
LARGEST = dict(zip(NUMBERS, (1_390_000, 39_000_000, None, 26.97, 24.48, 86.79), strict=True))
LARGEST |= {"name": "largest", "limit_kept": None, "measured_interval_ms": 0.25, "same_as": None}
FOUND = dict(zip(NUMBERS, (880_000, 22_000_000, 20.0, 18.39, 18.64, 97.54), strict=True))
FOUND |= {"name": "found@20ms", "limit_kept": True, "measured_interval_ms": 0.4, "same_as": None}
for row in (LARGEST, FOUND):
    row["weights"] = "trained"
PLAIN = """\
model       #Params    FLOPs  limit ms  predicted ms  measured ms   BLEU  weights
---------------------------------------------------------------------------------
largest      1.39 M  0.039 G                    27.0  24.5 +- 0.2  86.79  trained
found@20ms   0.88 M  0.022 G        20          18.4  18.6 +- 0.4  97.54  trained
Measured in turns in one process and brought to the speed of the latency table; +- is how far off."""


def test_all_within_their_limits() -> None:
    assert text_table([LARGEST, FOUND]) == PLAIN


@pytest.mark.parametrize(
    ("changes", "mark", "note"),
    [
        ({"measured_ms": 20.5, "limit_kept": False}, "!", "20.5 +- 0.4 ms, 2.5% above its limit of 20 ms;"),
        ({"measured_ms": 20.1, "limit_kept": None}, "?", "20.1 +- 0.4 ms, which may be above or below its"),
        ({"same_as": "found@18ms"}, "=", "and found@18ms are one architecture, trained and measured once"),
    ],
)
def test_what_a_reader_must_know_of_a_row_is_said(changes: dict[str, Any], mark: str, note: str) -> None:
    *_, row, _, last = text_table([LARGEST, FOUND | changes]).split("\n")
    assert row.endswith(f"trained {mark}") and last.startswith(f"{mark} found@20ms") and note in last


@pytest.mark.parametrize(
    ("measured_ms", "kept", "words"),
    [
        (18.0, True, "10.0% below its limit of 20 ms;"),
        (20.0, True, "0.0% below its limit of 20 ms;"),
        (19.75, None, "1.2% below its limit of 20 ms, as far as that can be measured;"),
        (20.25, None, "1.2% above its limit of 20 ms, as far as that can be measured;"),
        (21.0, False, "5.0% above its limit of 20 ms;"),
    ],
)
def test_a_limit_is_kept_missed_or_open(measured_ms: float, kept: bool | None, words: str) -> None:
    models = [Model.of_row(row) for row in (LARGEST, FOUND | {"measured_ms": measured_ms})]
    assert models[1].within_limit is kept
    found = Report("", models).found
    assert words in found and found.endswith("+10.75 BLEU.") and "63% of its parameters" in found


class Book:
    """A task folder whose one stage is started again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran, self.made = folder, 0, folder / "made"
        self.expected_s: dict[str, float] = {}

    def start(
        self, work: Callable[[], Any] | None = None, seed: int = 1, rows: int = 1, **changes: Any
    ) -> Any:
        run = Run(record_path(self.folder), "task", settings={})
        run.results |= read_record(self.folder, folder=True).results

        def function() -> Any:
            self.ran += 1
            self.made.touch()
            return work() if work else {"count": self.ran}

        how: dict[str, Any] = {"outputs": [self.made], "places": [self.made]} | changes
        with run:
            stages = Stages(run, self.folder, ["one", "test a", "test b"])
            stages.expected_s |= self.expected_s
            wanted = Identity("search", {"seed": seed}, lengths={"rows": rows})
            return stages.run("one", function, wanted, **how)

    @property
    def entry(self) -> dict[str, Any]:
        found: dict[str, Any] = read_record(self.folder).results["stages"]["one"]
        return found


def test_a_stage_that_is_up_to_date_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = Book(tmp_path)
    assert book.start() == book.start() == {"count": 1}
    said = capsys.readouterr().out
    assert said == "stage 1 of 3: one\nstage 1 of 3: one: up to date (0 s when it ran)\n"
    book.made.unlink()
    assert book.start() == {"count": 2}
    assert book.start(seed=2) == {"count": 3} and book.start(seed=1) == {"count": 2}
    assert book.entry["spent"]["sittings"] == 1
    capsys.readouterr()
    book.expected_s = {"one": 5.0, "test": 45.0}
    book.start(seed=3)
    assert capsys.readouterr().out.startswith("stage 1 of 3: one (about 1 min 35 s left)\n")


def test_a_longer_run_goes_on_and_keeps_what_was(tmp_path: Path) -> None:
    book = Book(tmp_path)

    def append() -> str:
        book.made.write_text(text := f"{book.made.read_text()}{book.ran}")
        return text

    assert [book.start(append, rows=rows) for rows in (1, 2, 2, 1, 2)] == ["1", "12", "12", "1", "12"]


@pytest.mark.parametrize("error", [HatError("no"), KeyboardInterrupt()])
def test_a_stage_that_failed_goes_on_and_its_costs_add_up(error: BaseException, tmp_path: Path) -> None:
    book = Book(tmp_path)

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        book.start(fail)
    assert book.entry["seconds"] is None
    for _ in range(3):  # the record of its folder knows sittings that were killed
        with Run(record_path(tmp_path / "made", folder=False), "train", settings={}, threads=2):
            pass
    assert book.start() == {"count": 2}
    assert book.entry["spent"]["sittings"] == 3 and book.entry["spent"]["threads"] == 2


def test_a_stage_must_make_what_it_is_for(tmp_path: Path) -> None:
    with pytest.raises(HatError, match="stage one ended without making .*absent"):
        Book(tmp_path).start(outputs=[tmp_path / "absent"])
