"""The command `scripts/split_pairs.py`: join corpora, put every n-th pair aside."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import command, parse
from hat.data.split import split_pairs


@dataclass(frozen=True)
class SplitOptions:
    """Splitting"""

    inputs: tuple[str, ...]
    """paths of the texts without .<language>, joined in this order"""
    source_lang: str
    """ending of the source texts"""
    target_lang: str
    """ending of the target texts"""
    train: str
    """path of the training text to write, without .<language>"""
    valid: str | None = None
    """path of the validation text to write, without .<language>"""
    every: int = 0
    """make each pair of this number validation: 23 takes pairs 23, 46, ... of the joined text"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write training and validation text; return the exit status."""
    (cfg,) = parse(
        argv,
        SplitOptions,
        prog="split_pairs.py",
        description="Join parallel texts and put every n-th pair aside for validation.",
    )

    def pair(prefix: str) -> tuple[Path, Path]:
        return Path(f"{prefix}.{cfg.source_lang}"), Path(f"{prefix}.{cfg.target_lang}")

    kept, aside = split_pairs(
        [pair(prefix) for prefix in cfg.inputs],
        pair(cfg.train),
        pair(cfg.valid) if cfg.valid else None,
        cfg.every,
    )
    print(f"{cfg.train}: {kept} pairs" + (f", {cfg.valid}: {aside}" if cfg.valid else ""))
    return 0
