"""Data sets of text and of binary data; plain sentences to ids and back."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hat.data.dataset import Dataset
from hat.data.folder import CODES_FILE, MODEL_FILE
from hat.data.preprocess import PreprocessConfig, preprocess
from hat.data.subwords import TextCodec, apply_bpe, learn_bpe
from hat.data.toy import toy_pairs
from hat.data.vocab import EOS
from hat.errors import ConfigError, DataError

PAIRS = toy_pairs(1, 400)
ENGLISH, GERMAN = ([pair[side] for pair in PAIRS] for side in (0, 1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data") / "made"
    return Dataset.from_text(ENGLISH, GERMAN, pieces=200, valid=0.1, test=20, folder=folder)


def test_text_becomes_binary_data(data: Dataset) -> None:
    assert [len(data.split(name)) for name in ("train", "valid", "test")] == [340, 40, 20]
    assert data.languages == ("en", "de") and data.vocabs[0] is data.vocabs[1]
    assert data.vocab_sizes == (len(data.vocabs[0]),) * 2 and len(data.digests[0]) == 64
    valid = data.split("valid")
    texts = dict(PAIRS)
    for index, german in enumerate(valid.raw_target()):
        assert data.codec.decode(valid.target[index]) == german
        assert texts[data.codec.decode(valid.source[index])] == german


def test_a_folder_is_opened_again(data: Dataset, tmp_path: Path) -> None:
    again, train = Dataset.load(data.folder), data.split("train")
    assert again.vocabs == data.vocabs and again.digests == data.digests
    for index in range(20):  # ids are those of preprocessing
        text = data.codec.decode(train.source[index])
        assert again.codec.encode(text).tolist() == train.source[index].tolist()
    assert data.codec.encode("").tolist() == data.codec.encode("  ").tolist() == [EOS]
    with pytest.raises(DataError, match="no such folder"):
        Dataset.load(tmp_path / "none")


def test_paths_and_a_temporary_folder(tmp_path: Path) -> None:
    for lang, lines in (("en", ENGLISH), ("fr", GERMAN)):
        (tmp_path / f"a.{lang}").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    data = Dataset.from_text(tmp_path / "a.en", str(tmp_path / "a.fr"), target_lang="fr", pieces=200)
    folder = data.folder
    assert len(data.split("valid")) == 20 and data.target_lang == "fr"
    assert not (tmp_path / "dict.en.txt").exists() and (folder / MODEL_FILE).is_file()
    del data
    assert not folder.exists()


def test_wrong_texts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="400 sentences but .* 399"):
        Dataset.from_text(ENGLISH, GERMAN[:-1])
    with pytest.raises(DataError, match="too few"):
        Dataset.from_text(ENGLISH[:1], GERMAN[:1])
    with pytest.raises(ConfigError, match="pieces 3: the characters of the text"):
        Dataset.from_text(ENGLISH, GERMAN, pieces=3, folder=tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_a_codec_survives_as_plain_values(data: Dataset, tmp_path: Path) -> None:
    torch.save(data.codec.to_plain(), tmp_path / "codec.pt")
    again = TextCodec.from_plain(torch.load(tmp_path / "codec.pt", weights_only=True))
    assert again.vocabs == data.vocabs and again.vocabs[0] is again.vocabs[1]
    assert again.languages == ("en", "de") and again.kind == "sentencepiece"
    assert np.array_equal(again.encode(ENGLISH[5]), data.codec.encode(ENGLISH[5]))


@pytest.mark.parametrize("lower", [False, True])
def test_bpe_text_of_the_release(lower: bool, tmp_path: Path) -> None:
    pytest.importorskip("sacremoses")
    rng = random.Random(1)
    words = ["House", "tree", "trees", "well", "known", "it", "&apos;s", "a", ",", "."]
    known = " well @-@ known ." + " @-@" * 9
    lines = [" ".join(rng.choice(words) for _ in range(12)) + known for _ in range(60)]
    texts = [tmp_path / f"tok.{lang}" for lang in ("en", "de")]
    for path in texts:
        text = "".join(f"{line}\n" for line in lines)
        path.write_text(text.lower() if lower else text)
    learn_bpe(texts, tmp_path / "codes", 16)
    apply_bpe(tmp_path / "codes", texts, tmp_path / "bpe")
    given = {"trainpref": str(tmp_path / "bpe" / "tok"), "bpe_codes": str(tmp_path / "codes")}
    preprocess(PreprocessConfig("en", "de", str(tmp_path / "out"), **given))
    codec = Dataset.load(tmp_path / "out").codec
    assert codec.kind == "subword_nmt"
    ids = codec.encode("it's a well-known House, trees.")
    shown = codec.vocabs[0].decode(ids).replace("@@ ", "")
    house = "house" if lower else "House"
    assert shown == f"it &apos;s a well @-@ known {house} , trees ."
    assert codec.decode(ids).endswith(f"a well-known {house}, trees.")
    (tmp_path / "out" / CODES_FILE).unlink()
    with pytest.raises(DataError, match=f"{CODES_FILE}, the subword model .* is missing"):
        Dataset.load(tmp_path / "out").codec.encode("a")


def test_words_without_subwords_and_a_missing_model(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "t.en").write_text("a b\n")
    (tmp_path / "t.de").write_text("c d\n")
    preprocess(PreprocessConfig("en", "de", str(tmp_path / "out"), trainpref=str(tmp_path / "t")))
    codec = Dataset.load(tmp_path / "out").codec
    assert codec.kind is None and codec.vocabs[0].decode(codec.encode(" b  a")) == "b a"
    assert codec.decode(codec.vocabs[1].encode("c d")) == "c d"
    shutil.copytree(data.folder, tmp_path / "bare")
    (tmp_path / "bare" / MODEL_FILE).unlink()
    codec = Dataset.load(tmp_path / "bare").codec
    assert codec.decode(data.codec.encode(GERMAN[0])) == GERMAN[0]
    with pytest.raises(DataError, match=f"{MODEL_FILE}, the subword model .* is missing"):
        codec.encode("a")
