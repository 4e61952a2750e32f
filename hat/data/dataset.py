"""Parallel data as a whole: a folder of binary data, opened or made of text."""

import functools
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from hat.data.corpora import hold_out
from hat.data.folder import replacing
from hat.data.pairs import PairDataset, languages, load_vocabs
from hat.data.preprocess import PreprocessConfig, preprocess
from hat.data.subwords import TextCodec
from hat.data.text import read_lines
from hat.data.vocab import Vocab
from hat.errors import DataError
from hat.files.archive import unpack
from hat.files.atomic import file_digest, write_text_atomic

Text = Sequence[str] | Path | str


def _lines(text: Text) -> list[str]:
    if isinstance(text, str | Path):
        return list(read_lines(text))
    return [line.replace("\n", " ") for line in text]


class Dataset:
    """A folder with `dict.<lang>.txt` and binary splits, usually train, valid and test.

    Attributes:
        folder: where the files are.
        source_lang, target_lang: the languages in the names of the files.
        vocabs: dictionaries of source and target; one object twice if they are the same.
        digests: SHA-256 of both dictionary files; a checkpoint remembers them.
    """

    def __init__(self, folder: Path | str, source_lang: str, target_lang: str) -> None:
        """Read the dictionaries in `folder`; `load` and `from_text` are the usual ways to a data set."""
        self.folder, self.source_lang, self.target_lang = Path(folder), source_lang, target_lang
        self.vocabs: tuple[Vocab, Vocab] = load_vocabs(folder, source_lang, target_lang)
        source, target = (file_digest(self.folder / f"dict.{lang}.txt") for lang in self.languages)
        self.digests = (source, target)

    @classmethod
    def load(
        cls, folder: Path | str, source_lang: str | None = None, target_lang: str | None = None
    ) -> "Dataset":
        """Open a folder of binary data; languages that are not given come from the names of its files.

        Raises DataError, listing what is there, if there is no data or data of several language pairs.
        """
        if source_lang is None or target_lang is None:
            found = languages(folder)
            source_lang, target_lang = source_lang or found[0], target_lang or found[1]
        return cls(folder, source_lang, target_lang)

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
        """Make binary data of sentences and their translations, with a joint sentencepiece model.

        Pairs with an empty side and repeated pairs are left out; the others are shuffled and split.

        Args:
            source: sentences, or the path of a text with one on each line.
            target: their translations, in the same order.
            source_lang, target_lang: codes of the languages.
            pieces: most subword pieces of both languages together.
            valid, test: pairs for validation and test; below 1 a share of all pairs.
            folder: where to write; None for a temporary folder that lives as long as the data set.
            seed: seed of the split.
            workers: processes.

        Raises DataError if both have not as many sentences, or too few, ConfigError for a wrong number.
        """
        sides = [_lines(source), _lines(target)]
        if len(sides[0]) != len(sides[1]):
            raise DataError(
                f"{len(sides[0])} sentences and {len(sides[1])} translations; sentence i of one must be the "
                "translation of sentence i of the other; repair the texts"
            )
        aside = [round(share * len(sides[0])) if share < 1 else int(share) for share in (valid, test)]
        splits = hold_out(zip(*sides, strict=True), max(1, aside[0]), aside[1], seed)
        temporary = Path(tempfile.mkdtemp(prefix="hat-data-"))
        try:
            prefixes = {}
            for split, chosen in splits.items():
                for side, lang in enumerate((source_lang, target_lang) if chosen else ()):
                    prefixes[f"{split}pref"] = str(temporary / split)
                    text = "".join(f"{pair[side]}\n" for pair in chosen)
                    write_text_atomic(temporary / f"{split}.{lang}", text)
            cfg = PreprocessConfig(
                source_lang,
                target_lang,
                str(folder or temporary / "binary"),
                joined_dictionary=True,
                sentencepiece=pieces,
                workers=workers,
                **prefixes,
            )
            preprocess(cfg)
            data = cls(cfg.destdir, source_lang, target_lang)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        # a temporary folder goes when the data set does, the text it was made of at once
        remove = weakref.finalize(data, shutil.rmtree, temporary, ignore_errors=True)
        if folder is not None:
            remove()
        return data

    @property
    def languages(self) -> tuple[str, str]:
        """Return source and target language."""
        return self.source_lang, self.target_lang

    @property
    def vocab_sizes(self) -> tuple[int, int]:
        """Return the numbers of symbols of both dictionaries."""
        return len(self.vocabs[0]), len(self.vocabs[1])

    @functools.cached_property
    def codec(self) -> TextCodec:
        """Return what turns plain sentences into ids and back, with the subword model of the folder."""
        return TextCodec.load(self.folder, self.languages, self.vocabs)

    def split(self, name: str) -> PairDataset:
        """Open one split, for example "valid"; raises DataError if it is missing or damaged."""
        return PairDataset.load(self.folder, name, self.source_lang, self.target_lang)


def unpack_data(
    archive: Path, destdir: Path, languages: tuple[str, str], splits: Sequence[str]
) -> dict[str, int]:
    """Make `destdir` the binary data in `archive`, in whatever folder there; return the pairs of each split.

    The data is read and checked before it takes the place of what is in `destdir`, in one step. Raises
    DataError if something is missing, damaged or does not fit together.
    """
    pair = "-".join(languages)
    names = [
        f"{split}.{pair}.{lang}.{end}" for split in splits for lang in languages for end in ("bin", "idx")
    ]
    names += [f"dict.{lang}.txt" for lang in languages]
    with replacing(destdir, pair, languages) as fresh:
        unpack(archive, fresh, names, flat=True)
        try:
            return {split: len(PairDataset.load(fresh, split, *languages)) for split in splits}
        except DataError as error:
            raise DataError(
                f"{archive} does not hold data for training: {error}; {destdir} is as it was; fetch the "
                "archive again"
            ) from error
