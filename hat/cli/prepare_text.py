"""The command `scripts/prepare_text.py`: a published corpus -> parallel text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import command, parse
from hat.data.markup import Markup
from hat.data.moses import Hyphens, MosesSteps
from hat.data.prepare import Side, prepare_pairs
from hat.errors import ConfigError


@dataclass(frozen=True)
class PrepareOptions:
    """Text"""

    source_lang: str
    """source language: its Moses rules, and the ending of its output"""
    target_lang: str
    """the same for the target"""
    source_inputs: tuple[str, ...]
    """files with source sentences, in order"""
    target_inputs: tuple[str, ...]
    """files with their translations: file i goes with file i of the source"""
    output: str
    """path to write without .<language>"""
    markup: Markup = "none"
    """where sentences stand: none, each line; segments, <seg id=..> of SGML and XML; talks, training text of
    TED talks; columns, tab-separated columns"""
    source_column: int = 1
    """column of the source sentence, from 1"""
    target_column: int = 2
    """column of the target sentence"""
    replace_invalid: bool = False
    """replace bytes that are not UTF-8 instead of stopping"""
    normalize: bool = False
    """first step: normalise punctuation as Moses does"""
    printable: bool = False
    """second: replace characters that do not print by spaces"""
    tokenize: bool = False
    """third: Moses tokens, with XML escapes"""
    hyphens: Hyphens = "keep"
    """split: make hyphens inside words tokens of their own, @-@"""
    lowercase: bool = False
    """last: lower case"""
    workers: int = 1
    """number of processes; the result does not depend on it"""

    def __post_init__(self) -> None:
        for name in ("source_column", "target_column", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: 1 or more is allowed; see "
                    "prepare_text.py --help"
                )
        if self.source_lang == self.target_lang:
            raise ConfigError(
                f"--target-lang {self.target_lang}: it must differ from the source language; see "
                "prepare_text.py --help"
            )

    def side(self, lang: str, inputs: tuple[str, ...], column: int) -> Side:
        """Return what is to be done for one language."""
        steps = MosesSteps(lang, self.normalize, self.printable, self.tokenize, self.hyphens, self.lowercase)
        return Side(tuple(map(Path, inputs)), self.markup, steps, column, self.replace_invalid)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the sentences of a corpus in both languages; return the exit status."""
    (cfg,) = parse(
        argv,
        PrepareOptions,
        prog="prepare_text.py",
        description="Take the sentences out of a published corpus and do the steps of the Moses scripts.",
    )
    sides = (
        cfg.side(cfg.source_lang, cfg.source_inputs, cfg.source_column),
        cfg.side(cfg.target_lang, cfg.target_inputs, cfg.target_column),
    )
    outputs = [Path(f"{cfg.output}.{lang}") for lang in (cfg.source_lang, cfg.target_lang)]
    result = prepare_pairs(sides, outputs, cfg.workers)
    parts = f" ({' + '.join(map(str, result.sentences))})" if len(result.sentences) > 1 else ""
    print(f"{cfg.output}: {sum(result.sentences)} pairs{parts}")
    if result.invalid and cfg.replace_invalid:
        print(f"{cfg.output}: {result.invalid} lines have bytes that are not UTF-8, or U+FFFD")
    return 0
