"""The command `scripts/clean.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import command, parse
from hat.data.clean import drop_empty_pairs


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
    """Copy parallel text without the pairs that have an empty side; return the exit status."""
    (cfg,) = parse(
        argv,
        CleanOptions,
        prog="clean.py",
        description="Copy parallel text without pairs that have an empty side.",
    )
    langs = cfg.source_lang, cfg.target_lang
    inputs, outputs = (
        tuple(Path(f"{prefix}.{lang}") for lang in langs) for prefix in (cfg.input, cfg.output)
    )
    kept, dropped = drop_empty_pairs(inputs, outputs)
    print(f"{cfg.output}: {kept} pairs kept, {dropped} with an empty side dropped")
    return 0
