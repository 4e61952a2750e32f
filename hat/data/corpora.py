"""Corpora as they are published -> parallel text: sentences taken out, Moses' steps by sacremoses, splits."""

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal
from unicodedata import category

from hat.config import Options, option
from hat.data.text import Chunk, Workers, chunks, read_lines, split_tokens, unequal, where, write_rows
from hat.errors import ConfigError, DataError, package
from hat.files.atomic import write_all_atomic
from hat.rng import rng_for

Markup = Literal["none", "segments", "talks", "columns"]
Hyphens = Literal["keep", "split"]
PathPair = tuple[Path, Path]
Step = Callable[[str], str]
CHUNK_BYTES = 1 << 20  # about a second of work
# ISO 639-2 and 639-3 codes of the languages that Moses has rules for, each before the code that Moses knows
_MOSES = (
    "deu ger de eng en fra fre fr spa es ita it por pt nld dut nl ces cze cs pol pl rus ru ron rum ro fin fi "
    "swe sv hun hu ell gre el cat ca isl ice is lav lv lit lt slk slo sk slv sl est et gle ga tam ta "
    "zho chi cmn zh jpn ja kor ko"
)


def moses_language(lang: str) -> str:
    """Return the code by which Moses knows a language of an ISO 639 code or BCP 47 tag: fr for fr_CA, fra."""
    first = re.split("[-_]", lang.lower())[0]
    found = re.search(rf"\b{re.escape(first)}(?: ...)* (..)\b", _MOSES) if len(first) == 3 else None
    return found[1] if found else first


@functools.lru_cache(maxsize=8)
def line_function(lang: str, *steps: str, hyphens: Hyphens = "keep") -> Step:
    """Return the function that does `steps` of the Moses scripts, in this order, to a line in `lang`.
    "normalize" makes punctuation plain ASCII, "printable" writes a space for each control, format, private or
    unassigned character, "tokenize" makes Moses tokens, with XML escapes, "lowercase" lower case. `hyphens`
    "split" makes hyphens inside words tokens, @-@. Raises ConfigError if sacremoses is missing.
    """
    functions = dict[str, Step]()
    if "normalize" in steps:
        moses = package("sacremoses").MosesPunctNormalizer(lang=moses_language(lang), perl_parity=True)
        # Perl sees the newline too: by its rule for German and French, `."` at the end becomes `".`
        functions["normalize"] = lambda line: moses.normalize(line + "\n").strip()
    if "tokenize" in steps:
        tokenizer = package("sacremoses").MosesTokenizer(lang=moses_language(lang))
        letters, small = frozenset(tokenizer.IsAlpha), frozenset(tokenizer.IsLower)
        # Both build their set of letters on each call, which takes most of the time; the answers are equal.
        tokenizer.isanyalpha = lambda text: not letters.isdisjoint(text)
        tokenizer.islower = lambda text: small.issuperset(text)
        flags = {"aggressive_dash_splits": hyphens == "split", "return_str": True}
        functions["tokenize"] = lambda line: " ".join(tokenizer.tokenize(line, **flags).split())
    functions["printable"] = lambda line: (
        line if line.isprintable() else "".join(" " if category(c)[0] == "C" else c for c in line)
    )
    # each character by itself: a sigma that ends a word is no other one
    functions["lowercase"] = lambda line: "".join(map(str.lower, line)) if "\u03a3" in line else line.lower()
    chosen = [functions[step] for step in steps]
    return lambda line: functools.reduce(lambda text, function: function(text), chosen, line)


@functools.cache
def detokenizer(lang: str) -> Step:
    """Return the function that makes plain text of Moses tokens; ConfigError if sacremoses is missing."""
    moses = package("sacremoses").MosesDetokenizer(lang=moses_language(lang))
    return lambda line: moses.detokenize(split_tokens(line))


