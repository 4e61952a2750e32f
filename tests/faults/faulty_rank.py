"""One process of a training of several, with a fault at a place of one update; started by a launcher.

The environment names kind, rank and place of the fault. Each process notes its id in `rank{r}.pid`, the one
that is hit the moment in `fault`, both in the working folder.
"""

import os
import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed

import hat.train.distributed
import hat.train.trainer
from hat.cli.train import main as train
from hat.train.distributed import ProcessGroup, place_of

PLACES: dict[str, tuple[Any, str, int]] = {  # owner and name of a function, and in which call of it
    "forward": (hat.train.trainer, "smoothed_loss", 5),
    "all-reduce": (torch.distributed, "all_reduce", 15),
    "save": (os, "fsync", 12),  # by rank 0
    "wait": (ProcessGroup, "on_rank0", 3),  # while rank 0 saves
}
KINDS = ("SIGKILL", "SIGSTOP", "SIGTERM", "exception", "launcher killed")
VARIABLE = "HAT_TEST_RANK_FAULT"


def happen(kind: str) -> None:
    Path("fault").write_text(repr(time.time()))
    if kind == "exception":
        raise ArithmeticError("injected by a test")
    if kind == "launcher killed":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(4)  # this task is trained in less time than it takes to notice
    else:
        os.kill(os.getpid(), getattr(signal, kind))


def inject(kind: str, place: str) -> None:
    """Let the fault happen in one call of a function."""
    owner, name, at = PLACES[place]
    real, calls = getattr(owner, name), 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            happen(kind)
        return real(*args, **kwargs)

    setattr(owner, name, call)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as `train.py` does, with the fault of the environment, if any."""
    own = place_of(os.environ)
    assert own is not None and own.size == 2
    hat.train.distributed.PATIENCE = timedelta(seconds=20)  # with a stopped process
    Path(f"rank{own.rank}.pid").write_text(str(os.getpid()))
    kind, rank, place = os.environ.get(VARIABLE, "none,-1,").split(",")
    if own.rank == int(rank):
        inject(kind, place)
    return train(argv)


if __name__ == "__main__":
    raise SystemExit(main())
