"""BLEU, chrF and TER by sacrebleu. `normal` is the release's tokenised BLEU: intra-word hyphens split on both
sides, no further tokenisation. `sacre` is SacreBLEU of detokenised text against the raw reference.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hat.data.pairs import PairDataset
from hat.data.subwords import plain_text, remove_subwords
from hat.data.text import read_lines
from hat.errors import ConfigError, DataError, install

Mode = Literal["normal", "sacre"]
# Languages and scripts without spaces between words: ISO 639 codes of two and three letters, script subtags
# of BCP 47, and two country codes that corpora use for languages.
_TOKENIZERS = {
    "zh": "zh zho chi cmn yue wuu nan hak gan hsn cjy cdo mnp czh cpx lzh cn hans hant hani hanb bopo",
    "ja-mecab": "ja jpn jp jpan hira kana hrkt",
    "ko-mecab": "ko kor kore hang",
    "char": "th tha lo lao km khm my mya bur bo bod tib dz dzo nod tts sou shn khb tdd mnw rki adx kxm "
    "thai laoo khmr mymr tibt lana talu tale",
}
_TOKENIZER_OF = {code: name for name, codes in _TOKENIZERS.items() for code in codes.split()}


class Scores(NamedTuple):
    """BLEU (0 to 100), chrF (0 to 100) and TER (percent of the reference's words) with their signatures."""

    bleu: float
    signature: str
    chrf: float
    chrf_signature: str
    ter: float
    ter_signature: str
    text: str


def tokenizer_of(lang: str) -> str:
    """Return sacrebleu's tokeniser for text in `lang`, an ISO 639 code or a BCP 47 tag with "-" or "_"."""
    first, *more = re.split("[^a-z0-9]+", lang.lower())
    script = next((part for part in more if len(part) == 4 and part.isalpha()), "")
    return "13a" if script == "latn" else _TOKENIZER_OF.get(script) or _TOKENIZER_OF.get(first, "13a")


def check_tokenizer(lang: str) -> str:
    """Return the tokeniser for SacreBLEU of `lang`; raises ConfigError if its packages are not installed."""
    _metric(name := tokenizer_of(lang))
    return name


def _metric(tokenizer: str, **options: Any) -> Any:
    from sacrebleu.metrics import BLEU

    try:
        return BLEU(tokenize=tokenizer, **options)
    except (ImportError, RuntimeError) as error:
        found = f"BLEU needs the tokeniser {tokenizer} for this target language, which is not installed"
        raise ConfigError(f"{found}; run: {install(tokenizer.partition('-')[0])}") from error


def bleu(hypotheses: Sequence[str], references: Sequence[str], mode: Mode, target_lang: str = "") -> Scores:
    """Return BLEU, chrF and TER of one hypothesis against one reference each; DataError on unequal counts."""
    from sacrebleu.metrics import CHRF, TER

    if len(hypotheses) != len(references) or not hypotheses:
        raise DataError(f"{len(hypotheses)} hypotheses and {len(references)} references; as many are needed")
    plain = hyphens = words = [list(hypotheses), list(references)]
    split = ""
    if mode == "normal":  # every hyphen inside a word is split, as the release scores
        first = _metric("none", smooth_method="none", force=True)
        pattern = r"(\S)-(\S)", r"\1 ##AT##-##AT## \2"
        hyphens = [[re.sub(*pattern, line) for line in lines] for lines in plain]
    else:
        first = _metric(name := tokenizer_of(target_lang))
        if name != "13a":
            words, split = [list(map(first.tokenizer, lines)) for lines in plain], f"|split:{name}"
    found = []
    for metric, (ours, theirs), end in ((first, hyphens, ""), (CHRF(), plain, ""), (TER(), words, split)):
        found.append((metric.corpus_score(ours, [theirs]), f"{metric.get_signature()}{end}"))
    values = [value for result, signature in found for value in (result.score, signature)]
    text = "\n".join(f"{result}\nsignature: {signature}" for result, signature in found)
    return Scores(*values, text)


def score_file(
    output: Path | str,
    mode: Mode = "normal",
    *,
    data: PairDataset | None = None,
    reference: Path | str | None = None,
    target_lang: str = "",
    remove_bpe: str | None = None,
) -> Scores:
    """Return BLEU, chrF and TER of a file that `hat generate` wrote, a translation of the split `data`. Mode
    "sacre" takes the raw text `reference`, or that of `data` if it was kept, and detokenises output by the
    rules of the target language, if it is not that of sentencepiece. `remove_bpe` says how the output was
    joined. Raises DataError if hypotheses, references and `data` do not fit together.
    """
    remove_subwords("", remove_bpe)  # refuses an unknown kind
    hypotheses, references = parse_output(read_lines(output), str(output))
    if data is not None:
        target_lang = target_lang or data.target_lang
        if len(data) != len(hypotheses):
            found = f"{output} holds {len(hypotheses)} sentences, the {data.split} set has {len(data)}"
            raise DataError(f"{found}; generate again, or give the split it is of as --gen-subset")
    if mode == "sacre":
        if remove_bpe != "sentencepiece":
            if not target_lang:
                raise ConfigError("--target-lang or --data is needed to detokenise")
            both = (hypotheses, references)
            hypotheses, references = ([plain_text(words, target_lang) for words in lines] for lines in both)
        if data is not None:
            references = data.raw_target(reference) or references
        elif reference:
            references = list(read_lines(reference))
    return bleu(hypotheses, references, mode, target_lang)


def parse_output(lines: Iterable[str], name: str) -> tuple[list[str], list[str]]:
    """Return best hypotheses and references in corpus order; DataError if one is missing or damaged."""
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
        held = f"{len(hypotheses)} hypotheses and {len(references)} references"
        raise DataError(f"{name} holds {held}, not one of each for every sentence; generate again")
    return [hypotheses[index] for index in order], [references[index] for index in order]
