"""Corpora as they are published -> parallel text, one sentence per line, by several processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hat.data.markup import Markup, extractor
from hat.data.moses import MosesSteps, line_function
from hat.data.text import read_lines, where
from hat.data.workers import Chunk, Workers, chunks
from hat.errors import ConfigError, DataError
from hat.files.atomic import write_all_atomic

CHUNK_BYTES = 1 << 20  # about a second of work


@dataclass(frozen=True)
class Side:
    """One language of a corpus: its files in order, how sentences stand in them, what is done to these."""

    files: tuple[Path, ...]
    markup: Markup
    steps: MosesSteps
    column: int = 1
    replace_invalid: bool = False
    """U+FFFD for bytes that are not UTF-8, instead of an error"""


class Prepared(NamedTuple):
    """What was written: the sentences of each pair of files, and lines with characters U+FFFD."""

    sentences: list[int]
    invalid: int


class _Part(NamedTuple):
    text: bytes
    sentences: int
    invalid: int


def prepare_pairs(sides: Sequence[Side], outputs: Sequence[Path], workers: int = 1) -> Prepared:
    """Write the sentences of both sides to `outputs`, whole or not at all; file i goes with file i.

    The result does not depend on the number of processes; memory holds two parts of 1 MiB for each.
    Raises DataError for files that do not have as many sentences as those they go with.
    """
    if len({len(side.files) for side in sides}) != 1:
        raise ConfigError(
            f"{' and '.join(str(len(side.files)) for side in sides)} files of the two languages: as many of "
            "one as of the other are needed, in the same order; see --help"
        )
    counts: list[list[int]] = []
    invalid = 0

    def fill(outs: list[BinaryIO]) -> None:
        nonlocal invalid
        for side, out in zip(sides, outs, strict=True):
            line_function(side.steps)  # a missing package is told here, not in a worker
            counts.append([])
            for path in side.files:
                counts[-1].append(0)
                tasks = [(chunk, side) for chunk in chunks(path, CHUNK_BYTES)]
                for part in pool.map(_prepare_chunk, tasks):
                    out.write(part.text)
                    counts[-1][-1] += part.sentences
                    invalid += part.invalid
        for index, numbers in enumerate(zip(*counts, strict=True)):
            if len(set(numbers)) != 1:
                paths = [side.files[index] for side in sides]
                raise DataError(
                    f"{paths[0]} has {numbers[0]} sentences but {paths[1]} has {numbers[1]}; sentence i of "
                    "one must be the translation of sentence i of the other; nothing was written; repair "
                    "the files"
                )

    with Workers(workers) as pool:
        write_all_atomic(list(outputs), fill)
    return Prepared(counts[0], invalid)


def _prepare_chunk(task: tuple[Chunk, Side]) -> _Part:
    chunk, side = task
    extract, run = extractor(side.markup, side.column), line_function(side.steps)
    texts, invalid = [], 0
    for number, line in enumerate(read_lines(*chunk, "replace" if side.replace_invalid else "strict")):
        try:
            sentence = extract(line)
        except DataError as error:
            raise DataError(f"{where(chunk.path, chunk.start, number)}: {error}") from error
        if sentence is not None:
            texts.append(run(sentence) + "\n")
            invalid += "\ufffd" in sentence
    return _Part("".join(texts).encode(), len(texts), invalid)
