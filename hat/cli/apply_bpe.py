"""The command `scripts/apply_bpe.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import command, parse
from hat.data.bpe import apply_bpe


@dataclass(frozen=True)
class ApplyBpeOptions:
    """Byte-pair encoding"""

    codes: str
    """file of merges"""
    inputs: tuple[str, ...]
    """texts to split"""
    to: str
    """folder to write to; each text keeps its name"""
    workers: int = 1
    """number of processes; the result does not depend on it"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Split the words of texts into subwords; return the exit status."""
    (cfg,) = parse(
        argv, ApplyBpeOptions, prog="apply_bpe.py", description="Split words into subwords with subword-nmt."
    )
    for path in apply_bpe(Path(cfg.codes), tuple(map(Path, cfg.inputs)), Path(cfg.to), max(1, cfg.workers)):
        print(f"{path} written")
    return 0
