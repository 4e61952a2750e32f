"""Sentence pairs and batches: B sentences, S longest source, T longest target (both with EOS)."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from hat.data.folder import check_digests, languages, listing
from hat.data.indexed import Flat, IndexedData, flat, paths_of
from hat.data.text import in_order, read_lines, unequal
from hat.data.vocab import EOS, PAD, Vocab
from hat.errors import ConfigError, DataError
from hat.files.atomic import file_digest
from hat.rng import seed_for

MAX_POSITIONS = 1024
SIDES = "source", "target"
ORIGINAL = "original"  # split of a distilled folder: the targets that the text had


@dataclass(frozen=True)
class Batch:
    """A padded batch; all tensors are int64."""

    ids: Tensor  # [B] numbers of the pairs in their dataset
    source: Tensor  # [B, S] left-padded, ends with EOS
    decoder_input: Tensor  # [B, T] right-padded, EOS followed by the target without its EOS
    target: Tensor  # [B, T] right-padded, ends with EOS
    num_tokens: int  # target tokens without padding

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on `device`."""
        # A copy to the CPU must be complete on return; one to a GPU need not wait for the kernels before it.
        overlap = torch.device(device).type != "cpu"
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: x.to(device, non_blocking=overlap) for name, x in tensors.items()})


def collate(ids: Sequence[int] | np.ndarray, source: Flat, target: Flat) -> Batch:
    """Pad the two sides of the pairs `ids`, at least one, to a batch."""
    tokens, lengths = target
    shifted = np.roll(tokens, 1)
    shifted[np.cumsum(lengths) - lengths] = EOS
    numbers = torch.from_numpy(np.array(ids, dtype=np.int64))
    sides = pad(source, left=True), pad((shifted, lengths)), pad(target)
    return Batch(numbers, *sides, num_tokens=int((tokens != PAD).sum()))


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
        """Open `<split>.<src>-<tgt>.<lang>.*`, by default of the only languages; DataError if damaged."""
        folder, sides = Path(folder), []
        for lang in (both := languages(folder, source_lang, target_lang)):
            prefix = folder / f"{split}.{'-'.join(both)}.{lang}"
            ids, index = paths_of(prefix)
            if not index.exists():
                advice = "check split and languages, or make the data with hat preprocess"
                raise DataError(f"there is no {index}; {listing(folder)}; {advice}")
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
        """Return the raw reference of every pair, from `path` or as preprocessing kept it, else None."""
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
    sides: tuple[IndexedData, IndexedData]  # of each sentence one of two targets
    chosen: np.ndarray  # 0 or 1 for each sentence

    @property
    def lengths(self) -> np.ndarray:
        return np.where(self.chosen, self.sides[1].lengths, self.sides[0].lengths)

    def gather(self, indices: np.ndarray) -> Flat:
        return flat([self.sides[self.chosen[index]][index] for index in indices])


def mixed(data: PairDataset, share: float, seed: int, epoch: int) -> PairDataset:
    """Return the pairs of an epoch: a drawn `share` of those of `data` has the original targets."""
    if not share:
        return data
    try:
        original = PairDataset.load(data.folder, ORIGINAL, data.source_lang, data.target_lang).target
    except DataError as error:
        raise ConfigError(f"--distill-mix {share} needs data of hat distill: {error}") from error
    if len(original) != len(data):
        raise unequal(original.prefix, data.target.prefix, [len(original), len(data)], "sentences")
    chosen = np.zeros(len(data), dtype=np.int64)
    order = np.random.default_rng(seed_for(seed, "mixture", epoch)).permutation(len(data))
    chosen[order[: round(share * len(data))]] = 1
    return replace(data, target=cast(IndexedData, _Mixture((data.target, original), chosen)))