@dataclass(frozen=True)
class PrepareConfig(Options):
    """Text"""

    source_lang: str = option(help="source language: its Moses rules, and the ending of its output")
    target_lang: str = option(help="the same for the target")
    source_inputs: tuple[str, ...] = option(help="files with source sentences, in order", role="free")
    target_inputs: tuple[str, ...] = option(help="files with their translations, as many", role="free")
    output: str = option(help="path to write without .<language>", role="free")
    markup: Markup = "none"
    """where sentences stand: none, each line; segments, <seg id=..> of SGML and XML; talks, training text of
    TED talks; columns, tab-separated columns"""
    source_column: int = option(1, "column of the source sentence, from 1", low=1)
    target_column: int = option(2, "column of the target sentence", low=1)
    replace_invalid: bool = option(False, "replace bytes that are not UTF-8 by U+FFFD instead of stopping")
    normalize: bool = option(False, "first step: normalise punctuation as Moses does")
    printable: bool = option(False, "second: replace characters that do not print by spaces")
    tokenize: bool = option(False, "third: Moses tokens, with XML escapes")
    hyphens: Hyphens = option("keep", "split: make hyphens inside words tokens of their own, @-@")
    lowercase: bool = option(False, "last: lower case")
    workers: int = option(1, "number of processes; the result does not depend on it", low=1, role="free")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source_lang == self.target_lang:
            raise ConfigError(f"--target-lang {self.target_lang}: it must differ from the source language")
        counts = len(self.source_inputs), len(self.target_inputs)
        if counts[0] != counts[1]:
            raise ConfigError(f"{counts[0]} and {counts[1]} files of two languages: give as many of both")

    def steps(self, lang: str) -> Step:
        """Return the function that does the steps to a sentence of language `lang`."""
        steps = ("normalize", "printable", "tokenize", "lowercase")
        return line_function(lang, *(step for step in steps if getattr(self, step)), hyphens=self.hyphens)

    def extract(self, line: str, lang: str) -> str | None:
        """Return the sentence in a line of the files of `lang`, if any; DataError for a cut `<seg>`."""
        if self.markup == "none":
            return line
        if self.markup == "columns":
            column = self.source_column if lang == self.source_lang else self.target_column
            return "".join(line.split("\t")[column - 1 : column])  # empty if the line has fewer
        if self.markup == "talks":  # address, number and keywords of a talk are no sentences
            is_sentence = not re.search("<url>|<talkid>|<keywords>", line)
            return re.sub("</?(?:title|description)>", "", line) if is_sentence else None
        if "<seg " not in line.lower():
            return None
        found = re.search(r'<seg id="?[^">]*"?\s*>(.*)</seg>', line, re.IGNORECASE)
        if not found or "<seg" in found[1].lower():
            raise DataError(f"cannot read the segment {line.strip()[:80]!a}: a line has one <seg ..>..</seg>")
        # right single quotes are made apostrophes; entities such as &amp; stay, as in the reference
        return found[1].strip().replace("\u2019", "'")


def prepare(cfg: PrepareConfig) -> tuple[list[int], int]:
    """Write the sentences of both languages to `output`.<language>, both whole or none; memory stays flat.
    Returns the number of sentences of each pair of files, and of lines with characters U+FFFD. Raises
    DataError for files that do not have as many sentences as those they go with.
    """
    sides = {cfg.source_lang: cfg.source_inputs, cfg.target_lang: cfg.target_inputs}
    counts: dict[str, list[int]] = {lang: [0] * len(files) for lang, files in sides.items()}
    invalid = 0

    def fill(outs: list[BinaryIO]) -> None:
        nonlocal invalid
        for (lang, files), out in zip(sides.items(), outs, strict=True):
            cfg.steps(lang)  # a missing package is told here, not in a worker
            for number, file in enumerate(files):
                parts = chunks(Path(file), CHUNK_BYTES)
                for text, sentences, replaced in pool.run(_prepare_chunk, parts, cfg=cfg, lang=lang):
                    out.write(text)
                    counts[lang][number] += sentences
                    invalid += replaced
        for source, target, *found in zip(*sides.values(), *counts.values(), strict=True):
            if found[0] != found[1]:
                raise unequal(source, target, found, "sentences")

    with Workers(cfg.workers) as pool:
        write_all_atomic([Path(f"{cfg.output}.{lang}") for lang in sides], fill)
    return counts[cfg.source_lang], invalid


def _prepare_chunk(chunk: Chunk, cfg: PrepareConfig, lang: str) -> tuple[bytes, int, int]:
    run, texts, invalid = cfg.steps(lang), [], 0
    for number, line in enumerate(read_lines(*chunk, "replace" if cfg.replace_invalid else "strict")):
        try:
            sentence = cfg.extract(line, lang)
        except DataError as error:
            raise DataError(f"{where(*chunk[:2], number)}: {error}") from error
        if sentence is not None:
            texts.append(run(sentence) + "\n")
            invalid += "\ufffd" in sentence
    return "".join(texts).encode(), len(texts), invalid


