"""What every command that touches a task shares: its data, its space, its device and its run folder."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hat.config import Options, option
from hat.data.pairs import PairDataset, languages, load_vocabs
from hat.data.vocab import Vocab
from hat.errors import CheckpointError, ConfigError, DataError
from hat.log import say
from hat.model.count import profile_length
from hat.model.cpu import keep_pages
from hat.space import Arch, ArchOptions, SearchSpace, SpaceOptions, arch_of, space_of
from hat.train.distributed import Place
from hat.train.loop import BatchConfig


@dataclass(frozen=True)
class RunOptions:
    """Run"""

    configs: str | None = None
    train_subtransformer: bool = False
    """train the one architecture that is given"""
    validate_subtransformer: bool = False
    """print the validation loss of the given architecture with the weights of --restore-file, and stop"""
    save_dir: str | None = None
    """folder of checkpoints and logs (default: checkpoints/<path of --configs>)"""
    restore_file: str | None = None
    """checkpoint to start from (default: the newest one in --save-dir, if any)"""


@dataclass(frozen=True)
class TaskOptions(BatchConfig):
    """Task and data"""

    arch: str = "transformersuper"
    """name of the model family; one that contains iwslt has a profile length of 23, others 30"""
    data: str | None = None
    """folder with dict.*.txt and the binary data"""
    source_lang: str | None = None
    """source language (default: read off the file names)"""
    target_lang: str | None = None
    """target language (default: read off the file names)"""
    vocab_size: tuple[int, ...] = ()
    """vocabulary size for profiling without data; two numbers if source and target differ"""
    profile_length: int | None = option(None, low=1)
    """tokens of source and target when profiling (default: by --arch)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.vocab_size) > 2 or any(size < 5 for size in self.vocab_size):
            raise ConfigError(
                "--vocab-size must be one or two numbers of at least 5 (four entries are special), got "
                f"{_words(self.vocab_size)}"
            )

    def sentence_length(self) -> int:
        """Return the tokens of source and target at which the task is profiled."""
        return self.profile_length or profile_length(self.arch)


@dataclass(frozen=True)
class DeviceOptions(Options):
    """Device"""

    cpu: bool = False
    """use the CPU even if there is a GPU"""
    gpu: int | None = option(None, low=0)
    """number of the one GPU to use (default: 0; training and search use all of them)"""
    threads: int | None = None
    """CPU threads (default: all cores)"""
    seed: int = option(1, low=0, high=(1 << 63) - 1)
    """seed of everything random"""

    def __post_init__(self) -> None:
        super().__post_init__()
        most = 4 * (os.cpu_count() or 1)
        if self.threads is not None and not 1 <= self.threads <= most:
            raise ConfigError(f"--threads must lie between 1 and {most} on this machine, got {self.threads}")


@dataclass(frozen=True)
class RankOptions(Options):
    """Many devices"""

    distributed_world_size: int | None = option(None, low=1, high=1024)
    """processes to start on this machine, one for each GPU (default: all GPUs, or one process on CPUs);
    torchrun sets it by itself"""
    distributed_port: int | None = option(None, low=1, high=65535)
    """port the processes of this machine meet at (default: any free one)"""


@dataclass(frozen=True)
class Vocabulary:
    """Sizes of both dictionaries and their SHA-256 digests ("" if only a size was given)."""

    sizes: tuple[int, int]
    digests: tuple[str, str]


def device_of(options: DeviceOptions) -> torch.device:
    """Return the device to use, after fixing its threads and letting the allocator keep its memory."""
    keep_pages()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.gpu and not torch.cuda.is_available():
        raise ConfigError(f"--gpu {options.gpu}: this machine has no GPU that PyTorch can use; leave it out")
    if options.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    gpu = options.gpu or 0
    if gpu >= torch.cuda.device_count():
        raise ConfigError(f"--gpu {gpu}: this machine has GPUs 0 to {torch.cuda.device_count() - 1}")
    return torch.device("cuda", gpu)