def plan_batches(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    *,
    max_tokens: int,
    max_sentences: int | None = None,
    multiple: int = 8,
    seed: int,
    epoch: int,
    shuffle: bool = True,
) -> list[np.ndarray]:
    """Return index arrays that hold every pair once; lengths [pairs], EOS included, are at most max_tokens.
    Pairs are sorted by source, then target length; each batch takes as many as fit: longest (of source and
    target) * count <= max_tokens and count <= max_sentences, rounded down to a `multiple` if that is not 0.
    Ties and the order of batches are random by (seed, epoch); without `shuffle`, batches run short to long.
    """
    rng = np.random.default_rng(seed_for(seed, "batches", epoch))
    order = rng.permutation(len(source_lengths)) if shuffle else np.arange(len(source_lengths))
    order = order[np.lexsort((target_lengths[order], source_lengths[order]))]
    lengths = np.maximum(source_lengths, target_lengths).astype(np.int64)[order]
    assert lengths.max(initial=0) <= max_tokens, "pairs that are too long are left out before, see `usable`"
    batches, start = [], 0
    while start < len(lengths):
        most = min(max_tokens // lengths[start], max_sentences or max_tokens)
        longest = np.maximum.accumulate(lengths[start : start + most])
        count = int(np.count_nonzero(longest * np.arange(1, len(longest) + 1) <= max_tokens))
        if count > multiple:
            count -= count % multiple
        batches.append(order[start : start + count])
        start += count
    return [batches[index] for index in rng.permutation(len(batches))] if shuffle else batches


def usable(
    lengths: Sequence[np.ndarray], max_tokens: int, positions: Sequence[int], drop_long: bool = True
) -> np.ndarray:
    """Return the indices of the pairs that are short enough; others are a DataError unless `drop_long`."""
    limits = [min(most, max_tokens) for most in positions]
    good = (lengths[0] <= limits[0]) & (lengths[1] <= limits[1])
    if not drop_long and not good.all():
        first = int(np.argmin(good))
        side = 0 if lengths[0][first] > limits[0] else 1
        flag = "--max-tokens-valid" if max_tokens < positions[side] else f"--max-{SIDES[side]}-positions"
        shown = f"line {first + 1} of the {SIDES[side]} text has {lengths[side][first]} tokens with its end"
        allowed = f"{limits[side]} are allowed ({np.count_nonzero(~good)} such lines)"
        raise DataError(f"{shown}, {allowed}; shorten it, or raise {flag}")
    return np.flatnonzero(good)


@dataclass
class EpochBatches:
    """The batches of one epoch for one rank, and None if other ranks have one more: a function of the fields
    alone. Rank r of k takes batches start + k*i + r, so an epoch begun by some ranks can be finished by more
    or fewer. A thread makes the next two. Raises DataError if no pair is short enough.
    """

    data: PairDataset
    max_tokens: int  # most padded tokens of a batch on either side
    seed: int
    epoch: int
    start: int = 0  # batches already done by all ranks together, when an interrupted epoch is resumed
    max_sentences: int | None = None
    rank: int = 0
    world: int = 1
    shuffle: bool = True
    multiple: int = 8
    drop_long: bool = True  # leave too long pairs out (training); else they are an error (validation, test)
    max_source_positions: int = MAX_POSITIONS
    max_target_positions: int = MAX_POSITIONS

    def __post_init__(self) -> None:
        lengths = self.data.source.lengths, self.data.target.lengths
        positions = self.max_source_positions, self.max_target_positions
        kept = usable(lengths, self.max_tokens, positions, self.drop_long)
        self.num_skipped = len(lengths[0]) - len(kept)
        if not len(kept):
            found = f"none of the {self.num_skipped} {self.data.split} pairs fits {self.max_tokens} tokens"
            raise DataError(f"{self.data.folder}: {found}; raise --max-tokens or give other data")
        names = ("max_tokens", "max_sentences", "multiple", "seed", "epoch", "shuffle")
        options = {name: getattr(self, name) for name in names}
        self.plan = plan_batches(*(side[kept] for side in lengths), **options)
        left = [kept[batch] for batch in self.plan[self.start :]]
        missing = -len(left) % self.world  # at the end, so that every rank has as many
        self.slots = [*left, *[None] * missing][self.rank :: self.world]

    def __len__(self) -> int:
        """Return the batches of the whole epoch: of all ranks, those before `start` included."""
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch | None]:
        def make(indices: np.ndarray | None) -> Batch | None:
            return None if indices is None else self.data.batch(indices)

        with ThreadPoolExecutor(1, "batches") as pool:
            yield from in_order(pool, make, self.slots, ahead=2)


def groups(batches: Iterable[Batch | None], size: int) -> Iterator[list[Batch]]:
    """Yield `size` slots at a time, last perhaps fewer; empty slots, at the end only, are left out."""
    slots = iter(batches)
    while group := list(itertools.islice(slots, size)):
        yield [batch for batch in group if batch is not None]
