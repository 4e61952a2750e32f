"""Seeded English-German sentence pairs for trying the whole toolkit in minutes. German cases, genders and
word order are right: the finite verb is second in a main clause, with a separable prefix at the end, and last
after a conjunction or a relative pronoun; time comes before companion, object and place.
"""

import random
from pathlib import Path

from hat.data.text import write_rows
from hat.errors import ConfigError
from hat.rng import rng_for

Pair = tuple[str, str]  # English, German

WORDS: dict[str, list[Pair]] = {}  # English and German by group, from the table beside this file
for _line in Path(__file__).with_name("toy.txt").read_text("utf-8").replace(",\n", ", ").strip().split("\n"):
    if not _line.startswith("#"):
        _group, _entries = _line.split(": ")
        WORDS[_group] = [tuple(entry.replace(";", ",").split("=")) for entry in _entries.split(", ")]
NOM, ACC, DAT = range(3)
# by article of the noun and case: the article, the endings of ein and mein, of adjectives after the two
DEFINITE = {"der": "der den dem", "die": "die die der", "das": "das das dem"}
INDEFINITE = {"der": "- en em", "die": "e e er", "das": "- - em"}
AFTER_DEFINITE = {"der": "e en en", "die": "e e en", "das": "e e en"}
AFTER_INDEFINITE = {"der": "er en en", "die": "e e en", "das": "es es en"}
PRONOUNS = (("I", "ich", 0), ("he", "er", 1), ("she", "sie", 1), ("we", "wir", 2), ("they", "sie", 2))


