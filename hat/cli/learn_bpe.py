"""The command `scripts/learn_bpe.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import command, parse
from hat.data.bpe import learn_bpe


@dataclass(frozen=True)
class LearnBpeOptions:
    """Byte-pair encoding"""

    inputs: tuple[str, ...]
    """texts to learn on together"""
    codes: str
    """file of merges to write"""
    merges: int = 10000
    """number of merges"""
    workers: int = 1
    """number of processes that count words; the result does not depend on it"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Learn merges on text; return the exit status."""
    (cfg,) = parse(
        argv, LearnBpeOptions, prog="learn_bpe.py", description="Learn byte-pair merges with subword-nmt."
    )
    merges = learn_bpe(tuple(map(Path, cfg.inputs)), Path(cfg.codes), cfg.merges, max(1, cfg.workers))
    print(f"{cfg.codes}: {merges} merges")
    return 0
