"""Generated sentences: German by hand, splits without overlap."""

import hashlib

import pytest

from hat.cli.make_toy_data import main
from hat.data import toy_sentences as toy
from hat.data.toy import toy_pairs, write_toy
from hat.data.toy_numbers import (
    clock_phrase,
    english_number,
    english_ordinal,
    german_number,
    german_ordinal,
    umlauts,
)
from hat.errors import ConfigError


@pytest.mark.parametrize(
    ("n", "english", "german"),
    [
        (0, "zero", "null"),
        (1, "one", "eins"),
        (11, "eleven", "elf"),
        (16, "sixteen", "sechzehn"),
        (17, "seventeen", "siebzehn"),
        (21, "twenty-one", "einundzwanzig"),
        (30, "thirty", 'drei"sig'),
        (66, "sixty-six", "sechsundsechzig"),
        (77, "seventy-seven", "siebenundsiebzig"),
        (100, "one hundred", "einhundert"),
        (101, "one hundred and one", "einhunderteins"),
        (112, "one hundred and twelve", 'einhundertzw"olf'),
        (1001, "one thousand and one", "eintausendeins"),
        (21000, "twenty-one thousand", "einundzwanzigtausend"),
        (101101, "one hundred and one thousand one hundred and one", "einhunderteintausendeinhunderteins"),
        (
            999999,
            "nine hundred and ninety-nine thousand nine hundred and ninety-nine",
            "neunhundertneunundneunzigtausendneunhundertneunundneunzig",
        ),
    ],
)
def test_numbers(n, english, german):
    assert (english_number(n), german_number(n)) == (english, german)


@pytest.mark.parametrize(
    ("n", "english", "german"),
    [
        (1, "first", "erste"),
        (3, "third", "dritte"),
        (7, "seventh", "siebte"),
        (8, "eighth", "achte"),
        (12, "twelfth", 'zw"olfte'),
        (19, "nineteenth", "neunzehnte"),
        (20, "twentieth", "zwanzigste"),
        (21, "twenty-first", "einundzwanzigste"),
        (31, "thirty-first", 'einunddrei"sigste'),
    ],
)
def test_ordinals(n, english, german):
    assert (english_ordinal(n), german_ordinal(n, "e")) == (english, german)


