"""`hat init`: a folder to work in, with the tasks and scripts that came with an installed HAT."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import command, parse
from hat.config import Options, option, shipped
from hat.errors import ConfigError


@dataclass(frozen=True)
class InitOptions(Options):
    """Folder"""

    to: str = option(".", metavar="DIR")
    """folder that gets configs/ and scripts/"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Copy the folders; see --help."""
    text = "Put the tasks (configs/) and shell scripts (scripts/) of this HAT into a folder."
    (options,) = parse(argv, InitOptions, prog="hat init", description=text)
    print(f"{init(Path(options.to))}: go there and run bash scripts/run_task.sh toy.en-de cpu")
    return 0


def init(folder: Path) -> Path:
    """Copy configs/ and scripts/ of this installation into `folder` and return it.

    Raises ConfigError if one of them is there already: nothing is overwritten.
    """
    targets = {name: folder / name for name in ("configs", "scripts")}
    for path in targets.values():
        if path.exists():
            raise ConfigError(f"{path} exists already and is kept; give another folder with --to")
    for name, path in targets.items():
        shutil.copytree(shipped(name), path, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    return folder
