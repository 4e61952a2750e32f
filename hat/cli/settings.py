"""The options every task configuration may hold, so that one YAML file serves all commands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hat.cli.options import OutputOptions, parse
from hat.cli.profile import ProfileOptions
from hat.cli.task import DeviceOptions, TaskOptions
from hat.errors import ConfigError
from hat.model.config import ModelConfig
from hat.space import ArchOptions, SpaceOptions
from hat.train.policy import PolicyConfig
from hat.train.schedule import ScheduleConfig
from hat.train.trainer import OptimConfig


@dataclass(frozen=True)
class RunOptions:
    """Run"""

    configs: str | None = None
    train_subtransformer: bool = False
    """train the one architecture that is given"""
    validate_subtransformer: bool = False
    """print the validation loss of the given architecture with the weights of --restore-file, and stop"""
    train_subset: str = "train"
    """split to train on"""
    save_dir: str | None = None
    """folder of checkpoints and logs (default: checkpoints/<path of --configs>)"""
    restore_file: str | None = None
    """checkpoint to start from (default: the newest one in --save-dir, if any)"""
    reset_optimizer: bool = False
    """do not take the optimiser's moments from the checkpoint"""
    reset_lr_scheduler: bool = False
    """start the learning-rate schedule, and with it the update count, anew"""
    reset_dataloader: bool = False
    """start at the first epoch"""
    reset_meters: bool = False
    """forget the best validation loss"""
    save_interval: int = 1
    """epochs between checkpoints"""
    save_interval_updates: int = 0
    """updates between checkpoints within an epoch; 0 for none"""
    keep_last_epochs: int = -1
    """epoch checkpoints to keep; -1 for all"""
    keep_interval_updates: int = -1
    """checkpoints within epochs to keep; -1 for all"""
    validate_interval: int = 1
    """epochs between validations"""
    patience: int = -1
    """stop after this many validations without a better loss; -1 never"""
    log_interval: int = 100
    """updates between log lines"""
    tensorboard_logdir: str | None = None
    """folder for TensorBoard (default: tensorboard/ in --save-dir)"""
    no_tensorboard: bool = False
    """write no TensorBoard files"""

    def __post_init__(self) -> None:
        if self.patience == 0 or self.patience < -1:
            raise ConfigError(f"--patience must be at least 1, or -1 for never, got {self.patience}")
        for name in ("keep_last_epochs", "keep_interval_updates"):
            if getattr(self, name) < -1:
                raise ConfigError(
                    f"--{name.replace('_', '-')} must be at least 0, or -1 for all, got {getattr(self, name)}"
                )
        if self.save_interval_updates < 0:
            raise ConfigError(
                f"--save-interval-updates must not be negative, got {self.save_interval_updates}"
            )
        for name in ("save_interval", "validate_interval", "log_interval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class RankOptions:
    """Many devices"""

    distributed_world_size: int | None = None
    """processes to start on this machine, one for each GPU (default: all GPUs, or one process on CPUs);
    torchrun sets it by itself"""
    distributed_port: int | None = None
    """port the processes of this machine meet at (default: any free one)"""

    def __post_init__(self) -> None:
        if self.distributed_world_size is not None and not 1 <= self.distributed_world_size <= 1024:
            raise ConfigError(
                f"--distributed-world-size must lie between 1 and 1024, got {self.distributed_world_size}"
            )
        if self.distributed_port is not None and not 1 <= self.distributed_port <= 65535:
            raise ConfigError(
                f"--distributed-port must lie between 1 and 65535, got {self.distributed_port}; leave it out "
                "to use any free port"
            )


class Settings(NamedTuple):
    """One resolved configuration."""

    run: RunOptions
    task: TaskOptions
    space: SpaceOptions
    arch: ArchOptions
    model: ModelConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    policy: PolicyConfig
    device: DeviceOptions
    ranks: RankOptions
    profile: ProfileOptions
    output: OutputOptions


_GROUPS = (
    RunOptions,
    TaskOptions,
    SpaceOptions,
    ArchOptions,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    PolicyConfig,
    DeviceOptions,
    RankOptions,
    ProfileOptions,
    OutputOptions,
)


def parse_settings(
    argv: Sequence[str] | None, *own: type, prog: str, description: str, config_flags: Sequence[str]
) -> tuple[Any, ...]:
    """Return the settings, and behind them one instance of each of the command's own dataclasses."""
    values = parse(argv, *own, *_GROUPS, prog=prog, description=description, config_flags=config_flags)
    return Settings(*values[len(own) :]), *values[: len(own)]
