"""The options that every task configuration may hold, and what they stand for: data, device, run folder."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hat.cli.options import OutputOptions, Part, advice, only, parse
from hat.config import Options, option
from hat.data.dataset import Dataset
from hat.errors import CheckpointError, ConfigError, DataError
from hat.log import info
from hat.model.cpu import keep_pages
from hat.model.layers import ModelConfig, profile_length
from hat.runtimes import Precision, RuntimeName
from hat.space import Arch, ArchOptions, SearchSpace, SpaceOptions, arch_of, space_of
from hat.train.distributed import ProcessGroup
from hat.train.loop import BatchConfig, LoopConfig
from hat.train.trainer import OptimConfig, PolicyConfig, ScheduleConfig


@dataclass(frozen=True)
class RunOptions(Options):
    """Run"""

    configs: str | None = option(None, role="free")
    train_subtransformer: bool = option(False, "train the one architecture that is given", role="free")
    validate_subtransformer: bool = option(False, role="free")
    """print the validation loss of the given architecture with the weights of --restore-file, and stop"""
    save_dir: str | None = option(None, "folder of the run (default: checkpoints/<--configs>)", role="free")
    restore_file: str | None = option(None, "checkpoint to start from (default: of --save-dir)", role="free")
    new_run: bool = option(False, role="free")
    """if the folder holds another run, move that to FOLDER.<its identity> instead of refusing to write"""


@dataclass(frozen=True)
class TaskOptions(BatchConfig):
    """Task and data"""

    arch: str = option("transformersuper", role="free")
    """name of the model family; one that contains iwslt has a profile length of 23, others 30"""
    data: str | None = option(None, "folder with dict.*.txt and the binary data", role="free")
    source_lang: str | None = option(None, "source language (default: read off the file names)", role="free")
    target_lang: str | None = option(None, "target language (default: read off the file names)", role="free")
    vocab_size: tuple[int, ...] = option((), low=5, role="free")  # four entries are special
    """vocabulary size for profiling without data; two numbers if source and target differ"""
    profile_length: int | None = option(None, "tokens of a side when profiling (default: by --arch)", low=1)

    def sentence_length(self) -> int:
        """Return the tokens of source and target at which the task is profiled."""
        return self.profile_length or profile_length(self.arch)


@dataclass(frozen=True)
class DeviceOptions(Options):
    """Device"""

    cpu: bool = option(False, "use the CPU even if there is a GPU", role="free")
    gpu: int | None = option(None, low=0, role="free")
    """number of the one GPU to use (default: 0; training and search use all of them)"""
    threads: int | None = option(None, low=1, high=4 * (os.cpu_count() or 1), role="free")
    """CPU threads (default: all cores)"""
    seed: int = option(1, "seed of everything random", low=0, high=(1 << 63) - 1)
    distributed_world_size: int | None = option(None, low=1, high=1024, role="free")
    """processes to start on this machine, one for each GPU (default: all GPUs, or one process on CPUs);
    torchrun sets it by itself"""
    distributed_port: int | None = option(None, low=1, high=65535, role="free")
    """port the processes of this machine meet at (default: any free one)"""


@dataclass(frozen=True)
class ProfileOptions(Options):
    """Profiling"""

    latcpu: bool = option(False, "measure latency on the CPU and stop", role="free")
    latgpu: bool = option(False, "measure latency on the GPU and stop", role="free")
    profile_flops: bool = option(False, "count FLOPs and stop", role="free")
    latiter: int = option(300, "most timed repeats of a latency measurement", low=2)
    lat_interval: float = option(1.2, "end repeats once a latency is known so well, in %", low=0, high=100)
    lat_row_budget: float = option(1.0, above=0, off=math.inf)
    """seconds of a latency measurement; every architecture has three turns at least"""
    latsilent: bool = option(False, "show no progress while measuring", role="free")
    lat_beam: int = option(5, "beam of the timed search", low=1)

    def asked(self) -> bool:
        """Return whether profiling is all the user wants."""
        return self.latcpu or self.latgpu or self.profile_flops


@dataclass(frozen=True)
class EngineOptions(Options):
    """Engine that translates or is timed"""

    runtime: RuntimeName | None = option(None, role="free")
    """what computes; command: the program of --lat-command (default: torch;
    to translate with int8 the fastest engine here; in a search as the predictor)"""
    precision: Precision = option("auto", metavar="FORMAT", role="free", alias="lat_amp")
    """number format; auto: what is fast; in a search as the predictor"""
    lat_command: str | None = option(None, role="free", metavar="'PROGRAM ...'")
    """program that is given the path of a bundle and prints milliseconds, see docs/deploy.md"""


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
    profile: ProfileOptions
    engine: EngineOptions
    output: OutputOptions


GROUPS: tuple[type, ...] = tuple(Settings.__annotations__.values())


def parse_settings(
    argv: Sequence[str] | None,
    *own: type,
    prog: str,
    description: str,
    config_flags: Sequence[str],
    used: Sequence[type | Part] | None = None,
) -> tuple[Any, ...]:
    """Return the settings, and behind them the dataclasses `own`; the help lists those `used` (None: all)."""
    listed = {getattr(each, "group", each): each for each in (GROUPS if used is None else used)}
    groups = (listed.get(group, only(group)) for group in GROUPS)
    values = parse(argv, *own, *groups, prog=prog, description=description, config_flags=config_flags)
    return Settings(*values[len(own) :]), *values[: len(own)]


def _gpus(device: DeviceOptions) -> tuple[int, str]:
    count = 0 if device.cpu or not torch.cuda.is_available() else torch.cuda.device_count()
    if device.gpu is not None:
        return min(count, 1), f"--gpu {device.gpu} names one GPU"
    return count, f"this machine has {count} GPUs"


def device_of(options: DeviceOptions) -> torch.device:
    """Return the device to use, after fixing its threads and letting the allocator keep its memory."""
    keep_pages()
    if options.threads:
        torch.set_num_threads(options.threads)
    return chosen_device(options)


def chosen_device(options: DeviceOptions) -> torch.device:
    """Return the device to use."""
    count, gpu = torch.cuda.device_count() if torch.cuda.is_available() else 0, options.gpu or 0
    if gpu >= max(count, 1):
        has = f"GPUs 0 to {count - 1}" if count else "no GPU that PyTorch can use; leave it out"
        raise ConfigError(f"--gpu {gpu}: this machine has {has}")
    return torch.device("cpu") if options.cpu or not count else torch.device("cuda", gpu)


def processes(device: DeviceOptions) -> int:
    """Return how many processes to start here: as asked, else one for each GPU; ConfigError beyond that."""
    asked, (count, has) = device.distributed_world_size, _gpus(device)
    if count and asked and asked > count:
        how = f"give at most {count} (and a larger --update-freq), or start processes with torchrun"
        raise ConfigError(f"--distributed-world-size {asked}: {has}; {how}")
    return asked or count or 1


def rank_device(device: DeviceOptions, place: ProcessGroup | None) -> torch.device:
    """Return the GPU of one process, or the CPU; ConfigError if processes of a machine would share a GPU."""
    if place is None or place.size == 1:
        return device_of(device)
    count, has = _gpus(device)
    # a launcher may have left each process the sight of its own GPU only
    if device.gpu is not None or 1 < count < place.local_size:
        how = "start one for each GPU, choose GPUs with CUDA_VISIBLE_DEVICES, or use --cpu"
        raise ConfigError(f"{place.local_size} processes here, but {has}; {how}")
    return device_of(replace(device, gpu=place.local_rank % count if count else None))


def find_checkpoint(name: str, folder: Path | None = None) -> Path:
    """Return the checkpoint a user names; a bare file name may also mean one in the run's folder."""
    path = Path(name)
    if not path.exists() and folder is not None and path.parent == Path("."):
        path = folder / name
    if not path.exists():
        how = advice(path, "check the path, or train that model first")
        raise CheckpointError(f"the checkpoint {name} does not exist; {how}")
    return path


