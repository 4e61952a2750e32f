"""Sentence pairs as padded batches.

Letters: B sentences of a batch, S longest source, T longest target (both with EOS).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hat.data.folder import check_digests, listing, pairs_in
from hat.data.indexed import IndexedData, paths_of
from hat.data.text import read_lines, unequal
from hat.data.vocab import EOS, PAD, Vocab
from hat.errors import DataError
from hat.files.atomic import file_digest


@dataclass(frozen=True)
class Batch:
    """A padded batch; all tensors are int64."""

    ids: Tensor
    """[B] numbers of the pairs in their dataset"""
    source: Tensor
    """[B, S] left-padded, ends with EOS"""
    decoder_input: Tensor
    """[B, T] right-padded, EOS followed by the target without its EOS"""
    target: Tensor
    """[B, T] right-padded, ends with EOS"""
    num_tokens: int
    """target tokens without padding"""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on `device`."""
        # A copy to the CPU must be complete on return; one to a GPU need not wait for the kernels before it.
        overlap = torch.device(device).type != "cpu"
        names = ("ids", "source", "decoder_input", "target")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=overlap) for name in names})


Flat = tuple[np.ndarray, np.ndarray]  # ids back to back, lengths


def collate(
    ids: Sequence[int] | np.ndarray, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]
) -> Batch:
    """Pad sentences (1-d id arrays that end with EOS, at least one pair) to a batch."""
    return _collate(ids, _join(sources), _join(targets))


def pad_sources(sentences: Sequence[np.ndarray]) -> Tensor:
    """Return sentences (1-d id arrays that end with EOS, at least one) as left-padded rows [B, S], int64."""
    return _pad(*_join(sentences), left=True)


def _join(sentences: Sequence[np.ndarray]) -> Flat:
    return np.concatenate(sentences).astype(np.int64), np.array([len(ids) for ids in sentences])


def _collate(ids: Sequence[int] | np.ndarray, source: Flat, target: Flat) -> Batch:
    flat, lengths = target
    shifted = np.roll(flat, 1)
    shifted[np.cumsum(lengths) - lengths] = EOS
    return Batch(
        ids=torch.from_numpy(np.array(ids, dtype=np.int64)),
        source=_pad(*source, left=True),
        decoder_input=_pad(shifted, lengths, left=False),
        target=_pad(flat, lengths, left=False),
        num_tokens=int((flat != PAD).sum()),
    )


def _pad(flat: np.ndarray, lengths: np.ndarray, left: bool) -> Tensor:
    """Return the sentences in `flat` as the rows of [len(lengths), longest]."""
    column = np.arange(lengths.max())
    used = column >= (lengths.max() - lengths)[:, None] if left else column < lengths[:, None]
    rows = np.full(used.shape, PAD, dtype=np.int64)
    rows[used] = flat
    return torch.from_numpy(rows)


def languages(folder: Path | str, source: str | None = None, target: str | None = None) -> tuple[str, str]:
    """Return source and target language of the data in `folder`: those given, else as the file names say.

    Raises DataError, listing what is there, if one is needed and there is no pair or more than one.
    """
    if source and target:
        return source, target
    found = pairs_in(Path(folder))
    if len(found) != 1:
        pairs = ", ".join(sorted("-".join(pair) for pair in found)) or "none"
        raise DataError(
            f"cannot tell the languages of {folder}: pairs found: {pairs}; {listing(Path(folder))}; choose "
            "with --source-lang and --target-lang, or make data with hat preprocess"
        )
    ((first, second),) = found
    return source or first, target or second


def load_vocabs(folder: Path | str, source_lang: str, target_lang: str) -> tuple[Vocab, Vocab]:
    """Return the dictionaries of both languages; one object twice when their symbols are the same."""
    source, target = (Vocab.load(Path(folder) / f"dict.{lang}.txt") for lang in (source_lang, target_lang))
    return source, source if source == target else target


@dataclass(frozen=True)
class PairDataset:
    """The pairs of one split: ids on disk, dictionaries and lengths in memory."""

    folder: Path
    split: str
    source_lang: str
    target_lang: str
    source_vocab: Vocab
    target_vocab: Vocab
    source: IndexedData
    target: IndexedData

    @classmethod
    def load(
        cls, folder: Path | str, split: str, source_lang: str | None = None, target_lang: str | None = None
    ) -> "PairDataset":
        """Open `<split>.<src>-<tgt>.<lang>.*` in `folder`; without languages they come from the file names.

        Raises DataError if files are missing, damaged or do not fit together; all ids are read to see it.
        """
        folder = Path(folder)
        both = languages(folder, source_lang, target_lang)
        sides = []
        for lang in both:
            prefix = folder / f"{split}.{'-'.join(both)}.{lang}"
            ids, index = paths_of(prefix)
            if not index.exists():
                raise DataError(
                    f"there is no {index}; {listing(folder)}; check split and languages, or make the data "
                    "with hat preprocess"
                )
            check_digests(folder, [index.name, ids.name, f"dict.{lang}.txt"])
            sides.append(IndexedData(prefix))
        if len(sides[0]) != len(sides[1]):
            raise unequal(sides[0].prefix, sides[1].prefix, [len(side) for side in sides], "sentences")
        vocabs = load_vocabs(folder, *both)
        for side, vocab in zip(sides, vocabs, strict=True):
            side.check_ids(len(vocab), EOS)
        return cls(folder, split, *both, *vocabs, *sides)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def source_lengths(self) -> np.ndarray:
        """Return the source lengths with EOS, int32 [pairs]."""
        return self.source.lengths

    @property
    def target_lengths(self) -> np.ndarray:
        """Return the target lengths with EOS, int32 [pairs]."""
        return self.target.lengths

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Return the pairs `indices` (at least one) as a batch, in this order."""
        indices = np.asarray(indices, dtype=np.int64)
        return _collate(indices, self.source.gather(indices), self.target.gather(indices))

    def digest(self, count: int) -> str:
        """Return the SHA-256 of the ids of the first `count` pairs, wherever and however they are stored."""
        digest = hashlib.sha256()
        for side in (self.source, self.target):
            for part in side.gather(np.arange(count)):
                digest.update(part.tobytes())
        return digest.hexdigest()

    def content(self) -> list[str]:
        """Return the SHA-256 of the files of ids of both sides: cheaper than `digest` for many pairs."""
        return [file_digest(side.bin) for side in (self.source, self.target)]

    def raw_target(self, path: Path | str | None = None) -> list[str] | None:
        """Return the untokenised reference of every pair, from `path` or as preprocessing kept it.

        None when no path is given and none was kept. Raises DataError when the number of lines differs.
        """
        kept = self.folder / f"{self.split}.{self.source_lang}-{self.target_lang}.{self.target_lang}.txt"
        if path is None:
            if not kept.exists():
                return None
            check_digests(self.folder, [kept.name])
        lines = [line.strip(" \t\r") for line in read_lines(path or kept)]
        if len(lines) != len(self):
            found = f"{path or kept} has {len(lines)} lines, the {self.split} set {len(self)} sentences"
            raise DataError(f"{found}; each needs one line; give the text the data was made from")
        return lines
