"""Generated sentences: German by hand, splits without overlap."""

import hashlib

import pytest

from hat.cli.data import toy_data
from hat.data.toy import clause, toy_pairs

PICK_UP, HAT = ("pick up", "ab.holen"), ("the hat", "den Hut")
MAN, WE = ("the man", "der Mann", 1), ("we", "wir", 2)
WANT, CAN = ("want to", "wollen will"), ("can", "konnen kann")


@pytest.mark.parametrize(
    ("subject", "modal", "order", "english", "german"),
    [
        (MAN, None, "main", "the man picks up the hat", "der Mann holt den Hut ab"),
        (MAN, None, "first", "the man picks up the hat", "holt der Mann den Hut ab"),
        (MAN, None, "question", "does the man pick up the hat", "holt der Mann den Hut ab"),
        (MAN, None, "last", "the man picks up the hat", "der Mann den Hut abholt"),
        (MAN, WANT, "last", "the man wants to pick up the hat", "der Mann den Hut abholen will"),
        (WE, CAN, "question", "can we pick up the hat", "konnen wir den Hut abholen"),
    ],
)
def test_word_order(subject, modal, order, english, german):
    assert clause(subject, PICK_UP, modal, HAT, order) == (english, german)


def test_pairs_are_distinct_on_both_sides_clean_and_the_same_everywhere():
    pairs = toy_pairs(1, 20_000)
    assert toy_pairs(1, 100) == pairs[:100] and toy_pairs(2, 100) != pairs[:100]
    text = "".join(f"{en}\t{de}\n" for en, de in pairs)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "30f19089bd084bb5"
    assert [len({pair[side] for pair in pairs}) for side in (0, 1)] == [20_000, 20_000]
    assert not any("  " in s or s != s.strip() or set(s) & set('"=;{') for pair in pairs for s in pair)
    german = {german for _, german in pairs}
    assert any(s.count(",") == 3 for s in german)
    assert not any(wrong in s for s in german for wrong in (",.", ",?", ",,"))


def test_files(tmp_path, capsys):
    argv = ["--to", str(tmp_path / "a"), "--train", "300", "--valid", "20", "--test", "10"]
    assert toy_data(argv) == 0 and "300 train" in capsys.readouterr().out
    for lang in ("en", "de"):
        paths = [tmp_path / "a" / f"{split}.{lang}" for split in ("train", "valid", "test")]
        lines = [path.read_text().splitlines() for path in paths]
        assert list(map(len, lines)) == [300, 20, 10] and len(set(sum(lines, []))) == 330
    for flag, message in (("--valid=-1", "--valid must be at least 0"), ("--train=200001", "cannot make")):
        assert toy_data(["--to", str(tmp_path), flag]) == 2
        assert message in capsys.readouterr().err
