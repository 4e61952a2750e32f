"""train.py: train or profile a SuperTransformer or a SubTransformer."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, cast

from hat.cli.interrupt import Interrupt
from hat.cli.options import command, without
from hat.cli.settings import (
    GROUPS,
    ProfileOptions,
    Settings,
    TaskData,
    TaskOptions,
    find_checkpoint,
    parse_settings,
    processes,
    profile_sizes,
    rank_device,
    run_folder,
    space_and_arch,
)
from hat.errors import ConfigError
from hat.log import say
from hat.model.count import count_params
from hat.model.layers import ModelConfig
from hat.space import ArchOptions, SpaceOptions
from hat.train.distributed import joined, launch, one_of_many, place_of
from hat.train.loop import TrainConfig, fit, validate
from hat.train.policy import PolicyConfig
from hat.train.trainer import OptimConfig

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
    given = parsed(argv)
    done = run(given, argv)
    if isinstance(done, int):
        return done
    place = place_of(os.environ)
    if given.output.json and (place is None or place.rank == 0):
        print(json.dumps(done))
    return 0


def parsed(argv: Sequence[str] | None) -> Settings:
    """Return the settings that a command line and the YAML files it names give."""
    (given,) = parse_settings(
        argv,
        prog="train.py",
        description="Train or profile a SuperTransformer, or one SubTransformer of its space.",
        config_flags=("--configs", "--sub-configs"),
        used=[without(group, *UNLISTED.get(group, ())) for group in GROUPS],
    )
    return cast(Settings, given)


def run(given: Settings, argv: Sequence[str] | None) -> dict[str, Any] | int:
    """Train, validate or profile, tell the user, and return what came out, or an exit code."""
    options, task, out = given.run, given.task, given.output
    space, arch = space_and_arch(given.space, given.arch)
    if arch is None and (options.train_subtransformer or options.validate_subtransformer):
        raise ConfigError(
            "--train-subtransformer needs an architecture: give its YAML as --configs and common.yml as "
            "--sub-configs"
        )
    if given.profile.asked():
        from hat.cli.latency_dataset import describe, measuring  # late: training measures nothing
        from hat.latency.collect import profile

        how, device = measuring(given)
        measured = profile(
            space,
            arch or space.largest(),
            vocab_sizes=profile_sizes(task),
            config=how,
            model_config=given.model,
            flops=given.profile.profile_flops,
            device=device if given.profile.latcpu or given.profile.latgpu else None,
            seed=given.device.seed,
        )
        return _told(True, describe(measured), measured)
    place = place_of(os.environ)
    first = place is None or place.rank == 0
    size: dict[str, Any] = {
        "params": count_params(arch or space.largest(), space),
        "flops": None,
        "latency_ms": None,
    }
    if first and not (place and place.ours):
        text = "M (layers, without embeddings and output matrix)"
        print(f"#Params: {size['params'] / 1e6:.2f} {text}", flush=True)
    data = TaskData(task)
    folder = run_folder(options.configs, options.save_dir)
    if place is None and (count := processes(given.ranks, given.device)) > 1:
        return launch("hat.cli.train", argv, count, given.ranks.distributed_port)
    where = rank_device(given.device, place, given.ranks)
    config = TrainConfig(given.model, given.optim, given.schedule, given.policy, task, given.loop)
    if arch and given.policy != PolicyConfig():
        say("the options of --policy are not used: one architecture is trained")
    with joined(place, where) as group:
        if options.validate_subtransformer:
            assert arch is not None
            start = find_checkpoint(options.restore_file or "checkpoint_best.pt", folder)
            found = validate(arch, space, data, start, config, device=where, group=group)
            text = f"validation loss {found.loss:.4f} (base 2, smoothed), nll {found.nll_loss:.4f}, {start}"
            size |= {"valid_loss": found.loss, "valid_nll_loss": found.nll_loss}
            return _told(first, text, size)
        name = options.restore_file
        with Interrupt() as interrupt:
            trained = fit(
                arch or space,
                data,
                config,
                space=space,
                init=group.on_rank0(lambda: find_checkpoint(name, folder)) if name else None,
                out=folder,
                device=where,
                seed=given.device.seed,
                group=group,
                interrupt=interrupt,
                progress=not out.no_progress_bar and sys.stderr.isatty(),
            )
    if trained.stopped is not None:
        say(f"stopped by signal {trained.stopped} and saved; the same command goes on from here")
        return 128 + trained.stopped
    best = "unknown" if trained.best_loss is None else f"{trained.best_loss:.3f} (base 2)"
    text = f"trained {trained.updates} updates in {trained.train_s:.0f} s, best validation loss {best}"
    size |= {"training": trained.summary() | {"save_dir": str(folder)}}
    return _told(first, f"{text}; checkpoints in {folder}", size)


def _told(first: bool, text: str, result: dict[str, Any]) -> dict[str, Any]:
    """Print what came out, once for all processes, and return it."""
    if first:
        print(text)
    return result
