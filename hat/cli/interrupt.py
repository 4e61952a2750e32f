"""SIGTERM and Ctrl-C ask a long run to save and leave; a second Ctrl-C leaves at once."""

import signal
import time
from types import FrameType, TracebackType

from hat.train.ranks import Ranks

_ECHO_S = 1.0  # torchrun passes a Ctrl-C on that the terminal has sent to every process already


class Interrupt:
    """Inside the `with` block a signal only sets `asked`; the loop looks at it after each step."""

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

    def agreed(self, ranks: Ranks) -> bool:
        """Return whether any rank was asked to leave; all then know the same signal."""
        number = ranks.most(self.asked or 0)
        if number:
            self.asked = number
        return number > 0

    @property
    def exit_code(self) -> int:
        """Return 128 plus the signal's number, as shells do."""
        return 128 + (self.asked or 0)
