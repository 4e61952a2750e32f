"""Sentence pairs as padded batches.

Letters: B sentences of a batch, S longest source, T longest target (both with EOS).
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hat.data.folder import check_digests
from hat.data.indexed import IndexedData, bin_path, idx_path
from hat.data.text import read_lines
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
        moved = {
            f.name: value.to(device, non_blocking=overlap)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


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
    shifted = np.empty_like(flat)
    shifted[1:] = flat[:-1]
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


def languages(folder: Path | str) -> tuple[str, str]:
    """Return source and target language of the data in `folder`, read off the file names.

    Raises DataError, listing what is there, when there is no pair or more than one.
    """
    names = (path.name for path in Path(folder).glob("*.idx"))
    matches = (re.fullmatch(r"[^.]+\.([^.-]+)-([^.-]+)\.([^.]+)\.idx", name) for name in names)
    found = {match.group(1, 2) for match in matches if match and match[3] in match.group(1, 2)}
    if len(found) != 1:
        pairs = ", ".join(sorted("-".join(pair) for pair in found)) or "none"
        raise DataError(
            f"cannot tell the languages of {folder}: pairs found: {pairs}; {_listing(Path(folder))}; exactly "
            "one pair is needed; choose it with --source-lang and --target-lang, or make data with hat "
            "preprocess"
        )
    return found.pop()


def load_vocabs(folder: Path | str, source_lang: str, target_lang: str) -> tuple[Vocab, Vocab]:
    """Return the dictionaries of both languages; one object twice when their symbols are the same."""
    source, target = (Vocab.load(Path(folder) / f"dict.{lang}.txt") for lang in (source_lang, target_lang))
    return source, source if source == target else target


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return f"it holds {', '.join(names[:12]) or 'nothing'}{', ...' if len(names) > 12 else ''}"


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
        cls,
        folder: Path | str,
        split: str,
        source_lang: str | None = None,
        target_lang: str | None = None,
    ) -> "PairDataset":
        """Open `<split>.<src>-<tgt>.<lang>.*` in `folder`; without languages they come from the file names.

        Reads all ids once to check them. Raises DataError when files are missing, damaged, of unequal length,
        or hold ids that are not in the dictionary.
        """
        folder = Path(folder)
        if source_lang is None or target_lang is None:
            found = languages(folder)
            source_lang, target_lang = source_lang or found[0], target_lang or found[1]
        sides = []
        for lang in (source_lang, target_lang):
            prefix = folder / f"{split}.{source_lang}-{target_lang}.{lang}"
            if not idx_path(prefix).exists():
                raise DataError(
                    f"there is no {idx_path(prefix)}; {_listing(folder)}; check split and languages, or make "
                    "the data with hat preprocess"
                )
            check_digests(folder, [idx_path(prefix).name, bin_path(prefix).name, f"dict.{lang}.txt"])
            sides.append(IndexedData(prefix))
        if len(sides[0]) != len(sides[1]):
            raise DataError(
                f"{sides[0].prefix} has {len(sides[0])} sentences but {sides[1].prefix} has {len(sides[1])}; "
                "both must have as many; make the data again with hat preprocess"
            )
        vocabs = load_vocabs(folder, source_lang, target_lang)
        for data, vocab, lang in zip(sides, vocabs, (source_lang, target_lang), strict=True):
            _check_ids(data, vocab, folder / f"dict.{lang}.txt")
        return cls(folder, split, source_lang, target_lang, *vocabs, *sides)

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
        return [file_digest(bin_path(side.prefix)) for side in (self.source, self.target)]

    def raw_target(self, path: Path | str | None = None) -> list[str] | None:
        """Return the untokenised reference of every pair, from `path` or as preprocessing kept it.

        None when no path is given and none was kept. Raises DataError when the number of lines differs.
        """
        kept = self.folder / f"{self.split}.{self.source_lang}-{self.target_lang}.{self.target_lang}.txt"
        if path is None and not kept.exists():
            return None
        if path is None:
            check_digests(self.folder, [kept.name])
        lines = [line.strip(" \t\r") for line in read_lines(path or kept)]
        if len(lines) != len(self):
            raise DataError(
                f"{path or kept} has {len(lines)} lines, the {self.split} set {len(self)} sentences; each "
                "needs one line; give the text the data was made from"
            )
        return lines


def _check_ids(data: IndexedData, vocab: Vocab, dictionary: Path) -> None:
    if (largest := data.max_id()) >= len(vocab):
        raise DataError(
            f"{data.prefix}.bin has id {largest} but {dictionary} has only ids 0 to {len(vocab) - 1}; data "
            "and dictionary must belong together; make both again with hat preprocess"
        )
    if len(open_ended := np.flatnonzero(data.last_ids() != EOS)):
        raise DataError(
            f"{data.prefix}.bin: sentence {open_ended[0]} does not end with </s> (id {EOS}), as each must; "
            "make the data again with hat preprocess"
        )
