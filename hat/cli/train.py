"""train.py: train or profile a SuperTransformer or a SubTransformer."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hat.cli.interrupt import Interrupt
from hat.cli.options import OutputOptions, command, parse, without
from hat.cli.profile import ProfileOptions, describe, profile, size
from hat.cli.task import (
    DeviceOptions,
    RankOptions,
    RunOptions,
    TaskOptions,
    data_of,
    device_of,
    find_checkpoint,
    processes,
    rank_device,
    run_folder,
    space_and_arch,
    vocabulary,
)
from hat.errors import ConfigError
from hat.log import say
from hat.model.layers import ModelConfig
from hat.space import ArchOptions, SpaceOptions
from hat.train.distributed import joined, launch, one_of_many, place_of
from hat.train.loop import LoopConfig, TrainConfig, fit, validate
from hat.train.policy import PolicyConfig, ScheduleConfig
from hat.train.trainer import OptimConfig

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
# Accepted, but not in --help: what a YAML file of the search gives, and what hardly anyone changes.
UNLISTED: dict[type, tuple[str, ...]] = {
    ArchOptions: tuple(each.name for each in fields(ArchOptions)),
    SpaceOptions: ("encoder_attention_heads", "decoder_attention_heads"),
    TaskOptions: ("arch", "required_batch_size_multiple"),
    ModelConfig: ("max_source_positions", "max_target_positions"),
    OptimConfig: ("optimizer", "adam_betas", "adam_eps", "sentence_avg", "fp16", "fp16_init_scale"),
    ProfileOptions: ("latsilent",),
}


@one_of_many
@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train, validate or profile; see --help."""
    options = parsed(argv)
    done = run(options, argv)
    if isinstance(done, int):
        return done
    place = place_of(os.environ)
    if options[-1].json and (place is None or place.rank == 0):
        print(json.dumps(done))
    return 0


def parsed(argv: Sequence[str] | None) -> tuple[Any, ...]:
    """Return one instance of each of GROUPS, as a command line and the YAML files it names say."""
    return parse(
        argv,
        *(without(group, *UNLISTED.get(group, ())) for group in GROUPS),
        prog="train.py",
        description="Train or profile a SuperTransformer, or one SubTransformer of its space.",
        config_flags=("--configs", "--sub-configs"),
    )


def run(options: tuple[Any, ...], argv: Sequence[str] | None) -> dict[str, Any] | int:
    """Train, validate or profile, tell the user, and return what came out.

    If there are several GPUs, processes are started with the arguments `argv`, which gave the options, and
    the result is their exit code. A number is also the exit code of a run that a signal stopped.
    """
    own, task, space_options, arch_options, model, optim, schedule, policy, loop, device, ranks, prof, out = (
        options
    )
    space, arch = space_and_arch(space_options, arch_options)
    if arch is None and (own.train_subtransformer or own.validate_subtransformer):
        raise ConfigError(
            "--train-subtransformer needs an architecture: give its YAML as --configs and common.yml as "
            "--sub-configs"
        )
    if prof.asked():
        device_of(device)  # sets the threads
        vocab = vocabulary(task, profiling=True)
        shown = arch or space.largest()
        result = profile(space, shown, model, vocab.sizes, task.sentence_length(), prof, device)
        return _told(True, describe(result), result)
    place = place_of(os.environ)
    first = place is None or place.rank == 0
    sizes = size(space, arch or space.largest())
    if first and not (place and place.ours):
        print(describe(sizes), flush=True)
    data = data_of(task)
    folder = run_folder(own.configs, own.save_dir)
    if place is None and (count := processes(ranks, device)) > 1:
        return launch("hat.cli.train", argv, count, ranks.distributed_port)
    where = rank_device(device, place, ranks)
    config = TrainConfig(model, optim, schedule, policy, task, loop)
    if unused := policy.unused(alone=arch is not None):
        say(f"not used: {', '.join(f'--{name}' for name in unused)}")
    with joined(place, where) as group:
        if own.validate_subtransformer:
            assert arch is not None
            start = find_checkpoint(own.restore_file or "checkpoint_best.pt", folder)
            found = validate(arch, space, data, start, config, device=where, group=group)
            losses = f"validation loss {found.loss:.4f} (base 2, smoothed), nll {found.nll_loss:.4f}"
            losses_json = {"valid_loss": found.loss, "valid_nll_loss": found.nll_loss}
            return _told(first, f"{losses}, {start}", sizes | losses_json)
        with Interrupt() as interrupt:
            trained = fit(
                arch or space,
                data,
                config,
                space=space,
                init=group.on_rank0(lambda: find_checkpoint(own.restore_file, folder))
                if own.restore_file
                else None,
                out=folder,
                device=where,
                seed=device.seed,
                group=group,
                interrupt=interrupt,
                progress=not out.no_progress_bar and sys.stderr.isatty(),
            )
    if trained.stopped is not None:
        say(f"stopped by signal {trained.stopped} and saved; the same command goes on from here")
        return 128 + trained.stopped
    best = "unknown" if trained.best_loss is None else f"{trained.best_loss:.3f} (base 2)"
    text = (
        f"trained {trained.updates} updates in {trained.train_s:.0f} s, best validation loss {best}; "
        f"checkpoints in {folder}"
    )
    return _told(first, text, sizes | {"training": trained.summary() | {"save_dir": str(folder)}})


def _told(first: bool, text: str, result: dict[str, Any]) -> dict[str, Any]:
    """Print what came out, once for all processes."""
    if first:
        print(text, flush=True)
    return result
