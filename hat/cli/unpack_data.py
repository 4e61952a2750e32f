"""The command `scripts/unpack_data.py`: binary data out of an archive."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import command, parse
from hat.data.dataset import unpack_data


@dataclass(frozen=True)
class UnpackDataOptions:
    """Unpacking"""

    archive: str
    """a tar, tar.gz or zip archive with dictionaries and indexed data"""
    destdir: str
    """folder to write; data in it is replaced at the end, in one step"""
    source_lang: str
    """source language, for example en"""
    target_lang: str
    """target language, for example de"""
    splits: tuple[str, ...] = ("train", "valid", "test")
    """splits that the archive must hold"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Unpack and check binary data; return the exit status."""
    (cfg,) = parse(
        argv,
        UnpackDataOptions,
        prog="unpack_data.py",
        description="Take dictionaries and binary data out of an archive, and check that they fit together.",
    )
    pairs = unpack_data(Path(cfg.archive), Path(cfg.destdir), (cfg.source_lang, cfg.target_lang), cfg.splits)
    counts = ", ".join(f"{number} {split}" for split, number in pairs.items())
    print(f"{cfg.destdir}: {counts} pairs")
    return 0