def line_pairs(paths: PathPair) -> Iterator[tuple[str, str]]:
    """Yield line i of both files. Raises DataError, with both numbers of lines, if these differ."""
    for pair in itertools.zip_longest(*map(read_lines, paths)):
        if None in pair:
            raise unequal(*paths, [sum(1 for _ in read_lines(path)) for path in paths])
        yield pair


def split_pairs(
    inputs: Sequence[PathPair], train: PathPair, valid: PathPair | None = None, every: int = 0
) -> tuple[int, int]:
    """Write the pairs of all `inputs`, in order, to `train`; each `every`-th one (from 1), of fewer the last
    one, to `valid` instead. Returns the numbers of pairs in both. Raises ConfigError for `every` below 2.
    """
    if (valid is None) != (every == 0) or every == 1 or every < 0:
        raise ConfigError(f"--every {every}: 2 or more is allowed, together with --valid, the text to write")

    def rows() -> Iterator[tuple[str | None, ...]]:
        pairs = itertools.chain(*map(line_pairs, inputs), [None])
        for number, (pair, following) in enumerate(itertools.pairwise(pairs), 1):
            is_aside = every and (number % every == 0 or (following is None and 1 < number < every))
            columns = (None, None, *pair) if is_aside else (*pair, None, None)
            yield columns if valid else pair

    total, counts = write_rows([*train, *(valid or ())], rows())
    return counts[0], total - counts[0]


def split_at_random(
    inputs: Sequence[PathPair], train: PathPair, valid: PathPair, test: PathPair, count: int, seed: int
) -> tuple[int, int]:
    """Write `count` pairs each to `valid` and `test`, drawn by `seed`, the other distinct ones to `train`.
    Left out are pairs with a sentence of `valid` or `test`. Returns the pairs of `train` and `valid`.
    """
    splits = hold_out(itertools.chain(*map(line_pairs, inputs)), count, count, seed, "--held-out")
    held = {sentence for split in ("valid", "test") for pair in splits[split] for sentence in pair}
    splits["train"] = [pair for pair in splits["train"] if held.isdisjoint(pair)]
    for paths, split in ((train, "train"), (valid, "valid"), (test, "test")):
        write_rows(paths, splits[split])
    return len(splits["train"]), count


def hold_out(
    pairs: Iterable[tuple[str, str]], valid: int, test: int, seed: int, option: str = "valid and test"
) -> dict[str, list[tuple[str, str]]]:
    """Return distinct, whole pairs in a seeded order: "train", "valid", "test"; DataError for too few."""
    clean = ((source.strip(), target.strip()) for source, target in pairs)
    distinct, aside = list(dict.fromkeys(pair for pair in clean if all(pair))), valid + test
    if len(distinct) < max(1, 2 * aside):
        found = f"{len(distinct)} distinct pairs are too few to set {valid} + {test} aside"
        raise DataError(f"{found} for validation and test; lower {option} or give more text")
    rng_for(seed, "split").shuffle(distinct)
    return {"valid": distinct[:valid], "test": distinct[valid:aside], "train": distinct[aside:]}


@dataclass(frozen=True)
class Limits(Options):
    """Which pairs are kept"""

    min_length: int = option(1, "fewest tokens of a sentence", low=1)
    max_length: int | None = option(None, "most tokens of a sentence; no limit by default", low=1)
    ratio: float | None = option(None, "most tokens of a side for one of the other; default: no limit", low=1)
    max_word_length: int | None = option(None, "most characters of a token; no limit by default", low=1)

    def keep(self, source: str, target: str) -> bool:
        """Return whether the pair is within all limits."""
        words = split_tokens(source), split_tokens(target)
        short, long = sorted(map(len, words))
        most, ratio, letters = (n or math.inf for n in (self.max_length, self.ratio, self.max_word_length))
        longest = max(map(len, words[0] + words[1]), default=0)
        return short >= self.min_length and long <= most and long / short <= ratio and longest <= letters


def clean_pairs(inputs: PathPair, outputs: PathPair, limits: Limits) -> tuple[int, int]:
    """Copy the pairs within `limits`; returns how many were kept and how many dropped. Memory stays flat."""
    rows = (pair if limits.keep(*pair) else (None, None) for pair in line_pairs(inputs))
    total, counts = write_rows(outputs, rows)
    return counts[0], total - counts[0]
