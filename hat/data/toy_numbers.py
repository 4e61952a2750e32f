"""English and German words for numbers, ordinals, dates, clock times and prices.

German is written with the shorthands of TeX ("a for a umlaut, "s for sharp s), which `umlauts` resolves.
"""

import random

_UMLAUTS = {'"a': "\u00e4", '"o': "\u00f6", '"u': "\u00fc", '"s': "\u00df", '"A': "\u00c4", '"O': "\u00d6"}

_ONES = """zero null|one ein|two zwei|three drei|four vier|five f"unf|six sechs|seven sieben|eight acht
nine neun|ten zehn|eleven elf|twelve zw"olf|thirteen dreizehn|fourteen vierzehn|fifteen f"unfzehn
sixteen sechzehn|seventeen siebzehn|eighteen achtzehn|nineteen neunzehn"""
_TENS = """twenty zwanzig|thirty drei"sig|forty vierzig|fifty f"unfzig|sixty sechzig|seventy siebzig
eighty achtzig|ninety neunzig"""
_MONTHS = """January Januar|February Februar|March M"arz|April April|May Mai|June Juni|July Juli|August August
September September|October Oktober|November November|December Dezember"""
_WEEKDAYS = """Monday Montag|Tuesday Dienstag|Wednesday Mittwoch|Thursday Donnerstag|Friday Freitag
Saturday Samstag|Sunday Sonntag"""


def _table(text: str) -> dict[str, str]:
    """Return {English: German} of entries separated by | or line ends."""
    return dict(entry.split() for entry in text.replace("\n", "|").split("|"))


EN_ONES, DE_ONES = list(_table(_ONES)), list(_table(_ONES).values())
EN_TENS, DE_TENS = ["", "", *_table(_TENS)], ["", "", *_table(_TENS).values()]
EN_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth"}
EN_ORDINALS |= {"nine": "ninth", "twelve": "twelfth"}
DE_ORDINALS = {1: "erst", 3: "dritt", 7: "siebt", 8: "acht"}
MONTHS, WEEKDAYS = _table(_MONTHS), _table(_WEEKDAYS)
DAYS_OF_MONTH = dict(zip(MONTHS, (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))

Pair = tuple[str, str]


def umlauts(text: str) -> str:
    """Return `text` with the shorthands replaced by the German letters."""
    for shorthand, letter in _UMLAUTS.items():
        text = text.replace(shorthand, letter)
    return text


def english_number(n: int) -> str:
    """Return the English words of 0 <= n <= 999,999, for example "one hundred and five"."""
    if n < 20:
        return EN_ONES[n]
    if n < 100:
        return EN_TENS[n // 10] + (f"-{EN_ONES[n % 10]}" if n % 10 else "")
    if n < 1000:
        rest = f" and {english_number(n % 100)}" if n % 100 else ""
        return f"{EN_ONES[n // 100]} hundred{rest}"
    below = n % 1000
    rest = f" {'and ' if below < 100 else ''}{english_number(below)}" if below else ""
    return f"{english_number(n // 1000)} thousand{rest}"


def german_number(n: int) -> str:
    """Return the German word of 0 <= n <= 999,999 as it is counted, for example "einhunderteins"."""
    stem = german_stem(n)
    return stem + "s" if n % 100 == 1 else stem


def german_stem(n: int) -> str:
    """Return the German word as it stands before another word: "ein", "einhundertein"."""
    if n < 20:
        return DE_ONES[n]
    if n < 100:
        return (f"{DE_ONES[n % 10]}und" if n % 10 else "") + DE_TENS[n // 10]
    size, word = (100, "hundert") if n < 1000 else (1000, "tausend")
    return german_stem(n // size) + word + (german_stem(n % size) if n % size else "")


def english_ordinal(n: int) -> str:
    """Return the English ordinal of 1 <= n <= 99, for example "twenty-first"."""
    head, dash, last = english_number(n).rpartition("-")
    last = EN_ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return head + dash + last


def german_ordinal(n: int, ending: str) -> str:
    """Return the German ordinal of 1 <= n <= 99 with its ending, for example "einundzwanzigste"."""
    stem = DE_ORDINALS.get(n) or german_stem(n) + ("t" if n < 20 else "st")
    return stem + ending


def number_pair(rng: random.Random) -> Pair:
    """Return a number of one to six digits in words."""
    n = rng.randrange(10 ** (1 + rng.randrange(6)))
    return english_number(n), german_number(n)


def date_phrase(rng: random.Random) -> tuple[str, str, str]:
    """Return a day in English, in German nominative ("dritte Mai") and in German dative ("dritten Mai")."""
    month = rng.choice(list(MONTHS))
    day = 1 + rng.randrange(DAYS_OF_MONTH[month])
    german = MONTHS[month]
    return (
        f"the {english_ordinal(day)} of {month}",
        f"{german_ordinal(day, 'e')} {german}",
        f"{german_ordinal(day, 'en')} {german}",
    )


def date_pair(rng: random.Random) -> Pair:
    """Return a sentence about a date."""
    english, nominative, dative = date_phrase(rng)
    weekday = rng.choice(list(WEEKDAYS))
    tag, year = WEEKDAYS[weekday], 1900 + rng.randrange(130)
    number, month = 1 + rng.randrange(28), rng.choice(list(MONTHS))
    forms = (
        (f"Today is {english}.", f"Heute ist der {nominative}."),
        (f"Today is {weekday}, {english}.", f"Heute ist {tag}, der {nominative}."),
        (f"We meet on {weekday}, {english}.", f"Wir treffen uns am {tag}, dem {dative}."),
        (f"The letter is from {english} {year}.", f"Der Brief ist vom {dative} {year}."),
        (
            f"She was born on {number} {month} {year}.",
            f"Sie wurde am {number}. {MONTHS[month]} {year} geboren.",
        ),
        (f"The course begins on {english}.", f'Der Kurs f"angt am {dative} an.'),
    )
    return rng.choice(forms)


def clock_phrase(rng: random.Random) -> Pair:
    """Return a time of day to five minutes as it is spoken, for example "half past three" and "halb vier"."""
    hour, minute = 1 + rng.randrange(12), 5 * rng.randrange(12)
    following = hour % 12 + 1
    hour_en, next_en = english_number(hour), english_number(following)
    hour_de, next_de = german_number(hour), german_number(following)
    minute_en = "quarter" if minute in (15, 45) else english_number(min(minute, 60 - minute))
    minute_de = "Viertel" if minute in (15, 45) else german_stem(min(minute, 60 - minute))
    if minute == 0:
        return f"{hour_en} o'clock", f"{german_stem(hour)} Uhr"
    if minute == 30:
        return f"half past {hour_en}", f"halb {next_de}"
    english = f"{minute_en} past {hour_en}" if minute < 30 else f"{minute_en} to {next_en}"
    if minute == 25:
        return english, f'f"unf vor halb {next_de}'
    if minute == 35:
        return english, f'f"unf nach halb {next_de}'
    return english, f"{minute_de} nach {hour_de}" if minute < 30 else f"{minute_de} vor {next_de}"


def price_phrase(rng: random.Random) -> Pair:
    """Return a price from two euros upwards in words."""
    euros, cents = 2 + rng.randrange(98), rng.choice((0, 10, 20, 25, 30, 40, 50, 60, 75, 80, 90, 95, 99))
    rest = (f" {english_number(cents)}", f" {german_number(cents)}") if cents else ("", "")
    return f"{english_number(euros)} euros{rest[0]}", f"{german_stem(euros)} Euro{rest[1]}"
