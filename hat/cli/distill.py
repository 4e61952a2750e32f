"""hat distill: a teacher translates the training text; students train on what it says."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hat.cli import settings as shared
from hat.cli.options import OutputOptions, only, stage, without
from hat.config import Options, option, to_yaml_values
from hat.decode.beam import BeamConfig
from hat.decode.distill import distill
from hat.errors import ConfigError, DataError
from hat.log import info
from hat.model.cpu import device_name
from hat.model.inference import InferenceModel
from hat.run import Identity, Run, claim, record_path
from hat.space import ArchOptions, arch_of
from hat.train.checkpoint import check_dictionaries, evaluation_dtype, load
from hat.train.distributed import joined, launch, one_of_many, place_of
from hat.train.trainer import OptimConfig


@dataclass(frozen=True)
class DistillOptions(Options):
    """Distillation"""

    teacher: str | None = option(None, role="free")
    """checkpoint or bundle; of a SuperTransformer, the architecture of a YAML file or else the largest"""
    output: str | None = option(None, "folder of data to write", role="free")
    nbest: int = option(1, "translations of each sentence to train on, at most --beam", low=1)
    batch_size: int = option(128, "most sentences translated at once", low=1, role="free")


def parsed(argv: Sequence[str] | None) -> tuple[Any, ...]:
    """Return the settings, the options of the distillation, and those of beam search."""
    used = (
        only(shared.TaskOptions, "data", "source_lang", "target_lang", "train_subset"),
        only(shared.RunOptions, "new_run"),
        without(shared.DeviceOptions, "seed"),
        *(only(OptimConfig, "amp"), ArchOptions, OutputOptions),
    )
    title = "Make training data of a teacher's translations."
    flags = {"prog": "hat distill", "description": title, "config_flags": ("--configs", "--sub-configs")}
    options = shared.parse_settings(argv, DistillOptions, BeamConfig, used=used, **flags)
    _, own, beam = options
    if not own.teacher or not own.output:
        raise ConfigError("--teacher and --output are needed: who translates, and the folder to write")
    if own.nbest > beam.beam:
        raise ConfigError(f"--nbest {own.nbest}: --beam {beam.beam} finds fewer; widen the beam or lower it")
    return options


def run(options: tuple[Any, ...], argv: Sequence[str] | None = None) -> dict[str, Any] | int:
    """Translate, tell the user, and return what came out; a number is an exit code."""
    settings, own, beam = options
    path, out, place = shared.find_checkpoint(own.teacher), Path(own.output), place_of(os.environ)
    dataset = shared.dataset_of(settings.task)
    if any(out.glob("*.idx")) and not record_path(out, folder=True).exists():
        raise DataError(f"{out} holds data that hat distill did not make; give another --output")
    if place is None and (count := shared.processes(settings.device)) > 1:
        return launch("hat.cli.distill", argv, count, settings.device.distributed_port)
    device, source = shared.rank_device(settings.device, place), load(path, info)
    check_dictionaries(source, dataset, path)
    dtype = evaluation_dtype(source, settings.optim.amp, device)
    arch = arch_of(settings.arch) or source.arch or source.space.largest()
    model = InferenceModel(source.sub(arch).to(device, dtype))
    with joined(place, device) as group, ExitStack() as stack:
        wanted, advice = identity(options), "wait for it, stop it, or give another --output"
        group.on_rank0(lambda: stack.enter_context(claim(out, wanted, advice, new_run=settings.run.new_run)))
        how: dict[str, Any] = {"device": {"device": device_name(device), "dtype": str(dtype)}}
        how["settings"] = to_yaml_values(own, beam, settings.arch) | {"data": settings.task.data}
        how |= {"threads": torch.get_num_threads(), "processes": group.size}
        how |= {"gpus": group.size * (device.type == "cuda"), "identity": wanted}
        file = record_path(out, folder=True) if group.first else None
        record = stack.enter_context(Run(file, "distillation", **how))
        how = {"nbest": own.nbest, "batch_size": own.batch_size, "group": group}
        how["show_bar"] = group.first and settings.output.bar
        found = distill(model, dataset.split(settings.task.train_subset), out, beam, **how)
        record.results |= found
    if not group.first:
        return 0
    print(f"{out}: {found['pairs']} pairs of {found['sentences']} sentences, {found['tokens']} tokens")
    return found | {"output": str(out)}


def identity(options: tuple[Any, ...]) -> Identity:
    """Return what the translations depend on."""
    settings, own, beam = options
    dataset, arch = shared.dataset_of(settings.task), arch_of(settings.arch)
    teacher = shared.find_checkpoint(own.teacher)
    inputs: dict[str, Any] = {"checkpoint": teacher / "config.json" if teacher.is_dir() else teacher}
    ids = dataset.split(settings.task.train_subset).content()
    for lang, dictionary, content in zip(dataset.languages, dataset.digests, ids, strict=True):
        inputs |= {f"dict.{lang}": dictionary, f"train.{lang}": content}
    return Identity.of("distillation", own, beam, settings=arch.to_yaml() if arch else {}, inputs=inputs)


main = one_of_many(stage(parsed, run))
