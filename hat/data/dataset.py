"""Parallel data as a whole: a folder of binary data, opened or made of text."""

import contextlib
import functools
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hat.data.folder import SPLITS, languages, replacing
from hat.data.pairs import PairDataset, load_vocabs
from hat.data.text import read_lines, unequal, write_rows
from hat.data.vocab import Vocab
from hat.errors import DataError
from hat.files.atomic import file_digest

if TYPE_CHECKING:
    from hat.data.subwords import TextCodec

Text = Sequence[str] | Path | str


class Dataset:
    """A folder with `dict.<lang>.txt` and binary splits, usually train, valid and test. `languages` are those
    in the names of the files, `vocabs` the dictionaries of source and target, one object twice if they are
    the same, `vocab_sizes` their numbers of symbols, `digests` the SHA-256 of both dictionary files.
    """

    def __init__(self, folder: Path | str, source_lang: str, target_lang: str) -> None:
        """Read the dictionaries in `folder`; `load` and `from_text` are the usual ways to a data set."""
        self.folder, self.source_lang, self.target_lang = Path(folder), source_lang, target_lang
        self.languages = source_lang, target_lang
        self.vocabs: tuple[Vocab, Vocab] = load_vocabs(folder, source_lang, target_lang)
        self.vocab_sizes = len(self.vocabs[0]), len(self.vocabs[1])
        self.digests = tuple(file_digest(self.folder / f"dict.{lang}.txt") for lang in self.languages)

    @classmethod
    def load(
        cls, folder: Path | str, source_lang: str | None = None, target_lang: str | None = None
    ) -> "Dataset":
        """Open a folder of binary data; languages not given come from file names, DataError if unclear."""
        return cls(folder, *languages(folder, source_lang, target_lang))

    @classmethod
    def from_text(
        cls,
        source: Text,
        target: Text,
        *,
        source_lang: str = "en",
        target_lang: str = "de",
        pieces: int = 1000,
        valid: float = 0.05,
        test: float = 0,
        folder: Path | str | None = None,
        seed: int = 1,
        workers: int = 1,
    ) -> "Dataset":
        """Make binary data of sentences and their translations (lists, or paths of texts with one on each
        line), with a joint sentencepiece model of at most `pieces` pieces. Pairs with an empty side and
        repeated pairs are left out, the others shuffled by `seed` and split: `valid` and `test` are numbers
        of pairs, below 1 shares. Without `folder` it is a temporary one that lives as long as the data set.
        Raises DataError if both have not as many sentences, or too few, ConfigError for a wrong number.
        """
        from hat.data.corpora import hold_out  # late: training makes no data
        from hat.data.preprocess import PreprocessConfig, preprocess
        from hat.data.subwords import check_pieces

        sides = [list(read_lines(x)) if isinstance(x, str | Path) else x for x in (source, target)]
        counts = [len(side) for side in sides]
        if counts[0] != counts[1]:
            raise unequal("the source text", "the target text", counts, "sentences")
        aside = [round(share * counts[0]) if share < 1 else int(share) for share in (valid, test)]
        whole = ([sentence.replace("\n", " ") for sentence in side] for side in sides)
        splits = hold_out(zip(*whole, strict=True), max(1, aside[0]), aside[1], seed)
        check_pieces((line for pair in splits["train"] for line in pair), pieces, "pieces")
        with contextlib.ExitStack() as stack:
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hat-data-")))
            texts = {}
            for split, chosen in splits.items():
                if chosen:
                    texts[f"{split}pref"] = prefix = str(temporary / split)
                    write_rows([Path(f"{prefix}.{lang}") for lang in (source_lang, target_lang)], chosen)
            made = str(folder or temporary / "binary")
            options = {"joined_dictionary": True, "sentencepiece": pieces, "workers": workers}
            preprocess(PreprocessConfig(source_lang, target_lang, made, **texts, **options))
            data = cls(made, source_lang, target_lang)
            if folder is None:  # the temporary folder goes when the data set does
                weakref.finalize(data, stack.pop_all().close)
            return data

    @functools.cached_property
    def codec(self) -> "TextCodec":
        """Return what turns plain sentences into ids and back, with the subword model of the folder."""
        from hat.data.subwords import TextCodec

        return TextCodec.load(self.folder, self.languages, self.vocabs)

    def split(self, name: str) -> PairDataset:
        """Open one split, for example "valid"; raises DataError if it is missing or damaged."""
        return PairDataset.load(self.folder, name, self.source_lang, self.target_lang)


def unpack_data(archive: Path, destdir: Path, languages: tuple[str, str]) -> dict[str, int]:
    """Make `destdir` the data in `archive`, checked before (DataError); return the pairs of each split."""
    from hat.files.archive import unpack

    texts = [f"{split}.{'-'.join(languages)}.{lang}" for split in SPLITS for lang in languages]
    sides = [f"{text}.{end}" for text in texts for end in ("bin", "idx")]
    with replacing(destdir, languages) as fresh:
        unpack(archive, fresh, [*sides, *(f"dict.{lang}.txt" for lang in languages)], flat=True)
        try:
            return {split: len(PairDataset.load(fresh, split, *languages)) for split in SPLITS}
        except DataError as error:
            found = f"{archive} does not hold data for training: {error}"
            raise DataError(f"{found}; {destdir} is as it was; fetch the archive again") from error
