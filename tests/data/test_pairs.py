"""Padding, shifted decoder input, datasets and their errors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hat.data.folder import SUMS, languages
from hat.data.indexed import write_indexed
from hat.data.pairs import PairDataset, collate, flat
from hat.data.preprocess import PreprocessConfig, preprocess
from hat.data.vocab import EOS, PAD
from hat.errors import DataError


def test_hand_made_batch():
    batch = collate(
        [7, 3],
        flat([np.array([5, 6, EOS]), np.array([8, EOS])]),
        flat([np.array([9, EOS]), np.array([10, 11, 12, EOS])]),
    )
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
    assert data.source_lengths.tolist() == [3, 2, 4] and data.target_lengths.tolist() == [2, 4, 2]
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
