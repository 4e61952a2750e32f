"""python -m benchmarks comparison on a tiny corpus: what is charged, what is taken up, what is printed."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_task import SUB, train_super

from benchmarks import comparison
from benchmarks.comparison import bootstrap, statistics, study
from benchmarks.trainings import Trainings
from hat.run import Run


@pytest.fixture
def argv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a comparison of one found architecture and two made by hand, of which one is too slow."""
    monkeypatch.setattr(comparison, "RUNTIME", "torch")
    monkeypatch.setattr(comparison, "PRECISION", "fp32")
    monkeypatch.setattr(comparison, "PROBE", (1, 2))
    measured = comparison.Study.speeds  # and then taken for the same, whatever the machine does just now
    monkeypatch.setattr(comparison.Study, "speeds", lambda self: dict.fromkeys(measured(self), 0.05))
    source, target = zip(*train_super(tmp_path, 2), strict=True)
    for name, sizes in (("found", [32, 32]), ("hand", [16, 16]), ("slow", [16, 32])):
        own = SUB | {"encoder-ffn-embed-dim-all-subtransformer": sizes}
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(own))
    for name in ("found.yml", "table.csv"):
        with Run(tmp_path / f"{name}.run.json", "search", settings={}):
            pass
    for name, lines in (("test.en", source[:5]), ("test.de", target[:5])):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    times = {
        name: {"ms": ms, "interval_ms": 0.1, "batch_ms": 9 * ms, "batch_interval_ms": 0.1}
        for name, ms in (("found", 4.0), ("hand", 4.5), ("slow", 6.0))
    }
    monkeypatch.setattr(comparison.Study, "latencies", lambda self: times)
    files = [f"--configs={tmp_path}/space.yml", f"--super={tmp_path}/super/checkpoint_best.pt"]
    files += [f"--charged={tmp_path}/table.csv", f"--results={tmp_path}/results", f"--out-dir={tmp_path}/out"]
    files += ["--found", f"{tmp_path}/found.yml", "--by-hand", f"{tmp_path}/hand.yml", f"{tmp_path}/slow.yml"]
    files += [f"--test={tmp_path}/test.en {tmp_path}/test.de", "--limits=5", "--found-minutes=1e-6"]
    return [*files, "--max-tokens=512", "--cpu"]


def test_a_training_that_has_a_line_is_not_made_again(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study([*argv, "--budget"]) == 0
    said = capsys.readouterr().err
    assert "6 of 6 trainings are left" in said
    assert "charged to the found ones together: " in said
    assert study([*argv, "--part=1", "--parts=2"]) == 0
    assert "| shape |" not in capsys.readouterr().out
    assert study(argv) == 0
    captured = capsys.readouterr()
    assert "3 of 6 trainings are left" in captured.err
    rows = [line.split(" | ") for line in captured.out.splitlines() if "%" in line or "x |" in line]
    assert [row[2] for row in rows[1:]] == ["hand", "slow"], "one keeps the limit, one is as good and slower"
    lines = Trainings(tmp_path / "results").lines("comparison bin")
    trained = [line for line in lines.values() if line["bleu"]]
    assert len(trained) == 6 and len(lines) == 6 + 3, "and the time of an update of each shape"
    longer = {int(line["updates"]) for line in trained if line["shape"] != "found"}
    shorter = {int(line["updates"]) for line in trained if line["shape"] == "found"}
    assert min(longer) > max(shorter), "those made by hand get what the search and SuperTransformer cost"
    assert (tmp_path / "results" / "comparison_bin.png").exists()
    assert study([*argv, "--report"]) == 0
    assert capsys.readouterr().out == captured.out
    assert not list((tmp_path / "out").rglob("*.pt"))


def test_the_interval_of_a_gain() -> None:
    """Equal systems gain nothing; one that is right everywhere gains for sure."""
    target = [f"ein Satz mit {n} Wörtern und noch einem Ende" for n in range(40)]
    worse = [line.replace("Satz", "Wort") for line in target]
    right, wrong = ([np.asarray(statistics(lines, target))] for lines in (target, worse))
    assert bootstrap(right, right) == (0, 0, 0, 1)
    gain, low, high, p = bootstrap(right, wrong)
    assert 0 < low <= gain <= high and p == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--limits", "5", "6"], "--found and --limits, one for each"),
        (["--alone", "frob"], "--alone frob: give names of --by-hand"),
        (["--test=none.en none.de"], "none.en of --super or --test does not exist; check the path"),
    ],
)
def test_refusals(
    flags: list[str], message: str, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert study([*argv, *flags]) == 2
    assert message in capsys.readouterr().err


def test_other_weights_are_another_result(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A SuperTransformer that was trained longer has the identity of the shorter run, and other weights."""
    assert study(argv) == 0
    train_super(tmp_path, 3)
    capsys.readouterr()
    assert study([*argv, "--budget"]) == 0
    left = capsys.readouterr().err
    assert "found, seed 1: " in left and "found, seed 2: " in left
