"""train.py with every policy and a moving average: resumed, inherited, begun and ended between runs."""

import io
from pathlib import Path

import pytest
import torch
from training import argv_of, kill_and_go_on, last, log_of, sub_argv

from hat.cli.train import main
from hat.train.checkpoint import load

SANDWICH = ["--policy=sandwich", "--ema-decay=0.9"]
DISTILL = ["--policy=sandwich-distill", "--sandwich-random=2", "--fair-sampling", "--ema-decay=0.9"]


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [*DISTILL, "--amp=bf16", "--save-interval-updates=3", "--update-freq=2", "--max-update=8"]
    one, two = kill_and_go_on(files, 4, 3, monkeypatch, *more)
    assert one.master is not None and two.master is not None
    assert all(torch.equal(weight, two.master[name]) for name, weight in one.master.items())
    assert any(not torch.equal(weight, one.weights[name]) for name, weight in one.master.items())


def test_what_is_inherited_is_the_average(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv_of(files, "super", *SANDWICH)) == 0
    argv = sub_argv(files, "sub", f"--restore-file={files}/super/checkpoint_best.pt", "--max-update=1")
    assert main([*argv, "--lr=0", "--warmup-updates=0", *SANDWICH[:1]]) == 0
    assert "the options of --policy are not used" in capsys.readouterr().err
    sub = last(files, "sub")
    assert sub.master is None and sub.arch is not None
    for name, weight in load(files / "super" / "checkpoint_best.pt").sub(sub.arch).named_parameters():
        assert torch.equal(sub.weights[name], weight), name
    # what the run validated is what is saved for others: one architecture, scored again from the file
    argv = [arg for arg in sub_argv(files, "none") if arg != "--train-subtransformer"]
    capsys.readouterr()
    assert main([*argv, "--validate-subtransformer", f"--restore-file={files}/sub/checkpoint_last.pt"]) == 0
    trained = log_of(files / "sub", "valid")[-1]["sub_loss_base2"]
    assert f"validation loss {trained:.4f}"[:-1] in capsys.readouterr().out


def test_an_average_may_begin_and_end_between_runs(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint without one is of format 1, which every version reads; one with it goes on from both."""

    def trained(run: str, *more: str) -> tuple[dict, str]:
        capsys.readouterr()
        assert main(argv_of(files, run, *more)) == 0
        content = (files / run / "checkpoint_last.pt").read_bytes()
        return torch.load(io.BytesIO(content), weights_only=True), capsys.readouterr().err

    content, _ = trained("run", "--max-update=4")
    assert content["hat_format"] == 1 and "master" not in content
    content, said = trained("run", "--max-update=8", "--ema-decay=0.9", "--reset-meters")
    assert "from here on under other settings: ema-decay 0.0 -> 0.9" in said
    assert content["hat_format"] == 2
    master = content["master"]
    content, _ = trained("run", "--max-update=9", "--lr=0", "--warmup-updates=0", "--reset-meters")
    assert content["hat_format"] == 1
    assert all(torch.equal(weight, master[name]) for name, weight in content["weights"].items())
    # nothing of it touches what is trained
    for most in (4, 8):
        content, _ = trained("plain", f"--max-update={most}")
    assert all(torch.equal(weight, master[name]) for name, weight in content["weights"].items())
