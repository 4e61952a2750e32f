"""The steps of the Moses scripts on one line of text, by sacremoses; the results are those of Moses' Perl."""

import functools
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hat.errors import ConfigError

Hyphens = Literal["keep", "split"]


@dataclass(frozen=True)
class MosesSteps:
    """What is done to a line of language `lang`, in this order."""

    lang: str
    normalize: bool = False
    """punctuation to plain ASCII forms"""
    printable: bool = False
    """a space for each character that is not printable"""
    tokenize: bool = False
    hyphens: Hyphens = "keep"
    """split: make the hyphens inside words tokens of their own, @-@"""
    lowercase: bool = False


@functools.lru_cache(maxsize=8)
def line_function(steps: MosesSteps) -> Callable[[str], str]:
    """Return the function that does `steps` to a line, without newline before and after.

    Raises ConfigError when sacremoses is needed and not installed.
    """
    functions: list[Callable[[str], str]] = []
    if steps.normalize:
        functions.append(_normalizer(steps.lang))
    if steps.printable:
        functions.append(remove_unprintable)
    if steps.tokenize:
        functions.append(_tokenizer(steps.lang, steps.hyphens == "split"))
    if steps.lowercase:
        functions.append(lowercase)

    def run(line: str) -> str:
        for function in functions:
            line = function(line)
        return line

    return run


def remove_unprintable(line: str) -> str:
    """Return `line` with a space for each control, format, private or unassigned character."""
    if line.isprintable():
        return line
    return "".join(" " if unicodedata.category(c)[0] == "C" else c for c in line)


def lowercase(line: str) -> str:
    """Return `line` in lower case, each character by itself: a sigma that ends a word is no other one."""
    return "".join(map(str.lower, line)) if "\u03a3" in line else line.lower()


def _normalizer(lang: str) -> Callable[[str], str]:
    try:
        from sacremoses import MosesPunctNormalizer
    except ImportError as error:
        raise _missing() from error
    moses = MosesPunctNormalizer(lang=lang, perl_parity=True)
    # The Perl script sees the newline too: by its rule for German and French, `."` at the end becomes `".`
    return lambda line: moses.normalize(line + "\n").strip()


def _tokenizer(lang: str, split_hyphens: bool) -> Callable[[str], str]:
    try:
        from sacremoses import MosesTokenizer
    except ImportError as error:
        raise _missing() from error
    moses = MosesTokenizer(lang=lang)
    letters, small = frozenset(moses.IsAlpha), frozenset(moses.IsLower)
    # Both build their set of letters on each call, which takes most of the time; the answers are the same.
    moses.isanyalpha = lambda text: not letters.isdisjoint(text)
    moses.islower = lambda text: small.issuperset(text)
    return lambda line: " ".join(
        moses.tokenize(line, aggressive_dash_splits=split_hyphens, return_str=True).split()
    )


def _missing() -> ConfigError:
    return ConfigError(
        "the Moses steps need the package sacremoses, which is not installed; run: pip install 'hat[text]'"
    )
