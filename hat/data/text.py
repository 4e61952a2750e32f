"""Text files, one sentence on a line: read line by line, or in parts by several processes."""

import contextlib
import functools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, BinaryIO

from hat.errors import BOM, DataError, HatError, foreign, undecodable, unwanted
from hat.files.atomic import write_all_atomic

MAX_LINE_BYTES = 1 << 24  # a longer line is no sentence, and would take memory without bound
CHUNK_BYTES = 8 << 20
Chunk = tuple[Path, int, int]  # lines that begin in these bytes: `read_lines(*chunk)`


def read_lines(
    path: Path | str, start: int = 0, end: int | None = None, errors: str = "strict"
) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without newline, and without a byte order mark; only "\\n" ends a line.
    With `start` and `end` (byte offsets, `start` at the beginning of a line) only lines that begin in
    [start, end) are read. Memory holds one line. Raises DataError, with the command that converts it, for a
    file in another encoding, for a missing file and, with the number of the line, for more than 16 MiB, NUL
    and bytes that are not UTF-8 (with `errors` "replace" both become U+FFFD).
    """
    position, index = start, 0
    try:
        with open(path, "rb") as file:
            if start == 0 and (found := foreign(path, file.peek(1 << 12)[: 1 << 12])):
                raise DataError(f"{path} {found}")
            if start:  # standard input cannot seek
                file.seek(start)
            while (end is None or position < end) and (raw := file.readline(MAX_LINE_BYTES + 1)):
                wrong, text = None, raw if position else raw.removeprefix(BOM)
                if len(raw) > MAX_LINE_BYTES:
                    wrong = f"has more than {MAX_LINE_BYTES} bytes; text has one sentence on a line"
                elif (b"\0" in raw or b"\r" in raw) and errors == "strict":
                    wrong = unwanted(path, raw)
                try:
                    line = text.removesuffix(b"\n").decode("utf-8", errors)
                except UnicodeDecodeError as error:  # more text than the line tells more
                    more = file.read(1 << 16) if file.seekable() else b""
                    wrong = wrong or undecodable(path, raw + more, error)
                if wrong:
                    raise DataError(f"{where(path, start, index)} {wrong}")
                yield line.replace("\0", "\ufffd")
                position, index = position + len(raw), index + 1
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path | str, error: OSError) -> DataError:
    """Return what to raise if a file cannot be read."""
    return DataError(f"cannot read {path}: {error.strerror}; a readable file is needed; check the path")


def unequal(source: object, target: object, counts: Sequence[int], unit: str = "lines") -> DataError:
    """Return what to raise if a text called `source` and its translation have these numbers of lines."""
    found = f"{source} has {counts[0]} {unit} but {target} has {counts[1]}"
    return DataError(f"{found}; each needs its translation; nothing was written; repair the texts")


def where(path: Path | str, start: int, index: int) -> str:
    """Return `file:line` of line `index` (from 0) after byte `start`; reads the file up to there."""
    with open(path, "rb") as file:
        blocks = (file.read(min(1 << 20, start - at)) for at in range(0, start, 1 << 20))
        return f"{path}:{sum(block.count(10) for block in blocks) + index + 1}"


def split_tokens(line: str) -> list[str]:
    """Return what stands between white space of any kind, without the byte order mark of joined files."""
    return line.removeprefix("\ufeff").split()


def write_rows(paths: Sequence[Path], rows: Iterable[Sequence[str | None]]) -> tuple[int, list[int]]:
    """Write column i of all rows but None to path i, all or none; return numbers of rows, and of lines."""
    total, counts = 0, [0] * len(paths)

    def fill(files: list[BinaryIO]) -> None:
        nonlocal total
        for row in rows:
            total += 1
            for number, line in enumerate(row):
                if line is not None:
                    files[number].write(line.encode() + b"\n")
                    counts[number] += 1

    write_all_atomic(paths, fill)
    return total, counts


def chunks(path: Path, size: int | None = None) -> list[Chunk]:
    """Cut a file at line ends into parts of about `size` bytes (default 8 MiB), for any number of workers."""
    size, cuts = size or CHUNK_BYTES, [0]
    try:
        with open(path, "rb") as file:
            total = os.fstat(file.fileno()).st_size
            while cuts[-1] + size < total:
                file.seek(cuts[-1] + size - 1)
                file.readline(MAX_LINE_BYTES)  # a line that is cut here is refused by `read_lines`
                cuts.append(file.tell())
    except OSError as error:
        raise unreadable(path, error) from error
    return [(path, *span) for span in zip(cuts, [*cuts[1:], total], strict=True) if span[0] < span[1]]


def in_order(pool: Executor, work: Callable[[Any], Any], tasks: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Yield work(task) of each task in order, with at most `ahead` results waiting, so memory stays flat."""
    waiting: deque = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also when the consumer stops early
        for future in waiting:
            future.cancel()


class Workers(contextlib.ExitStack):
    """Up to `count` processes, started when first needed and ended by `with`."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def run(self, work: Callable[..., Any], tasks: Sequence[Any], **options: Any) -> Iterator[Any]:
        """Yield work(task, **options) in order, few of them waiting; a killed process is a HatError."""
        work = functools.partial(work, **options)
        try:
            alone = min(self.count, len(tasks)) <= 1  # needs no other process
            yield from map(work, tasks) if alone else in_order(self._pool, work, tasks, 2 * self.count)
        except BrokenProcessPool as error:
            found = "a worker process was killed, probably for want of memory; nothing was written"
            raise HatError(f"{found}; lower --workers and run again") from error

    @functools.cached_property
    def _pool(self) -> Executor:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of running threads
        return self.enter_context(ProcessPoolExecutor(self.count, context, initializer=_end_with_parent))


def _end_with_parent() -> None:
    def watch() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
