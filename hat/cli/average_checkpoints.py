"""scripts/average_checkpoints.py: the mean of the weights of a run's last checkpoints."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.missing import advice, checkpoint_commands
from hat.cli.options import OutputOptions, command, parse
from hat.errors import CheckpointError, ConfigError
from hat.log import say
from hat.train.checkpoint import average, numbered, save


@dataclass(frozen=True)
class AverageOptions:
    """Averaging"""

    inputs: tuple[str, ...] = ()
    """checkpoint files, or one folder of a run"""
    num_epoch_checkpoints: int = 10
    """newest epoch checkpoints taken from a folder"""
    output: str | None = None
    """file to write (default: average_model_N.pt in the folder)"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Average; see --help."""
    options, out = parse(
        argv,
        AverageOptions,
        OutputOptions,
        prog="average_checkpoints.py",
        description="Write the mean of the weights of several checkpoints of one model.",
    )
    if not options.inputs or options.num_epoch_checkpoints < 1:
        raise ConfigError("--inputs (files or a folder) is needed, and --num-epoch-checkpoints at least 1")
    paths = [Path(name) for name in options.inputs]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        wanted = options.num_epoch_checkpoints
        paths = [path for path in numbered(folder) if not path.name.startswith("checkpoint_")][:wanted]
        if len(paths) < wanted:
            if not paths:
                how = advice(checkpoint_commands(folder / "checkpoint1.pt"), "train with --save-interval")
                raise CheckpointError(f"{folder} holds no checkpointN.pt; {how}")
            say(f"{folder} holds {len(paths)} epoch checkpoints, not {wanted}; averaging those")
        output = Path(options.output or folder / f"average_model_{wanted}.pt")
    elif options.output:
        output = Path(options.output)
    else:
        missing = [str(path) for path in paths if not path.exists()]
        if missing:
            how = advice(
                checkpoint_commands(paths[0] / "checkpoint1.pt"), "give checkpoint files or a folder"
            )
            raise CheckpointError(f"{', '.join(missing)} does not exist; {how}")
        raise ConfigError("--output is needed where the inputs are single files")
    save(average(paths, say), output)
    print(f"{output}: mean of {', '.join(path.name for path in paths)}")
    if out.json:
        print(json.dumps({"output": str(output), "inputs": [str(path) for path in paths]}))
    return 0
