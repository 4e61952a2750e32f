"""Short English sentences and their German translations, from tables of words.

German cases, genders and word order are right: articles and adjectives agree, the finite verb is second in a
main clause and last after a conjunction, and separable verbs are split in the first case only.
"""

import random
from typing import NamedTuple

from hat.data import toy_words as words
from hat.data.toy_numbers import (
    WEEKDAYS,
    Pair,
    clock_phrase,
    date_phrase,
    english_number,
    english_ordinal,
    german_ordinal,
    german_stem,
    price_phrase,
)

NOM, ACC, DAT = range(3)
DEFINITE = {"m": "der den dem", "f": "die die der", "n": "das das dem"}
INDEFINITE = {"m": "- en em", "f": "e e er", "n": "- - em"}  # endings of ein, mein and unser
AFTER_DEFINITE = {"m": "e en en", "f": "e e en", "n": "e e en"}  # endings of the adjective
AFTER_INDEFINITE = {"m": "er en en", "f": "e e en", "n": "es es en"}
EIN_WORDS = {"a": "ein", "my": "mein", "our": "unser"}
GENDERS = {"der": "m", "die": "f", "das": "n"}


class Noun(NamedTuple):
    """A noun; gender is m, f or n; plurals are empty for people."""

    english: str
    german: str
    gender: str
    english_plural: str = ""
    german_plural: str = ""


class Verb(NamedTuple):
    """A verb; `finite` are the forms of ich, er and wir without the separable `prefix`."""

    base: str
    third: str
    prefix: str
    infinitive: str
    finite: tuple[str, str, str]


class Subject(NamedTuple):
    """A subject; `person` is the index into Verb.finite."""

    english: str
    german: str
    person: int


class Clause(NamedTuple):
    """The parts of a clause from which every word order is made."""

    subject: Subject
    english_verb: str
    english_aux: str
    english_base: str
    english_rest: str
    finite: str
    middle: str
    closing: str  # separable prefix, or infinitive after a modal verb
    cluster: str  # all verbs at the end of a subordinate clause

    def english(self) -> str:
        return _join(self.subject.english, self.english_verb, self.english_rest)

    def english_question(self) -> str:
        return _join(self.english_aux, self.subject.english, self.english_base, self.english_rest)

    def main(self) -> str:
        return _join(self.subject.german, self.finite, self.middle, self.closing)

    def inverted(self) -> str:
        return _join(self.finite, self.subject.german, self.middle, self.closing)

    def subordinate(self) -> str:
        return _join(self.subject.german, self.middle, self.cluster)


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().split("\n")]


def _nouns(table: str) -> list[Noun]:
    nouns = []
    for english, german, *plural in _rows(table):
        article, word = german.split()
        both = (english + ("es" if english[-1] in "sx" else "s"), plural[0]) if plural else ("", "")
        nouns.append(Noun(english, word, GENDERS[article], *both))
    return nouns


def _verbs(table: str) -> list[Verb]:
    verbs = []
    for base, third, infinitive, forms in _rows(table):
        prefix, _, stem = infinitive.rpartition(".")
        verbs.append(Verb(base, third, prefix, prefix + stem, (*forms.split(), stem)))
    return verbs


def _adjectives(text: str) -> list[Pair]:
    return [tuple(entry.split()) for entry in text.split("|")]


PEOPLE, THINGS = _nouns(words.PEOPLE), _nouns(words.THINGS)
VERBS, INTRANSITIVE, MODALS = map(_verbs, (words.VERBS, words.INTRANSITIVE, words.MODALS))
PEOPLE_ADJECTIVES, THING_ADJECTIVES = map(_adjectives, (words.PEOPLE_ADJECTIVES, words.THING_ADJECTIVES))


def noun_phrase(noun: Noun, case: int, determiner: str, adjective: Pair | None = None) -> Pair:
    """Return determiner (the, a, my or our), adjective and noun in both languages, German in `case`."""
    stem = EIN_WORDS.get(determiner)
    endings = AFTER_DEFINITE if stem is None else AFTER_INDEFINITE
    if stem is None:
        article = DEFINITE[noun.gender].split()[case]
    else:
        article = stem + INDEFINITE[noun.gender].split()[case].strip("-")
    english_words = [adjective[0]] if adjective else []
    english_words.append(noun.english)
    if determiner == "a" and english_words[0][0] in "aeiou":
        determiner = "an"
    ending = endings[noun.gender].split()[case]
    return _join(determiner, *english_words), _join(
        article, adjective[1] + ending if adjective else "", noun.german
    )


def _some_noun(rng: random.Random, nouns: list[Noun], adjectives: list[Pair], case: int) -> Pair:
    adjective = rng.choice(adjectives) if rng.randrange(2) else None
    return noun_phrase(rng.choice(nouns), case, rng.choice(("the", "a", "my", "our")), adjective)


def _subject(rng: random.Random) -> Subject:
    if rng.randrange(3) == 0:
        english = rng.choice(list(words.PRONOUNS))
        return Subject(english, words.PRONOUNS[english], {"I": 0, "he": 1, "she": 1}.get(english, 2))
    return Subject(*_some_noun(rng, PEOPLE, PEOPLE_ADJECTIVES, NOM), 1)


