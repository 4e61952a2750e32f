"""SIGTERM and Ctrl-C ask a long run to save and leave; a second Ctrl-C leaves at once."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType

_ECHO_S = 1.0  # torchrun passes a Ctrl-C on that the terminal has sent to every process already


class Interrupt:
    """Inside the `with` block a signal only sets `asked`; the run looks at it after each step."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._asked_s = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

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

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
