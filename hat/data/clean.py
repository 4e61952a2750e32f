"""Remove pairs that cannot be trained on."""

import itertools
from pathlib import Path
from typing import BinaryIO

from hat.data.text import read_lines, split_tokens
from hat.errors import DataError
from hat.files.atomic import write_atomic


def drop_empty_pairs(inputs: tuple[Path, Path], outputs: tuple[Path, Path]) -> tuple[int, int]:
    """Copy the pairs whose sentences both have a word; return how many were kept and how many dropped.

    Each output is written whole or not at all; it is read twice, so memory stays flat. Raises DataError when
    the inputs have different numbers of lines.
    """
    kept = dropped = 0
    for side, output in enumerate(outputs):

        def fill(file: BinaryIO, side: int = side) -> None:
            nonlocal kept, dropped
            kept = dropped = 0
            for pair in itertools.zip_longest(*map(read_lines, inputs)):
                if None in pair:
                    counts = [sum(1 for _ in read_lines(path)) for path in inputs]
                    raise DataError(
                        f"{inputs[0]} has {counts[0]} lines but {inputs[1]} has {counts[1]}; line i of one "
                        "must be the translation of line i of the other; repair the files"
                    )
                if all(map(split_tokens, pair)):
                    file.write(pair[side].encode() + b"\n")
                    kept += 1
                else:
                    dropped += 1

        write_atomic(output, fill)
    return kept, dropped
