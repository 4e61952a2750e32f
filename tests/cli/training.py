"""What the tests of training from the command line share: argument lists, children, logs, refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_task import SPACE as TINY
from tiny_task import assert_same

from hat.cli.data import preprocess
from hat.cli.train import main
from hat.data.toy import toy_pairs
from hat.train.checkpoint import load

ROOT = Path(__file__).parents[2]
SPACE = TINY | {"attention-dropout": 0.1, "max-update": 12, "log-interval": 5}
KILLED = """
import os, signal, sys
from hat.train.trainer import Trainer
real = Trainer.train_step
def step(self, *args):
    if self.num_updates == {update}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *args)
Trainer.train_step = step
from hat.cli.train import main
raise SystemExit(main(sys.argv[1:]))
"""


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
    first, second = files / "sub.yml", files / "space.yml"
    argv = [f"--configs={first}", f"--sub-configs={second}", f"--save-dir={files / save_dir}"]
    return [*argv, "--train-subtransformer", *more]


def log_of(folder: Path, kind: str) -> list[dict]:
    """Return the records of one kind in the log of a run."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def assert_same_run(one: Path, other: Path) -> None:
    """Two checkpoints hold the same weights and the same state."""
    assert_same(load(one), load(other))


def child(code: list[str], argv: list[str]) -> subprocess.Popen:
    """Start a command in a process of its own."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *code, *argv], cwd=ROOT, env=env, stdout=pipe, stderr=pipe)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run and return the one line of the refusal."""
    capsys.readouterr()
    assert main(argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "Error: " in line]
    assert len(lines) == 1
    return lines[0]
