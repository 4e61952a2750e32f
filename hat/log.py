"""Progress of a run: one readable line per interval, the same record in log.jsonl, and TensorBoard."""

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

import hat
from hat.errors import install

T = TypeVar("T")


def info(text: str) -> None:
    """Tell the user something on standard error, above any bar; of the processes of a run the first."""
    if "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0":
        tqdm.write(text, file=sys.stderr)


def progress(
    items: Iterable[T], total: int, what: str, unit: str, *, quiet: bool = False, done: int = 0
) -> Iterator[T]:
    """Yield `items` behind a bar with rate and time left; `quiet`: a plain line every half minute instead."""
    if not quiet:
        yield from tqdm(items, what, total, initial=done, unit=f" {unit}", dynamic_ncols=True)
        return
    start = shown = time.monotonic()
    for n, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown > 30:
            shown = now
            rate = n / (now - start)
            left = f"/{total} {unit}, {rate:.3g}/s, about {(total - done - n) / rate:.0f} s left"
            info(f"{what}: {done + n}{left if total else f' {unit}'}")


class RunLog:
    """Writes the metrics of a run, units in their names; without a folder, in other processes, none."""

    def __init__(
        self, folder: Path | None, *, total: int, unit: str, bar: bool, tensorboard: Path | None = None
    ) -> None:
        path = folder / "log.jsonl" if folder else Path(os.devnull)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115 - lives as long as the run
        if folder and (content := path.read_bytes()) and not content.endswith(b"\n"):
            self._file.truncate(content.rfind(b"\n") + 1)  # what a kill or a full disk left of a record
        self._plain = not (bar and folder)
        self._bar = tqdm(total=total, unit=f" {unit}", dynamic_ncols=True, disable=self._plain)
        self._board: Any = None
        if folder and tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(tensorboard))
            except ImportError:
                info(f"no TensorBoard files: tensorboard is not installed; run: {install('log')}")

    def advance(self, done: int, **shown: str) -> None:
        """Move the bar to `done` and show a few values behind it."""
        if not self._plain:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(done - self._bar.n)

    def metrics(self, kind: str, update: int, line: str, **values: float | int | str | None) -> None:
        """Append one record and show `line` if no bar does."""
        head = {"kind": kind, "update": update, "unix_time_s": round(time.time(), 3)}
        self._file.write(json.dumps(head | values).encode() + b"\n")
        self._file.flush()
        if self._plain or kind != "train":
            info(line)
        if self._board:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, update)

    def close(self) -> None:
        """Finish the bar and the files."""
        for each in filter(None, (self._file, self._board)):
            each.close()
        self._bar.close()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"hat": hat.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "numpy", "sacrebleu", "sentencepiece"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
