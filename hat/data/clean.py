"""Remove pairs that cannot be trained on."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hat.data.text import read_lines, split_tokens
from hat.errors import ConfigError, DataError
from hat.files.atomic import write_all_atomic


@dataclass(frozen=True)
class Limits:
    """Which pairs are kept"""

    min_length: int = 1
    """fewest tokens of a sentence"""
    max_length: int | None = None
    """most tokens of a sentence; no limit by default"""
    ratio: float | None = None
    """most tokens of one sentence for each token of the other; no limit by default"""
    max_word_length: int | None = None
    """most characters of a token; no limit by default"""

    def __post_init__(self) -> None:
        if self.min_length < 1:
            raise ConfigError(f"--min-length {self.min_length}: 1 or more is allowed; see clean.py --help")
        if self.max_length is not None and self.max_length < self.min_length:
            raise ConfigError(
                f"--max-length {self.max_length}: --min-length {self.min_length} or more is allowed; see "
                "clean.py --help"
            )
        if self.ratio is not None and self.ratio < 1:
            raise ConfigError(f"--ratio {self.ratio}: 1 or more is allowed; see clean.py --help")
        if self.max_word_length is not None and self.max_word_length < 1:
            raise ConfigError(
                f"--max-word-length {self.max_word_length}: 1 or more is allowed; see clean.py --help"
            )

    def keep(self, source: str, target: str) -> bool:
        """Return whether the pair is within all limits."""
        words = split_tokens(source), split_tokens(target)
        short, long = sorted(map(len, words))
        return (
            short >= self.min_length
            and (self.max_length is None or long <= self.max_length)
            and (self.ratio is None or long / short <= self.ratio)
            and (
                self.max_word_length is None
                or max(map(len, itertools.chain.from_iterable(words))) <= self.max_word_length
            )
        )


def clean_pairs(
    inputs: tuple[Path, Path], outputs: tuple[Path, Path], limits: Limits | None = None
) -> tuple[int, int]:
    """Copy the pairs within `limits`, by default those whose sentences both have a word.

    Returns how many were kept and how many dropped. The outputs are written whole or not at all; memory stays
    flat. Raises DataError when the inputs have different numbers of lines.
    """
    limits = limits or Limits()
    kept = dropped = 0

    def fill(files: list[BinaryIO]) -> None:
        nonlocal kept, dropped
        for pair in itertools.zip_longest(*map(read_lines, inputs)):
            if None in pair:
                counts = [sum(1 for _ in read_lines(path)) for path in inputs]
                raise DataError(
                    f"{inputs[0]} has {counts[0]} lines but {inputs[1]} has {counts[1]}; line i of one "
                    "must be the translation of line i of the other; repair the files"
                )
            if limits.keep(*pair):
                for file, line in zip(files, pair, strict=True):
                    file.write(line.encode() + b"\n")
                kept += 1
            else:
                dropped += 1

    write_all_atomic(outputs, fill)
    return kept, dropped
