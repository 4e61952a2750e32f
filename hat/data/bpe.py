"""Byte-pair encoding by subword-nmt: learn merges on text, apply them by several processes."""

import contextlib
import functools
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hat.data.text import read_lines, split_tokens
from hat.data.workers import Chunk, Workers, chunks
from hat.errors import ConfigError, DataError
from hat.files.atomic import write_atomic, write_text_atomic

MAX_CACHED_WORDS = 1_000_000  # of one process; real text has no end of words
_APPLY_CHUNK = 1 << 22


def learn_bpe(files: Sequence[Path], codes: Path, merges: int, workers: int = 1) -> int:
    """Learn at most `merges` merges on the words of all `files` together; return how many were written.

    The codes are those of `subword-nmt learn-bpe` on the joined text. Memory holds the distinct words. Raises
    DataError for text without two characters side by side.
    """
    try:
        from subword_nmt import learn_bpe as subword_nmt
    except ImportError as error:
        raise _missing() from error
    if merges < 1:
        raise ConfigError(f"{merges} merges: 1 or more is allowed; see --help")
    counts: Counter = Counter()
    with Workers(workers) as pool:
        for path in files:
            for part in pool.map(_count_chunk, chunks(path)):
                counts.update(part)
    if not any(len(word) > 1 for word in counts):
        raise DataError(
            f"no text to learn merges on in {', '.join(map(str, files))}: words of two or more characters "
            "are needed; check the files"
        )
    words = (f"{word} {count}" for word, count in counts.items())
    out = io.StringIO()
    with contextlib.redirect_stderr(io.StringIO()):  # a bar, and a line when the text has no more pairs
        subword_nmt.learn_bpe(words, out, merges, is_dict=True)
    write_text_atomic(codes, out.getvalue())
    return out.getvalue().count("\n") - 1


def apply_bpe(codes: Path, inputs: Sequence[Path], folder: Path, workers: int = 1) -> list[Path]:
    """Write each text of `inputs`, split into subwords, under its own name into `folder`; return the paths.

    Each is written whole or not at all and does not depend on the number of processes.
    """
    outputs = [folder / path.name for path in inputs]
    if len(set(outputs)) != len(outputs) or any(map(_same, inputs, outputs)):
        raise ConfigError(
            f"cannot write {len(outputs)} texts to {folder}: names that differ, in another folder, are "
            "needed; choose another --to"
        )
    _load(codes)  # what is wrong with the codes is told here, not in a worker
    with Workers(workers) as pool:
        for path, output in zip(inputs, outputs, strict=True):
            tasks = [(chunk, codes) for chunk in chunks(path, _APPLY_CHUNK)]
            write_atomic(output, lambda file, tasks=tasks: file.writelines(pool.map(_apply_chunk, tasks)))
    return outputs


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _count_chunk(chunk: Chunk) -> Counter:
    counts: Counter = Counter()
    for line in read_lines(*chunk):
        counts.update(split_tokens(line))
    return counts


def _apply_chunk(task: tuple[Chunk, Path]) -> bytes:
    chunk, codes = task
    bpe = _load(codes)
    lines = []
    for line in read_lines(*chunk):
        if len(bpe.cache) > MAX_CACHED_WORDS:
            bpe.cache.clear()
        lines.append(" ".join(bpe.segment_tokens(split_tokens(line))) + "\n")
    return "".join(lines).encode()


def _load(codes: Path) -> Any:
    try:
        stamp = codes.stat().st_mtime_ns
    except OSError as error:
        raise DataError(
            f"cannot read {codes}: {error.strerror}; a file of merges is needed; make it with "
            "scripts/learn_bpe.py"
        ) from error
    return _loaded(codes, stamp)


@functools.lru_cache(maxsize=1)
def _loaded(codes: Path, _stamp: int) -> Any:
    try:
        from subword_nmt.apply_bpe import BPE
    except ImportError as error:
        raise _missing() from error
    lines = list(read_lines(codes))
    merges = lines[1:] if lines and lines[0].startswith("#version: 0.2") else None
    if not merges:
        raise DataError(
            f"{codes} is no file of merges: a first line '#version: 0.2' and at least one merge are needed; "
            "make it with scripts/learn_bpe.py"
        )
    for number, line in enumerate(merges, 2):
        if len(line.split(" ")) != 2 or not all(line.split(" ")):
            raise DataError(
                f"{codes}:{number}: {line[:60]!r} is no merge of two pieces separated by a space; make the "
                "file again with scripts/learn_bpe.py"
            )
    return BPE(io.StringIO("".join(f"{line}\n" for line in lines), newline="\n"))


def _missing() -> ConfigError:
    return ConfigError(
        "byte-pair encoding needs the package subword-nmt, which is not installed; "
        "run: pip install 'hat[text]'"
    )
