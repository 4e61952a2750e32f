"""Batches of about equal padded size, planned from lengths alone, and the epochs made of them."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hat.data.pairs import Batch, PairDataset
from hat.data.text import in_order
from hat.errors import DataError
from hat.rng import seed_for

Item = TypeVar("Item")
MAX_POSITIONS = 1024
SIDES = "source", "target"
PREFETCH = 2  # batches made ahead


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
    """Return index arrays that hold every pair once; lengths are [pairs], EOS included.

    Pairs are sorted by source, then target length; each batch takes as many as fit: longest (of source and
    target) * count <= max_tokens and count <= max_sentences, rounded down to a `multiple` when there are that
    many. Ties and the order of batches are random as a function of (seed, epoch); without `shuffle` ties keep
    their order and batches run from short to long. No pair may be longer than max_tokens, see `usable`.
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
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    max_tokens: int,
    max_source_positions: int = MAX_POSITIONS,
    max_target_positions: int = MAX_POSITIONS,
    *,
    drop_long: bool = True,
) -> np.ndarray:
    """Return the indices of the pairs that are short enough.

    Training leaves the others out; validation and test may not, and without `drop_long` they are a DataError.
    """
    limits = min(max_source_positions, max_tokens), min(max_target_positions, max_tokens)
    good = (source_lengths <= limits[0]) & (target_lengths <= limits[1])
    if not drop_long and not good.all():
        first, most = int(np.argmin(good)), (max_source_positions, max_target_positions)
        found = source_lengths[first], target_lengths[first]
        side = 0 if found[0] > limits[0] else 1
        flag = "--max-tokens-valid" if max_tokens < most[side] else f"--max-{SIDES[side]}-positions"
        raise DataError(
            f"line {first + 1} of the {SIDES[side]} text has {found[side]} tokens with its end, "
            f"{limits[side]} are allowed ({np.count_nonzero(~good)} such lines); shorten it, or raise {flag}"
        )
    return np.flatnonzero(good)


def shard(batches: Sequence[Item], rank: int, world: int) -> list[Item | None]:
    """Return the slots of one rank: batches rank, rank + world, ...

    Every rank has equally many slots; if the batches do not go round, the last slot of a rank is None.
    """
    slots: list[Item | None] = list(batches[rank::world])
    return slots + [None] * (-(-len(batches) // world) - len(slots))


@dataclass
class EpochBatches:
    """The batches of one epoch for one rank; iterating yields them, and None if other ranks have one more.

    A function of its fields alone: iterating again, or with another `start`, gives the same batches. Rank r
    of k takes batches start + k*i + r, so an epoch begun by some ranks can be finished by more or fewer.
    While the consumer works, a thread makes the next two. Raises DataError if no pair is short enough.
    """

    data: PairDataset
    max_tokens: int
    """most padded tokens of a batch on either side"""
    seed: int
    epoch: int
    start: int = 0
    """batches already done by all ranks together, when an interrupted epoch is resumed"""
    max_sentences: int | None = None
    rank: int = 0
    world: int = 1
    shuffle: bool = True
    multiple: int = 8
    drop_long: bool = True
    """leave pairs out that are too long (training); else they are an error (validation, test)"""
    max_source_positions: int = MAX_POSITIONS
    max_target_positions: int = MAX_POSITIONS

    def __post_init__(self) -> None:
        lengths = self.data.source_lengths, self.data.target_lengths
        limits = self.max_tokens, self.max_source_positions, self.max_target_positions
        kept = usable(*lengths, *limits, drop_long=self.drop_long)
        self.num_skipped = len(lengths[0]) - len(kept)
        if not len(kept):
            raise DataError(
                f"{self.data.folder}: none of the {self.num_skipped} {self.data.split} pairs fits into "
                f"{self.max_tokens} tokens; raise --max-tokens or give other data"
            )
        names = ("max_tokens", "max_sentences", "multiple", "seed", "epoch", "shuffle")
        options = {name: getattr(self, name) for name in names}
        self.plan = plan_batches(*(side[kept] for side in lengths), **options)
        self.slots = shard([kept[batch] for batch in self.plan[self.start :]], self.rank, self.world)

    def __len__(self) -> int:
        """Return the batches of the whole epoch: of all ranks, those before `start` included."""
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch | None]:
        with ThreadPoolExecutor(1, "batches") as pool:
            yield from in_order(pool, self._make, self.slots, PREFETCH)

    def _make(self, indices: np.ndarray | None) -> Batch | None:
        return None if indices is None else self.data.batch(indices)


def groups(batches: Iterable[Batch | None], size: int) -> Iterator[list[Batch]]:
    """Yield `size` slots at a time, the last group of an epoch may have fewer; empty slots are left out.

    Only the last slot of an epoch may be empty, so the place in a list is the place among the slots.
    """
    slots = iter(batches)
    while group := list(itertools.islice(slots, size)):
        yield [batch for batch in group if batch is not None]
