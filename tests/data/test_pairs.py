"""Padding, shifted decoder input, datasets and their errors; batch plans, shards and resumable epochs."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hat.data.folder import SUMS, languages
from hat.data.indexed import write_indexed
from hat.data.pairs import EpochBatches, PairDataset, collate, flat, plan_batches, usable
from hat.data.preprocess import PreprocessConfig, preprocess
from hat.data.vocab import EOS, PAD
from hat.errors import DataError


def test_hand_made_batch():
    sides = [[5, 6, EOS], [8, EOS]], [[9, EOS], [10, 11, 12, EOS]]
    batch = collate([7, 3], *(flat([np.array(ids) for ids in side]) for side in sides))
    assert batch.ids.tolist() == [7, 3]
    assert batch.source.tolist() == [[5, 6, EOS], [PAD, 8, EOS]]
    assert batch.target.tolist() == [[9, EOS, PAD, PAD], [10, 11, 12, EOS]]
    assert batch.decoder_input.tolist() == [[EOS, 9, PAD, PAD], [EOS, 10, 11, 12]]
    assert batch.num_tokens == 6 and len(batch) == 2
    assert {t.dtype for t in (batch.ids, batch.source, batch.target, batch.decoder_input)} == {torch.int64}
    assert torch.equal(batch.to("cpu").source, batch.source)


SENTENCE = st.lists(st.integers(3, 50), max_size=9).map(lambda ids: np.array([*ids, EOS]))


@given(st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=9))
def test_padding_adds_nothing_and_loses_nothing(pairs):
    sources, targets = zip(*pairs, strict=True)
    batch = collate(range(len(pairs)), flat(sources), flat(targets))
    for row, (source, target) in enumerate(pairs):
        assert batch.source[row].tolist() == [PAD] * (batch.source.size(1) - len(source)) + source.tolist()
        padding = [PAD] * (batch.target.size(1) - len(target))
        assert batch.target[row].tolist() == target.tolist() + padding
        assert batch.decoder_input[row].tolist() == [EOS, *target[:-1].tolist(), *padding]
    assert batch.source.size(1) == max(map(len, sources))
    assert batch.num_tokens == sum(map(len, targets))


@pytest.fixture
def folder(tmp_path):
    for lang, text in (("en", "a b\na\nb b a\n"), ("de", "x\ny y x\nx\n")):
        (tmp_path / f"train.{lang}").write_text(text)
    out = tmp_path / "out"
    preprocess(PreprocessConfig("en", "de", str(out), trainpref=str(tmp_path / "train")))
    return out


def test_dataset(folder):
    data = PairDataset.load(folder, "train")
    assert (data.source_lang, data.target_lang, len(data)) == ("en", "de", 3)
    assert data.source.lengths.tolist() == [3, 2, 4] and data.target.lengths.tolist() == [2, 4, 2]
    batch = data.batch([2, 0])
    sides = (flat([side[2], side[0]]) for side in (data.source, data.target))
    other = collate([2, 0], *sides)
    for name in ("ids", "source", "target", "decoder_input"):
        assert torch.equal(getattr(batch, name), getattr(other, name))
    assert batch.num_tokens == other.num_tokens == 4
    assert data.source_vocab.decode(batch.source[1]) == "a b"


def test_raw_target(folder, tmp_path):
    data = PairDataset.load(folder, "train")
    assert data.raw_target() is None
    assert data.raw_target(tmp_path / "train.de") == ["x", "y y x", "x"]
    (folder / "train.en-de.de.txt").write_bytes("X\r\nY\u2028Z\nX\n".encode())
    assert data.raw_target() == ["X", "Y\u2028Z", "X"]
    (folder / "train.en-de.de.txt").write_bytes(b"X\n")
    with pytest.raises(DataError, match="has 1 lines, the train set 3"):
        data.raw_target()


def test_languages_missing_or_ambiguous(folder, tmp_path):
    with pytest.raises(DataError, match="no such folder.*preprocess"):
        languages(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds nothing"):
        PairDataset.load(tmp_path / "bare", "train")
    write_indexed(folder / "train.en-fr.en", [np.array([EOS])], 10)
    with pytest.raises(DataError, match="en-de, en-fr"):
        PairDataset.load(folder, "train")
    assert len(PairDataset.load(folder, "train", "en", "de")) == 3


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([[4, EOS]], "has 3 sentences but .* has 1"),
        ([[4, EOS], [8, EOS], [EOS]], "has ids from 2 to 8, its dictionary has 0 to 7"),
        ([[4, EOS], [EOS, 4], [EOS]], "sentence 1 does not end"),
    ],
)
def test_data_that_does_not_fit(folder, sentences, message):
    write_indexed(folder / "train.en-de.de", [np.array(ids) for ids in sentences], 20)
    with pytest.raises(DataError, match="de.idx is damaged: its SHA-256 differs"):
        PairDataset.load(folder, "train")
    (folder / SUMS).unlink()  # as in data of other programs
    with pytest.raises(DataError, match=message):
        PairDataset.load(folder, "train")


LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=200).map(
    lambda pairs: np.array(pairs, dtype=np.int32).reshape(-1, 2).T
)


def plan(lengths, **changes):
    return plan_batches(*lengths, **{"max_tokens": 100, "seed": 1, "epoch": 1, **changes})


@given(LENGTHS, st.integers(40, 400), st.one_of(st.none(), st.integers(1, 20)), st.booleans())
def test_every_pair_once_within_the_budget(lengths, max_tokens, max_sentences, shuffle):
    options = {"max_tokens": max_tokens, "max_sentences": max_sentences, "shuffle": shuffle}
    batches = plan(lengths, **options)
    assert sorted(np.concatenate(batches)) == list(range(lengths.shape[1])) if batches else not lengths.size
    longest = lengths.max(axis=0) if lengths.size else lengths
    for batch in batches:
        assert longest[batch].max() * len(batch) <= max_tokens
        assert max_sentences is None or len(batch) <= max_sentences
        assert len(batch) < 8 or len(batch) % 8 == 0
    again = plan(lengths, **options)
    assert [b.tolist() for b in again] == [b.tolist() for b in batches]


@given(LENGTHS)
def test_batches_are_runs_of_the_sorted_pairs_and_as_large_as_allowed(lengths):
    batches = plan(lengths, shuffle=False)
    order = [tuple(lengths[:, i]) for batch in batches for i in batch]
    assert order == sorted(order)
    longest = lengths.max(axis=0)
    flat, end = np.concatenate(batches) if batches else np.zeros(0, int), 0
    for batch in batches:
        end += len(batch)
        step = 8 if len(batch) >= 8 else 1
        grown = flat[end - len(batch) : end + step]
        assert end + step > len(flat) or longest[grown].max() * len(grown) > 100


def test_plan_is_a_function_of_seed_and_epoch():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 9, (2, 500))
    chosen = [plan(lengths, seed=seed, epoch=epoch) for seed, epoch in ((1, 1), (1, 2), (2, 1))]
    plans = [[b.tolist() for b in each] for each in chosen]
    assert plans[0] != plans[1] != plans[2] != plans[0]
    assert [b.tolist() for b in plan(lengths)] == plans[0]
    by_hand = plan(np.array([[5, 3, 3, 9], [5, 4, 2, 1]]), max_tokens=12, shuffle=False)
    assert [b.tolist() for b in by_hand] == [[2, 1], [0], [3]]  # lengths 3, 4 | 5 | 9


def test_bad_limits_and_too_long_pairs():
    lengths = np.array([[3, 200, 4], [3, 5, 300]])
    assert usable(lengths, 100, (1024, 1024)).tolist() == [0]
    assert usable(lengths, 1000, (100, 1024)).tolist() == [0, 2]
    with pytest.raises(DataError, match="line 2 of the source text has 200 tokens.*--max-tokens-valid"):
        usable(lengths, 100, (1024, 1024), drop_long=False)
    assert len(usable(lengths, 300, (1024, 1024), drop_long=False)) == 3


class Pairs:
    """A dataset in memory."""

    folder, split = "memory", "train"

    def __init__(self, count, broken=()):
        rng = np.random.default_rng(0)
        self.source, self.target = (SimpleNamespace(lengths=some) for some in rng.integers(2, 30, (2, count)))
        self.broken, self.made = broken, 0

    def batch(self, indices):
        self.made += 1
        if set(self.broken) & set(indices.tolist()):
            raise DataError("broken pair")
        ids = [np.full(self.source.lengths[i], 4) for i in indices]
        return collate(indices, flat(ids), flat(ids))


def epoch(data, **changes):
    return EpochBatches(data, **{"max_tokens": 200, "seed": 1, "epoch": 3, **changes})


def ids(batches):
    return [None if batch is None else batch.ids.tolist() for batch in batches]


def test_resumed_epoch_is_the_tail_of_the_whole():
    data = Pairs(300)
    whole = ids(epoch(data))
    assert len(whole) == len(epoch(data)) > 10
    for start in (0, 1, 7, len(whole) - 1, len(whole)):
        assert ids(epoch(data, start=start)) == whole[start:]


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
def test_ranks_have_equal_slots_and_drop_nothing(world):
    data = Pairs(300)
    whole, ranks = ids(epoch(data)), [ids(epoch(data, rank=rank, world=world)) for rank in range(world)]
    assert len({len(slots) for slots in ranks}) == 1
    merged = [slots[i] for i in range(len(ranks[0])) for slots in ranks]
    assert merged[: len(whole)] == whole and set(merged[len(whole) :]) <= {None}
    assert len(merged) - len(whole) < world


def test_long_pairs_are_skipped_in_training_and_refused_else():
    data = Pairs(300)
    data.source.lengths[17] = 2000
    batches = epoch(data)
    assert batches.num_skipped == 1
    assert sorted(sum(ids(batches), [])) == [i for i in range(300) if i != 17]
    with pytest.raises(DataError, match="line 18 of the source text"):
        epoch(data, drop_long=False)
    with pytest.raises(DataError, match="none of the"):
        epoch(data, max_tokens=1)


def test_errors_reach_the_consumer_and_no_thread_stays():
    before = threading.active_count()
    with pytest.raises(DataError, match="broken pair"):
        list(epoch(Pairs(300, broken=[150])))
    data = Pairs(300)
    iterator = iter(epoch(data))
    first = next(iterator)
    iterator.close()
    assert data.made <= 4 and torch.is_tensor(first.source)
    assert threading.active_count() == before
