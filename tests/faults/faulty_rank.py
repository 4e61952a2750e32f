"""One process of a training of several, with a fault at a place of one update; started by a launcher.

The environment names the fault (`RankFault.env`). Each process notes its id in `rank{r}.pid`, the one that is
hit the moment in `fault`, both in the working folder.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

import hat.train.checkpoint
import hat.train.distributed
import hat.train.trainer
from hat.cli.train import main as train
from hat.train.distributed import ProcessGroup, place_of
from hat.train.trainer import Trainer

PLACES = ("forward", "all-reduce", "save")
KINDS = ("SIGKILL", "SIGSTOP", "SIGTERM", "exception", "launcher killed")
VARIABLE = "HAT_TEST_RANK_FAULT"
UPDATE = 5  # in whose forward pass or reduction it happens, or behind which it happens in a save


@dataclass(frozen=True)
class RankFault:
    """What happens to which rank, and where."""

    kind: str
    rank: int
    place: str

    @property
    def env(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    def happen(self) -> None:
        Path("fault").write_text(repr(time.time()))
        if self.kind == "exception":
            raise ArithmeticError("injected by a test")
        if self.kind == "launcher killed":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(4)  # this task is trained in less time than it takes to notice
        else:
            os.kill(os.getpid(), getattr(signal, self.kind))


class Injection:
    """Waits for the place of a fault in this process, which is the rank it is for."""

    def __init__(self, fault: RankFault) -> None:
        self._fault, self._update = fault, 0
        self._wrap(Trainer, "train_step", self._step)
        if fault.place == "forward":
            self._wrap(hat.train.trainer, "smoothed_loss", self._forward)
        elif fault.place == "all-reduce":
            self._wrap(dist, "all_reduce", self._reduce)
        elif fault.rank == 0:
            self._wrap(hat.train.checkpoint, "write_with_digest", self._write)
        else:
            self._wrap(ProcessGroup, "on_rank0", self._wait_for_first)

    @staticmethod
    def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
        real = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: around(real, *args, **kwargs))

    def _happen(self) -> None:
        self._update = -1  # once
        self._fault.happen()

    def _step(self, real: Callable[..., Any], trainer: Trainer, *args: Any) -> Any:
        if self._update >= 0:
            self._update = trainer.num_updates + 1
        return real(trainer, *args)

    def _forward(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        if self._update == UPDATE:
            self._happen()  # between the forward pass and the backward one
        return found

    def _reduce(self, real: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
        if self._update != UPDATE or x.numel() < 1000:  # counts and heartbeats are small
            return real(x, *args, **kwargs)
        work = real(x, *args, async_op=True, **kwargs)
        self._happen()  # the others are in it
        return work.wait()

    def _write(self, real: Callable[..., Any], path: Path, content: bytes) -> Any:
        if self._update < UPDATE:
            return real(path, content)
        fsync = os.fsync

        def sync(fd: int) -> None:
            fsync(fd)
            if self._update >= UPDATE:
                self._happen()

        os.fsync = sync  # type: ignore[assignment]
        try:
            return real(path, content)
        finally:
            os.fsync = fsync  # type: ignore[assignment]

    def _wait_for_first(self, real: Callable[..., Any], ranks: ProcessGroup, work: Callable[[], Any]) -> Any:
        if self._update >= UPDATE:
            self._happen()  # rank 0 is writing
        return real(ranks, work)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as `train.py` does, with the fault of the environment, if any."""
    place = place_of(os.environ)
    assert place is not None and place.size == 2
    hat.train.distributed.PATIENCE = timedelta(seconds=20)  # with a stopped process
    Path(f"rank{place.rank}.pid").write_text(str(os.getpid()))
    if VARIABLE in os.environ:
        fault = RankFault(**json.loads(os.environ[VARIABLE]))
        if fault.rank == place.rank:
            Injection(fault)
    return train(argv)


if __name__ == "__main__":
    raise SystemExit(main())
