"""BLEU of generated output, by sacrebleu alone.

`normal` is the release's tokenised BLEU: intra-word hyphens split on both sides, no further tokenisation.
`sacre` is SacreBLEU of detokenised text against the raw reference.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hat.data.corpora import detokenizer
from hat.data.pairs import PairDataset
from hat.data.subwords import remove_subwords
from hat.data.text import read_lines
from hat.errors import ConfigError, DataError

Mode = Literal["normal", "sacre"]
_HYPHEN = re.compile(r"(\S)-(\S)")


@dataclass(frozen=True)
class Bleu:
    """A corpus score and the signature that makes it comparable."""

    bleu: float
    signature: str
    text: str


def bleu(hypotheses: Sequence[str], references: Sequence[str], mode: Mode, target_lang: str = "") -> Bleu:
    """Return BLEU (0 to 100) of one hypothesis against one reference each; DataError on unequal counts."""
    from sacrebleu.metrics import BLEU

    if len(hypotheses) != len(references) or not hypotheses:
        counts = f"{len(hypotheses)} hypotheses and {len(references)} references"
        raise DataError(f"{counts}; each hypothesis needs one reference")
    texts = [list(hypotheses), list(references)]
    metric = BLEU(trg_lang=target_lang)
    if mode == "normal":  # every hyphen inside a word is split, as the release scores
        metric = BLEU(tokenize="none", smooth_method="none", force=True)
        texts = [[_HYPHEN.sub(r"\1 ##AT##-##AT## \2", line) for line in lines] for lines in texts]
    result = metric.corpus_score(texts[0], [texts[1]])
    return Bleu(result.score, str(metric.get_signature()), str(result))


def score_file(
    output: Path | str,
    mode: Mode = "normal",
    *,
    data: PairDataset | None = None,
    reference: Path | str | None = None,
    target_lang: str = "",
    remove_bpe: str | None = None,
) -> Bleu:
    """Return BLEU of a file that `hat generate` wrote.

    `data` is the split it is a translation of. Mode "sacre" takes as reference the raw text `reference`, one
    sentence on a line, or that of `data` if it was kept, and detokenises other output than that of
    sentencepiece, which is text already, by the rules of the target language. `remove_bpe` says how the
    output was joined. Raises DataError if hypotheses, references and `data` do not fit together.
    """
    remove_subwords("", remove_bpe)  # refuses an unknown kind
    hypotheses, references = parse_output(read_lines(output), str(output))
    if data is not None:
        target_lang = data.target_lang
        if len(data) != len(hypotheses):
            raise DataError(
                f"{output} holds {len(hypotheses)} sentences, the {data.split} set has {len(data)}; generate "
                "again, or give the split it is of as --gen-subset"
            )
    if mode == "sacre":
        if remove_bpe != "sentencepiece":
            if not target_lang:
                raise ConfigError("--target-lang or --data is needed to detokenise")
            plain = detokenizer(target_lang)
            hypotheses, references = [*map(plain, hypotheses)], [*map(plain, references)]
        raw = (
            data.raw_target(reference)
            if data is not None
            else list(read_lines(reference))
            if reference
            else None
        )
        references = references if raw is None else raw
    return bleu(hypotheses, references, mode, target_lang)


def parse_output(lines: Iterable[str], name: str) -> tuple[list[str], list[str]]:
    """Return best hypotheses and references of generation output, in corpus order.

    Raises DataError, naming the line, if one is missing or damaged.
    """
    found: dict[str, dict[int, str]] = {"H": {}, "T": {}}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"(?:[SPT]-([0-9]+)\t|H-([0-9]+)\t[^\t]*\t)(.*)", line)
        if match and line[0] in found:  # the best hypothesis comes first
            found[line[0]].setdefault(int(match[1] or match[2]), match[3])
        elif not match and re.match(r"[SHTP]-", line):
            raise DataError(f"{name}:{number}: damaged output line {line[:60]!r}; generate again")
    hypotheses, references = found["H"], found["T"]
    order = range(len(hypotheses))
    if not order or not set(order) == hypotheses.keys() == references.keys():
        raise DataError(
            f"{name} holds {len(hypotheses)} hypotheses and {len(references)} references, not one of each "
            "for every sentence; generate again"
        )
    return [hypotheses[index] for index in order], [references[index] for index in order]
