"""train.py: train or profile a SuperTransformer or a SubTransformer; hat space counts those of a space."""

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hat.cli import settings
from hat.cli.interrupt import Interrupt
from hat.cli.options import OutputOptions, only, stage, takes, without
from hat.cli.settings import GROUPS, ProfileOptions, Settings, TaskOptions, dataset_of, find_checkpoint
from hat.errors import ConfigError
from hat.log import info
from hat.model.layers import ModelConfig, count_params
from hat.run import Identity
from hat.space import ArchOptions, SpaceOptions
from hat.train.distributed import joined, launch, one_of_many, place_of
from hat.train.loop import TrainConfig, Training, fit, validate
from hat.train.trainer import OptimConfig

_FLAGS = ("--configs", "--sub-configs")
# Accepted, but not in --help: what a YAML file of the search gives, and what hardly anyone changes.
UNLISTED: dict[type, tuple[str, ...]] = {
    ArchOptions: tuple(each.name for each in fields(ArchOptions)),
    SpaceOptions: ("encoder_attention_heads", "decoder_attention_heads"),
    TaskOptions: ("arch", "required_batch_size_multiple"),
    ModelConfig: ("max_source_positions", "max_target_positions", "vocab_original_scaling"),
    OptimConfig: ("optimizer", "adam_betas", "adam_eps", "sentence_avg"),
    ProfileOptions: ("latsilent", "lat_interval", "lat_row_budget"),
}


def parsed(argv: Sequence[str] | None) -> Settings:
    """Return the settings that a command line and the YAML files it names give."""
    used = [without(group, *UNLISTED.get(group, ())) for group in GROUPS]
    text = "Train or profile a SuperTransformer, or one SubTransformer of its space."
    how: dict[str, Any] = {"prog": "train.py", "description": text, "config_flags": _FLAGS, "used": used}
    return settings.parse_settings(argv, **how)[0]  # type: ignore[no-any-return]


def run(given: Settings, argv: Sequence[str] | None) -> dict[str, Any] | int:
    """Train, validate or profile, tell the user, and return what came out; a number is an exit code."""
    options, task = given.run, given.task
    space, arch = settings.space_and_arch(given.space, given.arch)
    if arch is None and (options.train_subtransformer or options.validate_subtransformer):
        how = "give its YAML as --configs and common.yml as --sub-configs"
        raise ConfigError(f"--train-subtransformer needs an architecture: {how}")
    if given.profile.asked():
        return _profile(given, space, arch)
    place = place_of(os.environ)
    params = count_params(arch or space.largest(), space)
    if place is None or (place.first and not place.ours):
        print(f"#Params: {params / 1e6:.2f} M (layers, without embeddings and output matrix)", flush=True)
    data = dataset_of(task)
    folder = settings.run_folder(options.configs, options.save_dir)
    if place is None and (count := settings.processes(given.device)) > 1:
        return launch("hat.cli.train", argv, count, given.device.distributed_port)
    where = settings.rank_device(given.device, place)
    size: dict[str, Any] = {"params": params, "flops": None, "latency_ms": None}
    with joined(place, where) as group:
        if arch and options.validate_subtransformer:
            start = find_checkpoint(options.restore_file or "checkpoint_best.pt", folder)
            found = validate(arch, space, data, start, _config(given), device=where, group=group)
            if not group.first:
                return 0
            print(f"validation loss {found.loss:.4f} (base 2, smoothed), nll {found.nll_loss:.4f}, {start}")
            return size | {"valid_loss": found.loss, "valid_nll_loss": found.nll_loss}
        name = options.restore_file
        with Interrupt() as interrupt:
            start = group.on_rank0(lambda: find_checkpoint(name, folder)) if name else None
            how = {"space": space, "device": where, "seed": given.device.seed, "new_run": options.new_run}
            how |= {"progress": given.output.bar, "init": start, "out": folder, "group": group}
            trained = fit(arch or space, data, _config(given), interrupt=interrupt, **how)
    if trained.stopped is not None:
        info(f"stopped by signal {trained.stopped} and saved; the same command goes on from here")
        return 128 + trained.stopped
    if not group.first:
        return 0
    best = "unknown" if trained.best_loss is None else f"{trained.best_loss:.3f} (base 2)"
    text = f"trained {trained.updates} updates in {trained.train_s:.0f} s, best validation loss {best}"
    print(f"{text}; checkpoints in {folder}")
    return size | {"training": trained.summary() | {"save_dir": str(folder)}}


def identity(given: Settings) -> Identity:
    """Return the identity of the training that `run` makes of these settings; nothing is written."""
    space, arch = settings.space_and_arch(given.space, given.arch)
    place, start = place_of(os.environ), given.run.restore_file
    count = place.size if place else settings.processes(given.device)
    training = Training(arch or space, space, dataset_of(given.task), _config(given), seed=given.device.seed)
    return training.identity(find_checkpoint(start) if start else None, count)


def _config(given: Settings) -> TrainConfig:
    return TrainConfig(given.model, given.optim, given.schedule, given.policy, given.task, given.loop)


def _profile(given: Settings, space: Any, arch: Any) -> dict[str, Any]:
    from hat.cli.latency_dataset import describe, measuring  # late: training measures nothing
    from hat.latency.measure import Subject, profile

    (how, device), sizes = measuring(given), settings.profile_sizes(given.task)
    subject = Subject(space, sizes, how, given.model, device, given.device.seed)
    timed = given.profile.latcpu or given.profile.latgpu
    measured = profile(subject, arch or space.largest(), flops=given.profile.profile_flops, timed=timed)
    print(describe(measured))
    return measured


main = one_of_many(stage(parsed, run))


_JSON = only(OutputOptions, "json")


@takes("hat space", SpaceOptions, ArchOptions, _JSON, *map(only, GROUPS), config_flags=_FLAGS)
def space(sizes: SpaceOptions, arch: ArchOptions, out: OutputOptions, *others: object) -> dict[str, Any]:
    """Count the architectures of a search space, in all and by dimension."""
    found, _ = settings.space_and_arch(sizes, arch)
    params = {name: count_params(getattr(found, name)(), found) for name in ("smallest", "largest")}
    print(f"{found.size():,} architectures\n\n{'dimension':46}{'choices':>20}  different settings")
    for dim, count in found.sizes_by_dim().items():
        shown = f"{dim.side} {dim.text.partition(':')[0]}{', each layer' if dim.per_layer else ''}"
        choices = ", ".join(str(dim.encode(value)) for value in dict.fromkeys(found[dim]))
        print(f"{shown:46}{choices:>20}  {count:,}")
    shown = ", ".join(f"{name} {count:,}" for name, count in params.items())
    print(f"\n#Params of the layers, without embeddings and output matrix: {shown}")
    dims = {dim.choice_key: count for dim, count in found.sizes_by_dim().items()}
    return {"architectures": found.size(), "by_dimension": dims, "params": params}
