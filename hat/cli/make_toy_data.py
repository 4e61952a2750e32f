"""The command `scripts/make_toy_data.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

from hat.cli.options import command, parse
from hat.data.toy import write_toy


@dataclass(frozen=True)
class ToyOptions:
    """Toy data"""

    to: str = "data/raw/toy.en-de"
    """folder to write {train,valid,test}.{en,de} to"""
    seed: int = 1
    """the same seed gives the same text everywhere"""
    train: int = 19_000
    """training pairs"""
    valid: int = 500
    """validation pairs"""
    test: int = 500
    """test pairs"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write generated English-German pairs; return the exit status."""
    (cfg,) = parse(
        argv,
        ToyOptions,
        prog="make_toy_data.py",
        description="Write generated English-German sentence pairs, no sentence in more than one split.",
    )
    sizes = write_toy(cfg.to, cfg.seed, cfg.train, cfg.valid, cfg.test)
    print(f"{cfg.to}: " + ", ".join(f"{size} {split}" for split, size in sizes.items()) + " pairs")
    return 0
