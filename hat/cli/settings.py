"""The options every task configuration may hold, so that one YAML file serves all commands."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hat.cli.options import OutputOptions, Part, only, parse
from hat.cli.profile import ProfileOptions
from hat.cli.task import DeviceOptions, RankOptions, RunOptions, TaskOptions
from hat.model.layers import ModelConfig
from hat.space import ArchOptions, SpaceOptions
from hat.train.loop import LoopConfig
from hat.train.policy import PolicyConfig, ScheduleConfig
from hat.train.trainer import OptimConfig


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
    loop: LoopConfig
    device: DeviceOptions
    ranks: RankOptions
    profile: ProfileOptions
    output: OutputOptions


GROUPS = (
    RunOptions,
    TaskOptions,
    SpaceOptions,
    ArchOptions,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    PolicyConfig,
    LoopConfig,
    DeviceOptions,
    RankOptions,
    ProfileOptions,
    OutputOptions,
)


def parse_settings(
    argv: Sequence[str] | None,
    *own: type,
    prog: str,
    description: str,
    config_flags: Sequence[str],
    used: Sequence[type | Part] | None = None,
) -> tuple[Any, ...]:
    """Return the settings, and behind them one instance of each of the command's own dataclasses.

    `used` are the shared dataclasses, or parts of them, that the command uses and its help lists; None: all.
    """
    listed = {
        each.group if isinstance(each, Part) else each: each for each in (GROUPS if used is None else used)
    }
    groups = [listed.get(group, only(group)) for group in GROUPS]
    values = parse(argv, *own, *groups, prog=prog, description=description, config_flags=config_flags)
    return Settings(*values[len(own) :]), *values[: len(own)]