def _object(rng: random.Random) -> Pair:
    kind = rng.randrange(6)
    if kind == 0:
        noun, number = rng.choice(THINGS), 2 + rng.randrange(39)
        english, german = rng.choice(THING_ADJECTIVES)
        return (
            f"{english_number(number)} {english} {noun.english_plural}",
            f"{german_stem(number)} {german}e {noun.german_plural}",
        )
    if kind == 1:
        return noun_phrase(rng.choice(THINGS), ACC, "the", _ordinal(rng))
    return _some_noun(rng, THINGS, THING_ADJECTIVES, ACC)


def _ordinal(rng: random.Random) -> Pair:
    number = 1 + rng.randrange(31)
    return english_ordinal(number), german_ordinal(number, "")


def _time(rng: random.Random) -> Pair:
    kind = rng.randrange(4)
    if kind == 0:
        english, german = clock_phrase(rng)
        return f"at {english}", f"um {german}"
    if kind == 1:
        english, _, dative = date_phrase(rng)
        return f"on {english}", f"am {dative}"
    if kind == 2:
        day = rng.choice(list(WEEKDAYS))
        return f"on {day}", f"am {WEEKDAYS[day]}"
    return rng.choice(list(words.TIMES.items()))


def clause(rng: random.Random, timed: bool = True) -> Clause:
    """Return a random clause; without `timed` it has no phrase of time, so that one can go in front."""
    subject = _subject(rng)
    transitive = rng.randrange(3) > 0
    verb = rng.choice(VERBS if transitive else INTRANSITIVE)
    thing = _object(rng) if transitive else ("", "")
    companion = place = time = ("", "")
    if transitive and rng.randrange(5) == 0:
        english, german = _some_noun(rng, PEOPLE, PEOPLE_ADJECTIVES, DAT)
        companion = f"with {english}", f"mit {german}"
    if rng.randrange(3) == 0:
        place = rng.choice(list(words.PLACES.items()))
    if timed and rng.randrange(3) == 0:
        time = _time(rng)
    rest = _join(thing[0], companion[0], place[0], time[0])
    middle = _join(time[1], companion[1], thing[1], place[1])
    third = subject.person == 1
    if rng.randrange(4):
        finite = verb.finite[subject.person]
        shown, aux = (verb.third if third else verb.base), ("does" if third else "do")
        return Clause(subject, shown, aux, verb.base, rest, finite, middle, verb.prefix, verb.prefix + finite)
    modal = rng.choice(MODALS)
    finite = modal.finite[subject.person]
    shown = f"{modal.third if third else modal.base} {verb.base}"
    wants = modal.base != modal.third
    aux = ("does" if third else "do") if wants else modal.base
    base = f"{modal.base} {verb.base}" if wants else verb.base
    return Clause(
        subject, shown, aux, base, rest, finite, middle, verb.infinitive, f"{verb.infinitive} {finite}"
    )


def sentence_pair(rng: random.Random) -> Pair:
    """Return a main clause, question, clause with a time in front, or complex sentence."""
    kind = rng.randrange(6)
    part = clause(rng, timed=kind != 2)
    if kind == 0:
        return f"{_capital(part.english())}.", f"{_capital(part.main())}."
    if kind == 1:
        return f"{_capital(part.english_question())}?", f"{_capital(part.inverted())}?"
    if kind == 2:
        english, german = _time(rng)
        return f"{_capital(english)} {part.english()}.", f"{_capital(german)} {part.inverted()}."
    if kind == 3:
        english, german = rng.choice(list(words.CONJUNCTIONS.items()))
        condition = rng.choice(list(words.CONDITIONS.items()))
        return (
            f"{english} {condition[0]}, {part.english()}.",
            f"{german} {condition[1]}, {part.inverted()}.",
        )
    english, german = rng.choice(list(words.OPENINGS.items()))
    return f"{english} {part.english()}.", f"{german} {part.subordinate()}."


def description_pair(rng: random.Random) -> Pair:
    """Return a sentence about an ordinal, an age, a price or a time of departure."""
    kind = rng.randrange(4)
    if kind == 0:
        english, german = noun_phrase(rng.choice(THINGS), NOM, "the", _ordinal(rng))
        colour = rng.choice(THING_ADJECTIVES)
        return f"{_capital(english)} is {colour[0]}.", f"{_capital(german)} ist {colour[1]}."
    if kind == 1:
        english, german = _some_noun(rng, PEOPLE, PEOPLE_ADJECTIVES, NOM)
        years = 2 + rng.randrange(98)
        return (
            f"{_capital(english)} is {english_number(years)} years old.",
            f"{_capital(german)} ist {german_stem(years)} Jahre alt.",
        )
    if kind == 2:
        english, german = _some_noun(rng, THINGS, THING_ADJECTIVES, NOM)
        price = price_phrase(rng)
        return f"{_capital(english)} costs {price[0]}.", f"{_capital(german)} kostet {price[1]}."
    train, time = rng.choice((("train", "Zug"), ("bus", "Bus"))), clock_phrase(rng)
    day = rng.choice(list(WEEKDAYS))
    return rng.choice(
        (
            (f"The {train[0]} leaves at {time[0]}.", f'Der {train[1]} f"ahrt um {time[1]} ab.'),
            (
                f"On {day} the {train[0]} arrives at {time[0]}.",
                f"Am {WEEKDAYS[day]} kommt der {train[1]} um {time[1]} an.",
            ),
            (f"It is {time[0]}.", f"Es ist {time[1]}."),
        )
    )
