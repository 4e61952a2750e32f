"""SIGTERM and Ctrl-C ask a long run to save and leave; a second Ctrl-C leaves at once."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_ECHO_S = 1.0  # torchrun passes a Ctrl-C on that the terminal has sent to every process already


class Interrupt:
    """Inside the `with` block a signal only sets `asked`; the run looks at it after each step."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._asked_s = 0.0

    def __enter__(self) -> "Interrupt":
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
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


class Terminated(BaseException):
    """SIGTERM outside of an `Interrupt`; as KeyboardInterrupt, no handler of errors catches it."""


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """Inside the block SIGTERM raises Terminated, so that open files are left in order.

    No effect outside of the main thread, or if the process has a handler of its own.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise Terminated

    main = threading.current_thread() is threading.main_thread()
    ours = main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
