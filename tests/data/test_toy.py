"""Generated sentences: German by hand, splits without overlap."""

import hashlib

import pytest

from hat.cli.data import toy_data
from hat.data import toy
from hat.data.toy import clause, noun_phrase, number, ordinal, toy_pairs, write_toy
from hat.errors import ConfigError

NUMBERS = """
0 zero | null
12 twelve | zw\u00f6lf
17 seventeen | siebzehn
21 twenty-one | einundzwanzig
112 one hundred and twelve | einhundertzw\u00f6lf
21000 twenty-one thousand | einundzwanzigtausend
101101 one hundred and one thousand one hundred and one | einhunderteintausendeinhundertein
"""
ORDINALS = """
1 first | erst
7 seventh | siebt
12 twelfth | zw\u00f6lft
20 twentieth | zwanzigst
31 thirty-first | einunddrei\u00dfigst
"""


def test_numbers_and_ordinals():
    for table, words in ((NUMBERS, number), (ORDINALS, ordinal)):
        for line in table.strip().split("\n"):
            n, _, pair = line.partition(" ")
            assert words(int(n)) == tuple(pair.split(" | "))


@pytest.mark.parametrize(
    ("name", "case", "determiner", "english", "german"),
    [
        ("hat", toy.ACC, "the", "the old hat", "den alten Hut"),
        ("hat", toy.ACC, "a", "an old hat", "einen alten Hut"),
        ("hat", toy.DAT, "our", "our old hat", "unserem alten Hut"),
        ("woman", toy.DAT, "the", "the old woman", "der alten Frau"),
        ("woman", toy.DAT, "my", "my old woman", "meiner alten Frau"),
        ("book", toy.ACC, "the", "the old book", "das alte Buch"),
        ("child", toy.NOM, "our", "our old child", "unser altes Kind"),
    ],
)
def test_articles_and_adjectives_agree(name, case, determiner, english, german):
    noun = next(pair for pair in toy.WORDS["people"] + toy.WORDS["things"] if pair[0] == name)
    assert noun_phrase(noun, case, determiner, ("old", "alt")) == (english, german)


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
        (WE, None, "main", "we pick up the hat", "wir holen den Hut ab"),
        (MAN, WANT, "last", "the man wants to pick up the hat", "der Mann den Hut abholen will"),
        (WE, CAN, "question", "can we pick up the hat", "konnen wir den Hut abholen"),
    ],
)
def test_word_order(subject, modal, order, english, german):
    assert clause(subject, PICK_UP, modal, HAT, order) == (english, german)


@pytest.fixture(scope="module")
def pairs():
    return toy_pairs(1, 20_000)


def test_pairs_are_distinct_on_both_sides_clean_and_the_same_everywhere(pairs):
    english, german = zip(*pairs, strict=True)
    assert toy_pairs(1, 100) == pairs[:100] and toy_pairs(2, 100) != pairs[:100]
    text = "".join(f"{en}\t{de}\n" for en, de in pairs)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "8c21a641b9878cb0"
    assert len(set(english)) == len(set(german)) == 20_000
    assert not any(c in s for c in '"=;{' for pair in pairs for s in pair)
    assert not any("  " in s or s != s.strip() for pair in pairs for s in pair)
    assert sum(", dass " in s for s in german) > 500 and "".join(english).isascii()
    verb_last = [s for s in german if s.endswith((" will.", " abholt.", "bringen kann."))]
    assert len(verb_last) > 50


def test_files(tmp_path, capsys):
    argv = ["--to", str(tmp_path / "a"), "--train", "300", "--valid", "20", "--test", "10"]
    assert toy_data(argv) == 0 and "300 train" in capsys.readouterr().out
    for lang in ("en", "de"):
        sizes = {"train": 300, "valid": 20, "test": 10}
        lines = {s: (tmp_path / "a" / f"{s}.{lang}").read_text("utf-8").splitlines() for s in sizes}
        assert {split: len(found) for split, found in lines.items()} == sizes
        assert len(set(sum(lines.values(), []))) == 330
    assert toy_data(["--to", str(tmp_path), "--valid=-1"]) == 2
    assert "--valid must be at least 0" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="cannot make"):
        write_toy(tmp_path, train=10**9)
