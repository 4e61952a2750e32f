"""The command `scripts/unpack.py`: named files out of an archive."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import command, parse
from hat.files.archive import unpack


@dataclass(frozen=True)
class UnpackOptions:
    """Unpacking"""

    archive: str
    """a tar, tar.gz or zip archive, or one file packed with gzip"""
    to: str
    """folder to write to"""
    members: tuple[str, ...]
    """paths inside the archive; each is written to the same path below the folder"""
    flat: bool = False
    """the members are named without their folders, wherever in the archive they are"""
    max_gib: int = 256
    """most that the whole archive may unpack to, in GiB"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Unpack the files named, all or none; return the exit status."""
    (cfg,) = parse(
        argv,
        UnpackOptions,
        prog="unpack.py",
        description="Take named files, and nothing else, out of an archive.",
    )
    paths = unpack(
        Path(cfg.archive), Path(cfg.to), cfg.members, flat=cfg.flat, max_bytes=max(0, cfg.max_gib) << 30
    )
    print(f"{cfg.archive}: {len(paths)} files unpacked to {cfg.to}")
    return 0
