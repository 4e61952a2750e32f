"""What the tests of training from the command line share: argument lists, children, logs, refusals."""

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_task import SPACE as TINY
from tiny_task import assert_same

from hat.cli.data import preprocess
from hat.cli.train import main
from hat.data.toy import toy_pairs
from hat.train.checkpoint import Checkpoint, load
from hat.train.trainer import Trainer

ROOT = Path(__file__).parents[2]
SPACE = TINY | {"attention-dropout": 0.1, "max-update": 12, "log-interval": 5}


class Killed(BaseException):
    """Ends a run as a kill does: no handler saves anything."""


def stop_before(update: int, monkeypatch: pytest.MonkeyPatch, how: Callable[[], None]) -> None:
    """Let `how` happen in the training step after `update` updates."""
    real = Trainer.train_step

    def step(self: Trainer, *args: object) -> object:
        if self.num_updates == update:
            how()
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train_step", step)


def kill_and_go_on(
    files: Path, update: int, saved: int, monkeypatch: pytest.MonkeyPatch, *more: str
) -> tuple[Checkpoint, Checkpoint]:
    """Train with a kill before `update`, go on, train without; returns the last checkpoints of both."""

    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_before(update, patch, kill)
        main(argv_of(files, "killed", *more))
    state = last(files, "killed").state
    assert state["trainer"]["num_updates"] == saved and state["progress"]["offset"] > 0, "within an epoch"
    torch.manual_seed(123)
    for name in ("killed", "whole"):
        assert main(argv_of(files, name, *more)) == 0
    return assert_same_run(files, "killed", "whole")


def binarise(folder: Path, seed: int, count: int) -> Path:
    """Return the binary data of toy pairs, made in `folder`."""
    pairs = toy_pairs(seed, count + 20)
    for split, part in (("train", pairs[:count]), ("valid", pairs[count:])):
        for side, lang in enumerate(("en", "de")):
            lines = [pair[side] for pair in part]
            (folder / f"{split}.{lang}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    argv = ["--source-lang", "en", "--target-lang", "de", "--joined-dictionary", "--thresholdsrc", "2"]
    argv += ["--trainpref", str(folder / "train"), "--validpref", str(folder / "valid")]
    assert preprocess([*argv, "--destdir", str(folder / "bin")]) == 0
    return folder / "bin"


def argv_of(files: Path, save_dir: str, *more: str) -> list[str]:
    """Return the arguments that train the SuperTransformer."""
    return [f"--configs={files / 'space.yml'}", f"--save-dir={files / save_dir}", *more]


def sub_argv(files: Path, save_dir: str, *more: str) -> list[str]:
    """Return the arguments that train the SubTransformer."""
    configs = [f"--configs={files / 'sub.yml'}", f"--sub-configs={files / 'space.yml'}"]
    return [*configs, f"--save-dir={files / save_dir}", "--train-subtransformer", *more]


def last(files: Path, run: str) -> Checkpoint:
    """Return the last checkpoint of a run."""
    return load(files / run / "checkpoint_last.pt")


def updates(files: Path, run: str) -> int:
    """Return the updates of the last checkpoint of a run."""
    return last(files, run).state["trainer"]["num_updates"]


def log_of(folder: Path, kind: str) -> list[dict]:
    """Return the records of one kind in the log of a run."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def assert_same_run(files: Path, *runs: str) -> tuple[Checkpoint, Checkpoint]:
    """The last checkpoints of two runs hold the same weights and the same state; returns them."""
    one, other = (last(files, run) for run in runs)
    assert_same(one, other)
    return one, other


def loaded_by(main: str, argv: list[str]) -> list[str]:
    """Return the modules of hat that a command loads, run in a fork of this process that has forgotten them.

    `main` is written as "module:function"; matplotlib is not installed there.
    """
    source, sink = os.pipe()
    other = os.fork()
    if other == 0:
        try:
            for name in [name for name in sys.modules if name.partition(".")[0] == "hat"]:
                del sys.modules[name]
            sys.modules["matplotlib"] = None  # type: ignore[assignment]
            module, _, function = main.partition(":")
            assert getattr(importlib.import_module(module), function)(argv) == 0
            os.write(sink, " ".join(name for name in sys.modules if name.startswith("hat.")).encode())
        finally:
            os._exit(0)
    os.close(sink)
    with open(source, encoding="ascii") as answer:
        loaded = answer.read().split()
    os.waitpid(other, 0)
    return loaded


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run and return the one line of the refusal."""
    capsys.readouterr()
    assert main(argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "Error: " in line]
    assert len(lines) == 1
    return lines[0]
