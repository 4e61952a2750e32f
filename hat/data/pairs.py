"""Sentence pairs as padded batches.

Letters: B sentences of a batch, S longest source, T longest target (both with EOS).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from hat.data.folder import check_digests, languages, listing
from hat.data.indexed import IndexedData, paths_of
from hat.data.text import read_lines, unequal
from hat.data.vocab import EOS, PAD, Vocab
from hat.errors import ConfigError, DataError
from hat.files.atomic import file_digest
from hat.rng import seed_for

ORIGINAL = "original"  # split of a distilled folder: the targets that the text had
Flat = tuple[np.ndarray, np.ndarray]  # ids of sentences back to back, and the length of each


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


def flat(sentences: Sequence[np.ndarray]) -> Flat:
    """Return sentences (1-d id arrays that end with EOS, at least one) back to back, and their lengths."""
    return np.concatenate(sentences).astype(np.int64), np.array([len(ids) for ids in sentences])


def collate(ids: Sequence[int] | np.ndarray, source: Flat, target: Flat) -> Batch:
    """Pad the two sides of the pairs `ids`, at least one, to a batch."""
    tokens, lengths = target
    shifted = np.roll(tokens, 1)
    shifted[np.cumsum(lengths) - lengths] = EOS
    return Batch(
        ids=torch.from_numpy(np.array(ids, dtype=np.int64)),
        source=pad(source, left=True),
        decoder_input=pad((shifted, lengths)),
        target=pad(target),
        num_tokens=int((tokens != PAD).sum()),
    )


def pad(sentences: Flat, *, left: bool = False) -> Tensor:
    """Return the sentences as rows [B, longest], int64, padded at the left or the right."""
    tokens, lengths = sentences
    column = np.arange(lengths.max())
    used = column >= (lengths.max() - lengths)[:, None] if left else column < lengths[:, None]
    rows = np.full(used.shape, PAD, dtype=np.int64)
    rows[used] = tokens
    return torch.from_numpy(rows)


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
                found = f"there is no {index}; {listing(folder)}"
                raise DataError(f"{found}; check split and languages, or make the data with hat preprocess")
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
        return collate(indices, self.source.gather(indices), self.target.gather(indices))

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
        if path is None:
            path = Path(f"{self.target.prefix}.txt")
            if not path.exists():
                return None
            check_digests(self.folder, [path.name])
        lines = [line.removeprefix("\ufeff").strip() for line in read_lines(path)]
        if len(lines) != len(self):
            found = f"{path} has {len(lines)} lines, the {self.split} set {len(self)} sentences"
            raise DataError(f"{found}; each needs one line; give the text the data was made from")
        return lines


@dataclass(frozen=True)
class _Mixture:
    """Of each sentence one of two targets; what batches ask an IndexedData for."""

    sides: tuple[IndexedData, IndexedData]
    chosen: np.ndarray  # 0 or 1 for each sentence

    @property
    def lengths(self) -> np.ndarray:
        return np.where(self.chosen, self.sides[1].lengths, self.sides[0].lengths)

    def gather(self, indices: np.ndarray) -> Flat:
        return flat([self.sides[self.chosen[index]][index] for index in indices])


def mixed(data: PairDataset, share: float, seed: int, epoch: int) -> PairDataset:
    """Return the pairs of one epoch: a drawn `share` of those of `data` have their original targets.

    Raises ConfigError if the folder is not one of hat distill.
    """
    if not share:
        return data
    names = data.folder, ORIGINAL, data.source_lang, data.target_lang
    try:
        original = PairDataset.load(*names).target
    except DataError as error:
        raise ConfigError(f"--distill-mix {share} needs data of hat distill: {error}") from error
    if len(original) != len(data):
        raise unequal(original.prefix, data.target.prefix, [len(original), len(data)], "sentences")
    chosen = np.zeros(len(data), dtype=np.int64)
    order = np.random.default_rng(seed_for(seed, "mixture", epoch)).permutation(len(data))
    chosen[order[: round(share * len(data))]] = 1
    return replace(data, target=cast(IndexedData, _Mixture((data.target, original), chosen)))
