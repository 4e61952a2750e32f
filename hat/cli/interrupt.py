"""SIGTERM and Ctrl-C ask a long run to save and leave; a second Ctrl-C leaves at once."""

import signal
from types import FrameType, TracebackType


class Interrupt:
    """Inside the `with` block a signal only sets `asked`; the loop looks at it after each step."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number

    @property
    def exit_code(self) -> int:
        """Return 128 plus the signal's number, as shells do."""
        return 128 + (self.asked or 0)
