"""Join parallel corpora and put every n-th pair aside."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from hat.errors import ConfigError, DataError
from hat.files.atomic import write_all_atomic

Pair = tuple[Path, Path]


def split_pairs(
    inputs: Sequence[Pair], train: Pair, valid: Pair | None = None, every: int = 0
) -> tuple[int, int]:
    """Write the pairs of all `inputs`, in order, to `train`; each `every`-th one (from 1) to `valid` instead.

    Of fewer than `every` pairs the last one is put aside: a trial with a few has a validation set as well.
    Returns the numbers of pairs in both. All files are written whole or not at all. Raises DataError for
    inputs whose sides have different numbers of lines, ConfigError for `every` below 2 where it is needed.
    """
    if (valid is None) != (every == 0) or every == 1 or every < 0:
        raise ConfigError(
            f"every {every}-th pair for validation: 2 or more is allowed, together with a place to write "
            "them; see --help"
        )
    kept = aside = 0

    def fill(files: list[BinaryIO]) -> None:
        nonlocal kept, aside
        all_pairs = itertools.chain.from_iterable(_pairs(pair) for pair in inputs)
        for lines, following in itertools.pairwise(itertools.chain(all_pairs, [None])):
            assert lines is not None
            last_chance = following is None and kept > 0 and not aside
            if every and ((kept + aside + 1) % every == 0 or last_chance):
                aside += 1
                target = files[2:]
            else:
                kept += 1
                target = files[:2]
            for file, line in zip(target, lines, strict=True):
                file.write(line)

    write_all_atomic([*train, *(valid or ())], fill)
    return kept, aside


def _pairs(paths: Pair) -> Iterator[tuple[bytes, bytes]]:
    try:
        with open(paths[0], "rb") as source, open(paths[1], "rb") as target:
            for number, (one, other) in enumerate(itertools.zip_longest(source, target), 1):
                if one is None or other is None:
                    raise DataError(
                        f"{paths[0]} and {paths[1]} have different numbers of lines: one ends before line "
                        f"{number}; line i of one must be the translation of line i of the other; nothing "
                        "was written; make both again"
                    )
                yield one.rstrip(b"\n") + b"\n", other.rstrip(b"\n") + b"\n"
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename}: {error.strerror}; a readable text file is needed; check the path"
        ) from error
