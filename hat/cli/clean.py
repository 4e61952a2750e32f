"""The command `scripts/clean.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import command, parse
from hat.data.clean import Limits, clean_pairs


@dataclass(frozen=True)
class CleanOptions:
    """Cleaning"""

    input: str
    """path of the text without .<language>"""
    output: str
    """path of the cleaned text without .<language>"""
    source_lang: str
    """ending of the source text"""
    target_lang: str
    """ending of the target text"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Copy the pairs of a parallel text that are within the limits; return the exit status."""
    cfg, limits = parse(
        argv,
        CleanOptions,
        Limits,
        prog="clean.py",
        description="Copy parallel text without pairs that have an empty side or are beyond limits.",
    )
    langs = cfg.source_lang, cfg.target_lang
    inputs, outputs = (
        tuple(Path(f"{prefix}.{lang}") for lang in langs) for prefix in (cfg.input, cfg.output)
    )
    kept, dropped = clean_pairs(inputs, outputs, limits)
    why = "with an empty side" if limits == Limits() else "outside the limits"
    print(f"{cfg.output}: {kept} pairs kept, {dropped} {why} dropped")
    return 0
