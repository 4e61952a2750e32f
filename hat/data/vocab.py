"""Symbols and their ids, kept as `dict.<lang>.txt`: one `symbol count` per line, most frequent first."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hat.data.text import read_lines, split_tokens
from hat.errors import DataError
from hat.files.atomic import write_text_atomic

BOS, PAD, EOS, UNK = range(4)
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


class Vocab:
    """An immutable two-way map between symbols and ids; ids 0 to 3 are `<s> <pad> </s> <unk>`."""

    def __init__(self, symbols: Iterable[str], counts: Sequence[int] = ()) -> None:
        """Number distinct `symbols` from 4 upwards; `counts` (one for each) is only kept for `save`."""
        self._symbols = [*SPECIALS, *symbols]
        self._counts = list(counts) or [0] * (len(self._symbols) - len(SPECIALS))
        # A word of the text that is spelt like a special must not end a sentence or vanish as padding.
        self._ids = {symbol: n for n, symbol in enumerate(self._symbols)} | dict.fromkeys(SPECIALS, UNK)

    @classmethod
    def build(cls, counts: Counter, threshold: int = 0, nwords: int = -1, pad_to: int = 8) -> "Vocab":
        """Return the dictionary of counted tokens, sorted by count (descending), then code points. Tokens
        seen less than `threshold` times are left out; `nwords` (-1: no limit) is the size including the four
        specials, before `madeupword0000`, ... pad it to a multiple of `pad_to`.
        """
        kept = [item for item in counts.items() if item[1] >= threshold and item[0] not in SPECIALS]
        kept.sort(key=lambda item: (-item[1], item[0]))
        count_of = dict(kept[: max(0, nwords - len(SPECIALS)) if nwords >= 0 else None])
        names = (f"madeupword{number:04d}" for number in itertools.count())
        while (len(count_of) + len(SPECIALS)) % pad_to:
            count_of.setdefault(next(names), 0)
        return cls(count_of, list(count_of.values()))

    @classmethod
    def load(cls, path: Path | str) -> "Vocab":
        """Read a dictionary file as it is: not sorted, cut or padded; DataError names a wrong line."""
        return cls.parse(read_lines(path), str(path))

    @classmethod
    def parse(cls, lines: Iterable[str], name: str) -> "Vocab":
        """Return the dictionary of the lines of a file called `name`; raises what `load` raises."""
        count_of: dict[str, int] = {}
        for number, line in enumerate(lines, 1):
            symbol, _, count = line.rstrip("\r").rpartition(" ")
            good = symbol and count.isascii() and count.isdigit()
            if not good or symbol in count_of or symbol in SPECIALS:
                must = "must be 'symbol count', the symbol on no earlier line and none of the four specials"
                advice = "repair it, or make the dictionary again with hat preprocess"
                raise DataError(f"{name}:{number}: dictionary line {line[:60]!r} {must}; {advice}")
            count_of[symbol] = int(count[:18])
        return cls(count_of, list(count_of.values()))

    def text(self) -> str:
        """Return the content of the dictionary file: a line for each symbol but the four specials."""
        rows = zip(self._symbols[len(SPECIALS) :], self._counts, strict=True)
        return "".join(f"{symbol} {count}\n" for symbol, count in rows)

    def save(self, path: Path | str) -> None:
        """Write the dictionary file, whole or not at all."""
        write_text_atomic(Path(path), self.text())

    def __len__(self) -> int:
        return len(self._symbols)

    def __iter__(self) -> Iterator[str]:
        return iter(self._symbols)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._ids

    def __eq__(self, other: object) -> bool:
        """Return whether both give every symbol the same id; counts may differ."""
        return isinstance(other, Vocab) and self._symbols == other._symbols

    def encode(self, line: str) -> np.ndarray:
        """Return the ids [tokens + 1] (int32) of a line of tokens separated by spaces, EOS appended."""
        return self.encode_tokens(split_tokens(line))

    def encode_tokens(self, tokens: list[str]) -> np.ndarray:
        """Return the ids [tokens + 1] (int32) of a list of tokens, EOS appended; unknown ones become UNK."""
        ids = self._ids
        return np.array([ids.get(token, UNK) for token in tokens] + [EOS], dtype=np.int32)

    def decode(self, ids: Iterable[int], unk: str = "<unk>") -> str:
        """Return the tokens of `ids` (array, tensor or list) joined by spaces, without BOS, PAD and EOS."""
        values = ids.tolist() if hasattr(ids, "tolist") else ids
        return " ".join(unk if i == UNK else self._symbols[i] for i in values if i not in (BOS, PAD, EOS))
