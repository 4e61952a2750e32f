"""Work on the parts of a text file in several processes, results in the order of the file."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from hat.data.text import MAX_LINE_BYTES, check_line
from hat.errors import DataError, HatError

CHUNK_BYTES = 8 << 20


class Chunk(NamedTuple):
    """Lines of `path` that begin in the bytes [start, end); `read_lines(*chunk)` yields them."""

    path: Path
    start: int
    end: int


def chunks(path: Path, size: int | None = None) -> list[Chunk]:
    """Cut a file at line ends into parts of about `size` bytes (default 8 MiB), for any number of workers."""
    size = size or CHUNK_BYTES
    try:
        total = path.stat().st_size
        cuts = [0]
        with open(path, "rb") as file:
            while cuts[-1] + size < total:
                file.seek(cuts[-1] + size - 1)
                rest = file.readline(MAX_LINE_BYTES + 1)
                check_line(path, cuts[-1] + size - 1, 0, rest)
                cuts.append(file.tell())
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; a readable text file is needed; check the path"
        ) from error
    if cuts[-1] < total:
        cuts.append(total)
    return [Chunk(path, start, end) for start, end in zip(cuts, cuts[1:], strict=False)]


class Workers:
    """Up to `count` processes, started when first needed and ended by `with`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def map(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        """Yield work(task) of each task in order; `work` is a top-level function.

        At most two results per process wait, so memory stays flat. The first exception ends everything; a
        killed process is a HatError. A single task or process works in place.
        """
        if min(self._count, len(tasks)) <= 1:
            yield from map(work, tasks)
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a fork would copy the locks of running threads
            self._pool = ProcessPoolExecutor(self._count, context, initializer=_end_with_parent)
        waiting: deque = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(work, task))
                if len(waiting) >= 2 * self._count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise HatError(
                "a worker process was killed, probably because memory ran out; nothing was written; "
                "lower --workers and run again"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _end_with_parent() -> None:
    """Leave no orphan behind when the parent is killed."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
