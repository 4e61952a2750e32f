"""BLEU of generated output, by sacrebleu alone.

`normal` is the release's tokenised BLEU: intra-word hyphens split on both sides, no further tokenisation.
`sacre` is SacreBLEU of detokenised text against the raw reference.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from hat.errors import DataError

Mode = Literal["normal", "sacre"]
_HYPHEN = re.compile(r"(\S)-(\S)")


@dataclass(frozen=True)
class Bleu:
    """A corpus score and the signature that makes it comparable."""

    bleu: float
    signature: str
    text: str


def bleu(hypotheses: Sequence[str], references: Sequence[str], mode: Mode, target_lang: str = "") -> Bleu:
    """Return BLEU (0 to 100) of one hypothesis against one reference each.

    Raises DataError on unequal counts.
    """
    from sacrebleu.metrics import BLEU

    if len(hypotheses) != len(references) or not hypotheses:
        raise DataError(
            f"{len(hypotheses)} hypotheses and {len(references)} references; each hypothesis needs one "
            "reference"
        )
    if mode == "normal":
        metric = BLEU(tokenize="none", smooth_method="none", force=True)
        hypotheses = [split_hyphens(line) for line in hypotheses]
        references = [split_hyphens(line) for line in references]
    else:
        metric = BLEU(trg_lang=target_lang)
    result = metric.corpus_score(list(hypotheses), [list(references)])
    return Bleu(result.score, str(metric.get_signature()), str(result))


def split_hyphens(line: str) -> str:
    """Return `line` with every intra-word hyphen split, as the release scores it."""
    return _HYPHEN.sub(r"\1 ##AT##-##AT## \2", line)


def parse_output(lines: Iterable[str], name: str) -> tuple[list[str], list[str]]:
    """Return best hypotheses and references of generation output, in corpus order.

    Raises DataError, naming the line, where one is missing or damaged.
    """
    hypotheses: dict[int, str] = {}
    references: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"([SHTP])-([0-9]+)\t(.*)", line)
        if not match:
            if re.match(r"[SHTP]-", line):
                raise DataError(f"{name}:{number}: damaged output line {line[:60]!r}; generate again")
            continue
        kind, index, rest = match[1], int(match[2]), match[3]
        if kind == "T":
            references[index] = rest
        elif kind == "H" and index not in hypotheses:  # the best one comes first
            score, tab, text = rest.partition("\t")
            if not tab:
                raise DataError(
                    f"{name}:{number}: no hypothesis behind the score {score[:20]!r}; generate again"
                )
            hypotheses[index] = text
    order = sorted(hypotheses)
    if not order or order != sorted(references) or order != list(range(len(order))):
        raise DataError(
            f"{name} holds {len(hypotheses)} hypotheses and {len(references)} references, not one of each "
            "for "
            "every sentence; generate again"
        )
    return [hypotheses[index] for index in order], [references[index] for index in order]