class Draws:
    """A generator that returns the given numbers, then zeros."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def randrange(self, n):
        return self.numbers.pop(0) if self.numbers else 0


@pytest.mark.parametrize(
    ("hour", "minute", "english", "german"),
    [
        (1, 0, "one o'clock", "ein Uhr"),
        (1, 10, "ten past one", "zehn nach eins"),
        (3, 15, "quarter past three", "Viertel nach drei"),
        (3, 25, "twenty-five past three", 'f"unf vor halb vier'),
        (3, 30, "half past three", "halb vier"),
        (12, 30, "half past twelve", "halb eins"),
        (12, 35, "twenty-five to one", 'f"unf nach halb eins'),
        (11, 40, "twenty to twelve", 'zwanzig vor zw"olf'),
        (12, 45, "quarter to one", "Viertel vor eins"),
    ],
)
def test_clock(hour, minute, english, german):
    assert clock_phrase(Draws(hour - 1, minute // 5)) == (english, german)


def noun(english):
    return next(n for n in [*toy.PEOPLE, *toy.THINGS] if n.english == english)


@pytest.mark.parametrize(
    ("name", "case", "determiner", "english", "german"),
    [
        ("hat", toy.NOM, "the", "the old hat", "der alte Hut"),
        ("hat", toy.ACC, "the", "the old hat", "den alten Hut"),
        ("hat", toy.NOM, "a", "an old hat", "ein alter Hut"),
        ("hat", toy.ACC, "a", "an old hat", "einen alten Hut"),
        ("hat", toy.DAT, "our", "our old hat", "unserem alten Hut"),
        ("clock", toy.ACC, "a", "an old clock", "eine alte Uhr"),
        ("woman", toy.DAT, "the", "the old woman", "der alten Frau"),
        ("woman", toy.DAT, "my", "my old woman", "meiner alten Frau"),
        ("book", toy.NOM, "a", "an old book", "ein altes Buch"),
        ("book", toy.ACC, "the", "the old book", "das alte Buch"),
        ("child", toy.DAT, "a", "an old child", "einem alten Kind"),
        ("child", toy.NOM, "our", "our old child", "unser altes Kind"),
    ],
)
def test_articles_and_adjectives_agree(name, case, determiner, english, german):
    assert toy.noun_phrase(noun(name), case, determiner, ("old", "alt")) == (english, german)


def test_word_order_of_separable_and_modal_verbs():
    subject = toy.Subject("the man", "der Mann", 1)
    plain = toy.Clause(subject, "picks up", "does", "pick up", "the hat", "holt", "den Hut", "ab", "abholt")
    assert plain.english() == "the man picks up the hat"
    assert plain.english_question() == "does the man pick up the hat"
    assert plain.main() == "der Mann holt den Hut ab"
    assert plain.inverted() == "holt der Mann den Hut ab"
    assert plain.subordinate() == "der Mann den Hut abholt"
    modal = plain._replace(finite="will", closing="abholen", cluster="abholen will")
    assert modal.main() == "der Mann will den Hut abholen"
    assert modal.subordinate() == "der Mann den Hut abholen will"


@pytest.fixture(scope="module")
def pairs():
    return toy_pairs(1, 20_000)


def test_known_sentences_are_generated(pairs):
    found = dict(pairs)
    for english, german in (
        ("She waits.", "Sie wartet."),
        ("It is quarter to four.", "Es ist Viertel vor vier."),
        ("The twelfth clock is cheap.", "Die zw\u00f6lfte Uhr ist billig."),
        ("Does a neighbour buy my cake?", "Kauft eine Nachbarin meinen Kuchen?"),
        ("Does she try out our table?", "Probiert sie unseren Tisch aus?"),
        (
            "Although it rains, our painter must paint the old lamp.",
            "Obwohl es regnet, muss unser Maler die alte Lampe malen.",
        ),
        (
            "She says that we bring back our big book on Sunday.",
            "Sie sagt, dass wir am Sonntag unser gro\u00dfes Buch zur\u00fcckbringen.",
        ),
        (
            "We meet on Monday, the twenty-seventh of January.",
            "Wir treffen uns am Montag, dem siebenundzwanzigsten Januar.",
        ),
    ):
        assert found[english] == german


def test_pairs_are_distinct_on_both_sides_and_clean(pairs):
    english, german = zip(*pairs, strict=True)
    assert len(set(english)) == len(set(german)) == 20_000
    assert not any('"' in s or "  " in s or s != s.strip() for pair in pairs for s in pair)
    assert sum(", dass " in s for s in german) > 500 and "".join(english).isascii()


def test_same_seed_same_text_everywhere(pairs):
    assert toy_pairs(1, 100) == pairs[:100] and toy_pairs(2, 100) != pairs[:100]
    text = "".join(f"{en}\t{de}\n" for en, de in pairs)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "ce898f0d264ca680"


def test_files(tmp_path, capsys):
    argv = ["--to", str(tmp_path / "a"), "--train", "300", "--valid", "20", "--test", "10"]
    assert main(argv) == 0 and "300 train" in capsys.readouterr().out
    write_toy(tmp_path / "b", train=300, valid=20, test=10)
    for lang in ("en", "de"):
        lines = {
            split: (tmp_path / "a" / f"{split}.{lang}").read_text().splitlines()
            for split in ("train", "valid", "test")
        }
        assert [len(lines[split]) for split in lines] == [300, 20, 10]
        assert len(set(sum(lines.values(), []))) == 330
        assert (tmp_path / "a" / f"train.{lang}").read_bytes() == (
            tmp_path / "b" / f"train.{lang}"
        ).read_bytes()
    with pytest.raises(ConfigError, match="--valid -1"):
        write_toy(tmp_path, valid=-1)
    with pytest.raises(ConfigError, match="cannot make"):
        write_toy(tmp_path, train=10**9)


def test_shorthand_letters():
    assert umlauts('f"unf gro"se "Apfel') == "f\u00fcnf gro\u00dfe \u00c4pfel"
