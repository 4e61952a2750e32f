"""Lines, subwords and sentencepiece."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data.subwords import learn_sentencepiece, load_pieces, remove_subwords
from hat.data.text import read_lines, split_tokens
from hat.errors import ConfigError, DataError

LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0"))


@settings(max_examples=40)
@given(st.lists(LINE), st.booleans())
def test_only_newline_ends_a_line(tmp_path_factory, lines, final_newline):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    text = "\n".join(lines) + ("\n" if final_newline and lines else "")
    path.write_bytes(text.encode())
    expected = text.split("\n")
    assert list(read_lines(path)) == (expected[:-1] if text.endswith("\n") or not text else expected)


@pytest.mark.parametrize(
    ("kind", "line", "expected"),
    [
        (None, "a@@ b", "a@@ b"),
        ("@@ ", "Ter@@ rier l@@ @@ x@@", "Terrier lx"),
        ("subword_nmt", "a b@@ c", "a bc"),
        ("sentencepiece", "\u2581Hel lo \u2581wor\u2028 ld .", "Hello wor\u2028ld."),
    ],
)
def test_remove_subwords(kind, line, expected):
    assert remove_subwords(line, kind) == expected


def test_sentencepiece_is_reproducible_and_loses_nothing(tmp_path, capfd):
    corpus = tmp_path / "train.en"
    words = "the cat sat on a mat and_then ran far away from here".replace("_", "\u2028").split(" ")
    lines = (" ".join(words[(i * k) % len(words)] for k in range(1, 8)) for i in range(200))
    corpus.write_text("\n".join(lines))
    for name in ("a", "b"):
        learn_sentencepiece([corpus], tmp_path / name, 60, seed=1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    pieces = load_pieces((tmp_path / "a").read_bytes())
    for line in [*read_lines(corpus), " the\tcat  <unk> \u4e2d </s> @@ "]:
        tokens = pieces(line)
        assert remove_subwords(" ".join(tokens), "sentencepiece") == " ".join(split_tokens(line))
    learn_sentencepiece([corpus], tmp_path / "large", 100_000, seed=1)  # as many as the text has
    assert load_pieces((tmp_path / "large").read_bytes())("the cat") == ["\u2581the", "\u2581cat"]
    assert capfd.readouterr() == ("", "")


def test_sentencepiece_refuses_bad_text(tmp_path):
    (tmp_path / "empty").write_bytes(b"\n \n")
    with pytest.raises(ConfigError, match="--sentencepiece 60: cannot learn"):
        learn_sentencepiece([tmp_path / "empty"], tmp_path / "m", 60, seed=1)
    assert not (tmp_path / "m").exists()
    for content in (b"", b"\n \n"):
        with pytest.raises(DataError, match="cannot load the sentencepiece model"):
            load_pieces(content)
