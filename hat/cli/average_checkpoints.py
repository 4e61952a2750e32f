"""hat average: the mean of the weights of a run's last checkpoints."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.missing import advice, checkpoint_commands
from hat.cli.options import OutputOptions, command, only, parse
from hat.config import Options, option
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


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Average; see --help."""
    text = "Write the mean of the weights of several checkpoints of one model."
    groups = (AverageOptions, only(OutputOptions, "json"))
    given, out = parse(argv, *groups, prog="hat average", description=text)
    if not given.inputs:
        raise ConfigError("--inputs is needed: checkpoint files, or the folder of a run")
    if missing := [name for name in given.inputs if not Path(name).exists()]:
        commands = checkpoint_commands(Path(missing[0]) / "checkpoint1.pt") or checkpoint_commands(missing[0])
        how = advice(commands, "give checkpoint files or a folder")
        raise CheckpointError(f"{', '.join(missing)} does not exist; {how}")
    from hat.train.checkpoint import average  # after the checks: it loads torch

    output, used = average(given.inputs, given.output, num_epoch_checkpoints=given.num_epoch_checkpoints)
    print(f"{output}: mean of {', '.join(path.name for path in used)}")
    if out.json:
        print(json.dumps({"output": str(output), "inputs": [str(path) for path in used]}))
    return 0
