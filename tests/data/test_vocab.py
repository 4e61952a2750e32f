"""Dictionaries: order, thresholds, padding, round trips, bad files."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data.vocab import BOS, EOS, PAD, SPECIALS, UNK, Vocab
from hat.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1)
SYMBOLS = TEXT.map(lambda text: "".join(text.split())).filter(bool)


def test_order_limits_and_padding(tmp_path):
    vocab = Vocab.build(Counter(["a", "b", "a"]))
    assert list(vocab)[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert (BOS, PAD, EOS, UNK) == (0, 1, 2, 3)
    vocab.save(tmp_path / "dict.txt")  # the specials are not in the file
    assert (tmp_path / "dict.txt").read_text() == "a 2\nb 1\nmadeupword0000 0\nmadeupword0001 0\n"
    by_count_then_code = Vocab.build(Counter({"b": 2, "a": 2, "Z": 2, "\u00e4": 2, "x": 9}), pad_to=1)
    assert list(by_count_then_code)[4:] == ["x", "Z", "a", "b", "\u00e4"]
    cut = Vocab.build(Counter({"a": 3, "b": 2, "c": 1}), nwords=6)  # with the specials, before padding
    assert list(cut)[4:] == ["a", "b", "madeupword0000", "madeupword0001"]
    assert list(Vocab.build(Counter({"madeupword0000": 3})))[4:] == [f"madeupword000{n}" for n in range(4)]


@settings(max_examples=30)
@given(st.dictionaries(SYMBOLS.filter(lambda s: s not in SPECIALS), st.integers(1, 99), max_size=30))
def test_round_trip_through_a_file(tmp_path_factory, counts):
    path = tmp_path_factory.mktemp("vocab") / "dict.en.txt"
    built = Vocab.build(Counter(counts))
    built.save(path)
    first = path.read_bytes()
    loaded = Vocab.load(path)
    assert loaded == built and len(loaded) % 8 == 0
    loaded.save(path)
    assert path.read_bytes() == first
    line = " ".join(counts)
    assert loaded.decode(loaded.encode(line)) == line
    assert loaded.encode(line)[-1] == EOS and loaded.encode(line).dtype == np.int32


def test_a_file_is_taken_as_it_is(tmp_path):
    (tmp_path / "d").write_bytes(b"a 1\r\nsp ace 7\n")
    vocab = Vocab.load(tmp_path / "d")
    assert list(vocab)[4:] == ["a", "sp ace"]  # split at the last space, not padded


def test_tokens_and_words_spelt_like_specials():
    vocab = Vocab(["a", "b", "d\u00a0e"])  # version 0.1 made such symbols
    assert vocab.encode("\ufeffa\t\tb\u2028b\u3000\x85a\u00a0d a\r").tolist() == [4, 5, 5, 4, UNK, 4, EOS]
    assert vocab.encode("").tolist() == [EOS]
    assert vocab.encode("</s> <pad> <s> <unk> a").tolist() == [UNK, UNK, UNK, UNK, 4, EOS]
    assert vocab.decode([EOS, PAD, 4, UNK, 6, EOS, PAD], unk="<<unk>>") == "a <<unk>> d\u00a0e"
    assert vocab.decode(np.array([4, 6])) == "a d\u00a0e"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a 1\nb\n", 2),
        (b"a 1\nb -1\n", 2),
        (b"a 1\n\nb 1\n", 2),
        (b" 1\n", 1),
        (b"a 1\nb 2\na 3\n", 3),
        (b"</s> 3\n", 1),
        (b"a 1\n\xff 2\n", 2),
        (b"a 1_0\n", 1),
        ("a \u0665\n".encode(), 1),
    ],
)
def test_bad_line_is_named(tmp_path, content, line):
    path = tmp_path / "dict.en.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"dict\.en\.txt:{line}\b"):
        Vocab.load(path)
