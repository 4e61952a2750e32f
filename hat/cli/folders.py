"""Commands on folders: average the checkpoints of a run, report on a run, make a folder to work in."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.missing import advice, checkpoint_commands
from hat.cli.options import OutputOptions, command, only, parse
from hat.config import Options, option, shipped
from hat.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class AverageOptions(Options):
    """Averaging"""

    inputs: tuple[str, ...] = option((), role="file")
    """checkpoint files, or one folder of a run"""
    num_epoch_checkpoints: int = option(10, low=1)
    """newest epoch checkpoints taken from a folder"""
    output: str | None = option(None, role="free")
    """file to write (default: average_model_N.pt in the folder)"""


@dataclass(frozen=True)
class ReportOptions:
    """Report"""

    run_dir: str | None = None
    """folder of run_task.sh, of one search or training, or one above several; the flag may be left out"""
    to: str | None = None
    """folder to write (default: report in the run's folder)"""


@dataclass(frozen=True)
class InitOptions(Options):
    """Folder"""

    to: str = option(".", metavar="DIR")
    """folder that gets configs/ and scripts/"""


@command
def average(argv: Sequence[str] | None = None) -> int:
    """Write the mean of the weights of several checkpoints of one model."""
    groups = AverageOptions, only(OutputOptions, "json")
    given, out = parse(argv, *groups, prog="hat average", description=average.__doc__)
    if not given.inputs:
        raise ConfigError("--inputs is needed: checkpoint files, or the folder of a run")
    if missing := [name for name in given.inputs if not Path(name).exists()]:
        commands = checkpoint_commands(Path(missing[0]) / "checkpoint1.pt") or checkpoint_commands(missing[0])
        how = advice(commands, "give checkpoint files or a folder")
        raise CheckpointError(f"{', '.join(missing)} does not exist; {how}")
    from hat.train import checkpoint  # after the checks: it loads torch

    count = given.num_epoch_checkpoints
    output, used = checkpoint.average(given.inputs, given.output, num_epoch_checkpoints=count)
    print(f"{output}: mean of {', '.join(path.name for path in used)}")
    if out.json:
        print(json.dumps({"output": str(output), "inputs": [str(path) for path in used]}))
    return 0


@command
def report(argv: Sequence[str] | None = None) -> int:
    """Show what a run found and what it cost, as one self-contained page: hat report RUN_DIR."""
    groups = ReportOptions, only(OutputOptions, "json")
    options, out = parse(argv, *groups, prog="hat report", description=report.__doc__, bare="run_dir")
    if options.run_dir is None:
        raise ConfigError("no folder is given; name one: python -m hat report runs/<task>/<hardware>")
    from hat.report import page as pages  # late: the other commands show nothing

    page = pages.report(options.run_dir, options.to)
    pictures = sorted(page.parent.glob("*.png"))
    print(f"written: {page} and {', '.join(path.name for path in pictures) or 'no picture'} beside it")
    if out.json:
        print(json.dumps({"page": str(page), "pictures": [str(path) for path in pictures]}))
    return 0


@command
def init(argv: Sequence[str] | None = None) -> int:
    """Put the tasks (configs/) and shell scripts (scripts/) of this HAT into a folder; overwrites nothing."""
    (options,) = parse(argv, InitOptions, prog="hat init", description=init.__doc__)
    folder = Path(options.to)
    targets = {name: folder / name for name in ("configs", "scripts")}
    for path in targets.values():
        if path.exists():
            raise ConfigError(f"{path} exists already and is kept; give another folder with --to")
    for name, path in targets.items():
        shutil.copytree(shipped(name), path, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    print(f"{folder}: go there and run bash scripts/run_task.sh toy.en-de cpu")
    return 0
