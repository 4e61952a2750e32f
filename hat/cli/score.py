"""scripts/score.py: BLEU of what scripts/generate.py wrote."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hat.cli.options import OutputOptions, command, parse
from hat.data.pairs import PairDataset
from hat.data.text import detokenize, read_lines, remove_subwords
from hat.decode.score import bleu, parse_output
from hat.errors import ConfigError, DataError, HatError
from hat.files.atomic import write_text_atomic
from hat.log import say


@dataclass(frozen=True)
class ScoreOptions:
    """Scoring"""

    gen_output: str | None = None
    """output of scripts/generate.py"""
    mode: Literal["normal", "sacre"] = "normal"
    """normal: tokenised BLEU as the release scores it; sacre: SacreBLEU of detokenised text"""
    data: str | None = None
    """data folder; in mode sacre its raw reference text is used where preprocessing kept it"""
    gen_subset: str = "test"
    """split the output is of"""
    source_lang: str | None = None
    """source language (default: read off the file names)"""
    target_lang: str | None = None
    """target language (default: read off the file names)"""
    ref: str | None = None
    """raw reference text for mode sacre, one sentence a line"""
    remove_bpe: str | None = field(default=None, metadata={"const": "@@ "})
    """how the output was joined; sentencepiece output is text already, other output is detokenised"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Score; see --help."""
    options, out = parse(
        argv, ScoreOptions, OutputOptions, prog="score.py", description="Print BLEU and its signature."
    )
    if options.gen_output is None:
        raise ConfigError("--gen-output is needed: the file scripts/generate.py wrote")
    if not Path(options.gen_output).is_file():
        raise ConfigError(f"--gen-output {options.gen_output} is no file; run scripts/generate.py first")
    remove_subwords("", options.remove_bpe)  # refuses an unknown kind
    hypotheses, references = parse_output(read_lines(options.gen_output), options.gen_output)
    lang = options.target_lang or ""
    data = None
    if options.data:
        data = PairDataset.load(options.data, options.gen_subset, options.source_lang, options.target_lang)
        lang = data.target_lang
        if len(data) != len(hypotheses):
            raise DataError(
                f"{options.gen_output} holds {len(hypotheses)} sentences, the {options.gen_subset} set has "
                f"{len(data)}; generate again, or give the split it is of as --gen-subset"
            )
    if options.mode == "sacre":
        raw = None
        if data is not None:
            raw = data.raw_target(options.ref)
        elif options.ref:
            raw = list(read_lines(options.ref))
        if options.remove_bpe != "sentencepiece":
            if not lang:
                raise ConfigError("--target-lang or --data is needed to detokenise")
            hypotheses = list(detokenize(hypotheses, lang))
            references = list(detokenize(references, lang)) if raw is None else references
        references = references if raw is None else raw
    result = bleu(hypotheses, references, options.mode, lang)
    print(result.text)
    print(f"signature: {result.signature}")
    score = json.dumps({"bleu": result.bleu, "signature": result.signature, "mode": options.mode})
    try:
        write_text_atomic(Path(f"{options.gen_output}.{options.mode}.json"), score + "\n")
    except HatError as error:  # the output may lie where others may only read
        say(f"the score is not kept beside the output: {error}")
    if out.json:
        print(score)
    return 0
