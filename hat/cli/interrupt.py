"""SIGTERM, SIGHUP and Ctrl-C ask a long run to save and end; a second one ends it at once."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from hat.files.atomic import held_locks

_ECHO_S = 1.0  # torchrun passes a Ctrl-C on that the terminal has sent to every process already
_ENDING = (signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal or the ssh connection has closed


class Interrupt:
    """In the block a signal only sets `asked`, which the run looks at; one that is ignored stays so."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._asked_s = 0.0

    def __enter__(self) -> "Interrupt":
        heeded = [n for n in (*_ENDING, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked is None:
            self.asked, self._asked_s = number, now
        elif now - self._asked_s > _ECHO_S:
            raise KeyboardInterrupt


GRACE_S = 6.0  # a command that was asked to end has so long


def run_group(command: Sequence[str], **how: Any) -> tuple[int, str]:
    """Run a command with all it starts and return its exit code and what it printed, if that is a pipe. A
    signal that ends this process is passed on to all of them; a second one, or `GRACE_S`, kills what is left.
    They share the locks of this process, should it be killed.
    """
    with Interrupt() as interrupt:  # a signal while the process starts would leave it behind
        process = subprocess.Popen(command, text=True, start_new_session=True, pass_fds=held_locks(), **how)
    try:
        if interrupt.asked is not None:
            raise KeyboardInterrupt(interrupt.asked)
        said, _ = process.communicate()
        return process.returncode, said or ""
    except BaseException as ended:
        number = ended.args[0] if isinstance(ended, KeyboardInterrupt) and ended.args else signal.SIGINT
        with contextlib.suppress(ProcessLookupError):
            try:
                os.killpg(process.pid, number)
                for _ in range(round(GRACE_S / 0.05)):
                    process.poll()
                    os.killpg(process.pid, 0)  # an error once all have ended
                    time.sleep(0.05)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
        raise


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP raise a KeyboardInterrupt of their number, so that open files are
    left in order. No effect outside of the main thread, or on a signal that has a handler or is ignored.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    main = threading.current_thread() is threading.main_thread()
    ours = [n for n in _ENDING if main and signal.getsignal(n) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