def number(n: int) -> Pair:
    """Return 2 <= n <= 99 in words: "twenty-one", "einundzwanzig"."""
    if n < 20:
        return WORDS["ones"][n]
    tens, ones = WORDS["tens"][n // 10], WORDS["ones"][n % 10]
    return (f"{tens[0]}-{ones[0]}", f"{ones[1]}und{tens[1]}") if n % 10 else tens


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _third(base: str) -> str:
    first, space, rest = base.partition(" ")
    return {"have": "has", "try": "tries"}.get(first, first + "s") + space + rest


def clause(subject: tuple[str, str, int], verb: Pair, modal: Pair | None, rest: Pair, order: str) -> Pair:
    """Return a clause in both languages; the subject's number is 0 for forms as of ich, 1 of er, 2 of wir.
    `order` is "main" (the finite German verb is second), "first" (behind a time or a clause), "question"
    (first too, and asked in English), or "last" (behind a conjunction: all German verbs are last).
    """
    (english, german, person), base = subject, verb[0]
    infinitive, _, irregular = verb[1].partition(" ")
    prefix, _, plain = infinitive.rpartition(".")
    stem = plain[:-2]
    finite = (stem + "e", irregular or stem + ("et" if stem[-1] in "td" else "t"), plain)[person]
    closing, cluster = prefix, prefix + finite
    shown, asked = _third(base) if person == 1 else base, ["does" if person == 1 else "do", base]
    if modal:
        first, *to = modal[0].split()
        shown = _join(_third(first) if to and person == 1 else first, *to, base)
        asked = [asked[0], f"{modal[0]} {base}"] if to else [first, base]
        finite = modal[1].split()[person < 2]
        closing, cluster = prefix + plain, f"{prefix}{plain} {finite}"
    said = [asked[0], english, asked[1]] if order == "question" else [english, shown]
    if order == "last":
        return _join(*said, rest[0]), _join(german, rest[1], cluster)
    verb_second = [german, finite] if order == "main" else [finite, german]
    return _join(*said, rest[0]), _join(*verb_second, rest[1], closing)


def _some(rng: random.Random, kind: str, case: int, noun: Pair | None = None) -> Pair:
    # determiner, perhaps an adjective, and noun
    adjective = rng.choice(WORDS[f"of {kind}"]) if rng.randrange(2) else None
    noun = noun or rng.choice(WORDS[kind])
    determiner = rng.choice(("the", "a", "my", "our"))
    english, (article, german, *_) = noun[0], noun[1].split()
    stem = {"a": "ein", "my": "mein", "our": "unser"}.get(determiner, "")
    first, endings = (INDEFINITE, AFTER_INDEFINITE) if stem else (DEFINITE, AFTER_DEFINITE)
    if adjective:
        english = f"{adjective[0]} {english}"
        german = f"{adjective[1]}{endings[article].split()[case]} {german}"
    determiner = "an" if determiner == "a" and english[0] in "aeiou" else determiner
    return f"{determiner} {english}", f"{stem}{first[article].split()[case].strip('-')} {german}"


def _who(rng: random.Random) -> tuple[str, str, int]:
    # a pronoun or somebody, of whom a relative clause may tell more
    if rng.randrange(4) == 0:
        return rng.choice(PRONOUNS)
    noun = rng.choice(WORDS["people"])
    english, german = _some(rng, "people", NOM, noun)
    if rng.randrange(3):
        return english, german, 1
    more = _clause(rng, "last", ("who", noun[1].split()[0], 1), timed=False)
    return f"{english} {more[0]}", f"{german}, {more[1]},", 1


def _clause(
    rng: random.Random, order: str, subject: tuple[str, str, int] | None = None, timed: bool = True
) -> Pair:
    subject = subject or _who(rng)
    verb, none = rng.choice(WORDS["intransitive"]), ("", "")
    thing = friend = none
    if rng.randrange(3):
        verb = rng.choice(WORDS["transitive"])
        if rng.randrange(5):
            thing = _some(rng, "things", ACC)
        else:
            how, what = rng.choice(WORDS["of things"]), rng.choice(WORDS["things"])
            many = number(rng.randrange(2, 100))
            thing = f"{many[0]} {how[0]} {what[0]}s", f"{many[1]} {how[1]}e {what[1].split()[-1]}"
        if rng.randrange(5) == 0:
            friend = map(" ".join, zip(("with", "mit"), _some(rng, "people", DAT), strict=True))
    place = rng.choice(WORDS["places"]) if rng.randrange(3) == 0 else none
    time = rng.choice(WORDS["times"]) if timed and rng.randrange(3) == 0 else none
    modal = rng.choice(WORDS["modals"]) if rng.randrange(4) == 0 else None
    (with_whom, mit), (english, german) = friend, thing
    rest = _join(english, with_whom, place[0], time[0]), _join(time[1], mit, german, place[1])
    return clause(subject, verb, modal, rest, order)


def _sentence(rng: random.Random) -> Pair:
    # a main clause, a question, a clause behind a time or a condition, or one behind "that"
    kind = rng.randrange(6)
    if kind < 2:
        english, german = _clause(rng, ("main", "question")[kind])
        return english + ".?"[kind], german.rstrip(",") + ".?"[kind]
    before = rng.choice(WORDS[("times", "conjunctions", "openings", "openings")[kind - 2]])
    if kind == 3:
        condition = rng.choice(WORDS["conditions"])
        before = f"{before[0]} {condition[0]},", f"{before[1]} {condition[1]},"
    english, german = _clause(rng, "first" if kind < 4 else "last", timed=kind != 2)
    return f"{before[0]} {english}.", f"{before[1]} {german.rstrip(',')}."


def toy_pairs(seed: int, count: int) -> list[Pair]:
    """Return `count` pairs, all sentences distinct, at most 200,000; a larger count begins with them."""
    if not 0 <= count <= 200_000:  # far below the number of sentences that the grammar has
        raise ConfigError(f"cannot make {count} toy pairs; 0 to 200000 are allowed; ask for fewer")
    rng = rng_for(seed, "toy")
    pairs: dict[str, str] = {}
    taken: set[str] = set()
    while len(pairs) < count:
        english, german = _sentence(rng)
        english, german = english[0].upper() + english[1:], german[0].upper() + german[1:]
        if english not in pairs and german not in taken:
            pairs[english] = german
            taken.add(german)
    return list(pairs.items())


def write_toy(
    folder: Path | str, seed: int = 1, train: int = 12_000, valid: int = 200, test: int = 400
) -> dict[str, int]:
    """Write {train,valid,test}.{en,de}, no sentence twice; return the number of pairs of each split."""
    sizes = {"train": train, "valid": valid, "test": test}
    pairs, start = toy_pairs(seed, sum(sizes.values())), 0
    for split, size in sizes.items():
        paths = [Path(folder) / f"{split}.{lang}" for lang in ("en", "de")]
        write_rows(paths, pairs[start : start + size])
        start += size
    return sizes