def processes(options: RankOptions, device: DeviceOptions) -> int:
    """Return how many processes to start on this machine.

    One for each GPU where nothing else is asked for. Raises ConfigError where there are not so many GPUs.
    """
    asked = options.distributed_world_size
    if not torch.distributed.is_available():  # some builds for small boards
        if asked is not None and asked > 1:
            raise ConfigError(
                f"--distributed-world-size {asked}: this build of PyTorch has no torch.distributed; leave it "
                "out, or install another build"
            )
        return 1
    if device.cpu or not torch.cuda.is_available():
        return asked or 1
    if device.gpu is not None:
        if asked is not None and asked > 1:
            raise ConfigError(
                f"--gpu {device.gpu} names one GPU, --distributed-world-size {asked} asks for more; give one "
                "of the two, or choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        return 1
    count = torch.cuda.device_count()
    if asked is not None and asked > count:
        raise ConfigError(
            f"--distributed-world-size {asked}: this machine has {count} GPUs; give at most {count} (and a "
            "larger --update-freq), or start processes on several machines with torchrun"
        )
    return asked or count


def rank_device(device: DeviceOptions, place: Place | None, options: RankOptions) -> torch.device:
    """Return the device of one process: the GPU of its number on this machine, or the CPU.

    Raises ConfigError where processes of one machine would share a GPU.
    """
    if place is None or place.size == 1:
        return device_of(device)
    if device.gpu is not None:
        raise ConfigError(
            f"--gpu {device.gpu} names one GPU for {place.size} processes; leave it out, or choose GPUs with "
            "CUDA_VISIBLE_DEVICES"
        )
    if options.distributed_world_size not in (None, place.size):
        say(f"--distributed-world-size {options.distributed_world_size}: the launcher started {place.size}")
    count = 0 if device.cpu or not torch.cuda.is_available() else torch.cuda.device_count()
    if count > 1 and place.local_size > count:
        raise ConfigError(
            f"{place.local_size} processes on a machine with {count} GPUs; start at most {count} there, or "
            "use --cpu"
        )
    # a launcher may have left each process the sight of its own GPU only
    return device_of(replace(device, gpu=place.local_rank % count if count else None))


def find_checkpoint(name: str, folder: Path | None = None) -> Path:
    """Return the checkpoint a user names; a bare file name may also mean one in the run's folder."""
    path = Path(name)
    if not path.exists() and folder is not None and path.parent == Path("."):
        path = folder / name
    if not path.exists():
        from hat.cli.missing import advice, checkpoint_commands  # late: for an error only

        how = advice(checkpoint_commands(path), "check the path, or train that model first")
        raise CheckpointError(f"the checkpoint {name} does not exist; {how}")
    return path


@dataclass(frozen=True)
class TaskData:
    """The data set of a task: its dictionaries, their SHA-256, and its splits."""

    options: TaskOptions
    vocabs: tuple[Vocab, Vocab]
    digests: tuple[str, str]

    def split(self, name: str) -> PairDataset:
        """Open one split."""
        return dataset(self.options, name)


def data_of(options: TaskOptions) -> TaskData:
    """Return the data set of the task; raises DataError, naming what makes it, if it is missing."""
    if not options.data or not Path(options.data).is_dir():
        raise DataError(missing_data(options))
    folder = Path(options.data)
    found = (options.source_lang, options.target_lang)
    with _naming_what_makes(options.data):
        source, target = found if all(found) else languages(folder)  # type: ignore[assignment]
        vocabs = load_vocabs(folder, source, target)
    digests = [
        hashlib.sha256((folder / f"dict.{lang}.txt").read_bytes()).hexdigest() for lang in (source, target)
    ]
    return TaskData(options, vocabs, (digests[0], digests[1]))


def vocabulary(options: TaskOptions, *, profiling: bool = False) -> Vocabulary:
    """Return the vocabulary of the data folder, or for profiling the given size where there is no data.

    Raises DataError where there is neither, naming what makes the data.
    """
    if options.data and Path(options.data).is_dir():
        data = data_of(options)
        sizes = (len(data.vocabs[0]), len(data.vocabs[1]))
        if profiling and options.vocab_size and set(options.vocab_size) != set(sizes):
            given = _words(options.vocab_size)
            say(f"--vocab-size {given} is not used: the dictionaries have {_words(sizes)} entries")
        return Vocabulary(sizes, data.digests)
    if not profiling:
        raise DataError(missing_data(options))
    if not options.vocab_size:
        raise DataError(f"{missing_data(options)}, or give --vocab-size to profile without data")
    source_size, target_size = options.vocab_size[0], options.vocab_size[-1]
    given = _words(options.vocab_size)
    say(f"no data at {options.data or '--data'}: profiling with a vocabulary of {given} (vocab-size)")
    return Vocabulary((source_size, target_size), ("", ""))


def missing_data(options: TaskOptions) -> str:
    """Return what to tell a user whose data is not there."""
    from hat.cli.missing import advice, data_commands  # late: for an error only

    how = advice(data_commands(options.data), "make it with python -m hat preprocess")
    return f"there is no data folder {options.data!r} (--data); {how}"


def _words(numbers: tuple[int, ...]) -> str:
    return " and ".join(map(str, numbers))


def dataset(options: TaskOptions, split: str) -> PairDataset:
    """Open one split of the task's data."""
    if not options.data or not Path(options.data).is_dir():
        raise DataError(missing_data(options))
    with _naming_what_makes(options.data):
        return PairDataset.load(options.data, split, options.source_lang, options.target_lang)


@contextlib.contextmanager
def _naming_what_makes(data: str) -> Iterator[None]:
    """Add the commands that make the folder `data`, where configs/ knows them, to a DataError about it."""
    try:
        yield
    except DataError as error:
        from hat.cli.missing import advice, data_commands  # late: for an error only

        commands = data_commands(data)
        raise DataError(f"{error}; {advice(commands, '')}" if commands else str(error)) from error


def space_and_arch(space: SpaceOptions, arch: ArchOptions) -> tuple[SearchSpace, Arch | None]:
    """Return the search space and, where one is given, the architecture, checked against the space."""
    chosen = arch_of(arch)
    found = space_of(space, chosen)
    return found, found.check(chosen) if chosen else None


def run_folder(configs: str | None, given: str | None) -> Path:
    """Return the folder of a run: as given, or checkpoints/<path of --configs without configs/ and .yml>."""
    if given:
        return Path(given)
    if not configs:
        raise ConfigError("--save-dir is needed where no --configs names the run")
    path = Path(configs).with_suffix("")
    parts = path.parts
    if "configs" in parts:
        parts = parts[len(parts) - parts[::-1].index("configs") :]
    return Path("checkpoints", *[part for part in parts if part not in ("/", "..", ".")])