def dataset_of(options: TaskOptions) -> Dataset:
    """Open the data of a task; raises DataError, naming the commands that make the data if it is missing."""
    if not options.data or not Path(options.data).is_dir():
        how = advice(options.data, "make it with python -m hat preprocess")
        what = f"there is no data folder {options.data!r} (--data; --vocab-size profiles without one)"
        raise DataError(f"{what}; {how}")
    return Dataset.load(options.data, options.source_lang, options.target_lang)


def profile_sizes(options: TaskOptions) -> tuple[int, int]:
    """Return the vocabulary sizes to profile with: those of the data folder, or as given if there is none."""
    given, shown = options.vocab_size, " and ".join(map(str, options.vocab_size))
    if len(given) > 2:
        raise ConfigError(f"--vocab-size must be one or two numbers, got {shown}")
    if not given or (options.data and Path(options.data).is_dir()):
        return dataset_of(options).vocab_sizes
    info(f"no data at {options.data or '--data'}: profiling with a vocabulary of {shown} (vocab-size)")
    return given[0], given[-1]


def space_and_arch(space: SpaceOptions, arch: ArchOptions) -> tuple[SearchSpace, Arch | None]:
    """Return the search space and, if one is given, the architecture, checked against the space."""
    found = space_of(space, chosen := arch_of(arch))
    return found, found.check(chosen) if chosen else None


def run_folder(configs: str | None, given: str | None) -> Path:
    """Return the folder of a run: as given, or checkpoints/<path of --configs without configs/ and .yml>."""
    if given:
        return Path(given)
    if not configs:
        raise ConfigError("--save-dir is needed where no --configs names the run")
    below = re.sub(r".*(?:^|/)configs/", "", Path(configs).with_suffix("").as_posix())
    return Path("checkpoints", *[part for part in Path(below).parts if part not in ("/", "..", ".")])
