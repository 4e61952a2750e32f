"""Notice a dead or stopped process of a run, whatever the others are waiting for."""

import os
import signal
import sys
import threading
from typing import Protocol

import torch
import torch.distributed as dist

BEAT_S = 2.0
SILENCE_S = 25.0  # a process that is silent for so long counts as lost
_GRACE_S = 5.0  # for the main thread to leave by itself, for example to finish writing


class _Place(Protocol):
    @property
    def size(self) -> int: ...
    @property
    def launcher(self) -> int | None: ...


class Heartbeat:
    """A thread that meets those of the other ranks every few seconds in a group of its own.

    Collectives of the training wait long, because a rank may be busy (writing a large checkpoint to a slow
    disk, say); NCCL does not even notice that a peer was killed. The beats go on while the main
    thread is busy and end when the process is killed or stopped. Where they end, this process says `message`
    (if any) and ends with `code`, after a grace in which the main thread may raise the error itself.
    Where its launcher has died, it sends itself SIGTERM.
    """

    def __init__(self, group: "dist.ProcessGroup", place: _Place, message: str, code: int) -> None:
        self._group, self._place = group, place
        self._message, self._code = message, code
        self._wake, self._ended = threading.Event(), threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start beating."""
        self._thread.start()

    def end(self, *, failed: bool) -> None:
        """Stop beating: in order, once every rank has ended, or at the next beat where this one failed."""
        self._failed = failed
        self._ended.set()
        self._wake.set()
        self._thread.join(1.5 * BEAT_S if failed else None)

    def _run(self) -> None:
        orphan = False
        while True:
            self._wake.wait(BEAT_S)
            counts = torch.tensor([self._wake.is_set(), self._failed], dtype=torch.int64)
            try:
                dist.all_reduce(counts, group=self._group)
            except RuntimeError:
                break
            ended, failed = counts.tolist()
            if ended == self._place.size and not failed:
                return
            if failed:
                break
            if self._place.launcher not in (None, os.getppid()) and not orphan:
                orphan = True
                os.kill(os.getpid(), signal.SIGTERM)
        if not self._ended.wait(_GRACE_S):
            if self._message:
                print(self._message, file=sys.stderr, flush=True)
            os._exit(self._code)
