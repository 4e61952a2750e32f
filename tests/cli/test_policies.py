"""train.py with every policy and a moving average: resumed, inherited, between processes."""

import io
from pathlib import Path

import pytest
import torch
from training import (
    argv_of,
    kill_and_go_on,
    log_of,
    sub_argv,
)

from hat.cli.train import main
from hat.train.checkpoint import load

SANDWICH = ["--policy=sandwich", "--ema-decay=0.9"]
DISTILL = ["--policy=sandwich-distill", "--sandwich-random=2", "--fair-sampling", "--ema-decay=0.9"]


@pytest.mark.parametrize("policy", [SANDWICH, [*DISTILL, "--amp=bf16"]])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    policy: list[str], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [*policy, "--save-interval-updates=3", "--update-freq=2", "--max-update=12"]
    first, second = kill_and_go_on(files, 4, 3, monkeypatch, *more)
    one, two = load(first).master, load(second).master
    assert one is not None and two is not None
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())
    assert any(not torch.equal(weight, load(first).weights[name]) for name, weight in one.items())


def test_what_is_inherited_is_the_average(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv_of(files, "super", *SANDWICH)) == 0
    whole = load(files / "super" / "checkpoint_best.pt")
    argv = sub_argv(files, "sub", f"--restore-file={files}/super/checkpoint_best.pt", "--max-update=1")
    assert main([*argv, "--lr=0", "--warmup-updates=0"]) == 0
    sub = load(files / "sub" / "checkpoint_last.pt")
    assert sub.master is None and sub.arch is not None
    for name, weight in whole.sub(sub.arch).named_parameters():
        assert torch.equal(sub.weights[name], weight), name
    # what the run validated is what is saved for others: one architecture, scored again from the file
    argv = [arg for arg in sub_argv(files, "none") if arg != "--train-subtransformer"]
    capsys.readouterr()
    assert main([*argv, "--validate-subtransformer", f"--restore-file={files}/sub/checkpoint_last.pt"]) == 0
    trained = log_of(files / "sub", "valid")[-1]["sub_loss_base2"]
    assert f"validation loss {trained:.4f}"[:-1] in capsys.readouterr().out


def test_an_average_may_begin_and_end_between_runs(files: Path) -> None:
    """A checkpoint without one is of format 1, which every version reads; one with it goes on from both."""
    last = files / "run" / "checkpoint_last.pt"

    def content() -> dict:
        return torch.load(io.BytesIO(last.read_bytes()), weights_only=True)

    assert main(argv_of(files, "run", "--max-update=4")) == 0
    assert content()["hat_format"] == 1 and "master" not in content()
    assert main(argv_of(files, "run", "--max-update=8", "--ema-decay=0.9")) == 0
    assert content()["hat_format"] == 2
    master = content()["master"]
    assert main(argv_of(files, "run", "--max-update=8")) == 0, "finished"
    assert main(argv_of(files, "run", "--max-update=9", "--lr=0", "--warmup-updates=0")) == 0
    assert content()["hat_format"] == 1
    assert all(torch.equal(weight, master[name]) for name, weight in content()["weights"].items())
    # nothing of it touches what is trained
    assert main(argv_of(files, "plain", "--max-update=4")) == 0
    assert main(argv_of(files, "plain", "--max-update=8")) == 0
    plain = load(files / "plain" / "checkpoint_last.pt").weights
    assert all(torch.equal(weight, master[name]) for name, weight in plain.items())


def test_what_does_not_count_and_what_changes_is_said(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--policy=sandwich", "--sandwich-random=3", "--max-update=1"]
    assert main(sub_argv(files, "sub", *more)) == 0
    assert "the options of --policy are not used" in capsys.readouterr().err
    assert main(argv_of(files, "mixed", "--max-update=2")) == 0
    assert "not used" not in capsys.readouterr().err
    assert main(argv_of(files, "mixed", "--max-update=3")) == 0
    assert "trained with" not in capsys.readouterr().err
    assert main(argv_of(files, "mixed", *DISTILL, "--max-update=4")) == 0
    said = capsys.readouterr().err
    assert (
        "until now this run was trained with --policy single, --fair-sampling False, --ema-decay 0.0; "
        "it goes on with --policy sandwich-distill, --fair-sampling True, --sandwich-random 2, "
        "--distill-share 1.0, --ema-decay 0.9"
    ) in said
