"""What every command that touches a task shares: its data, its space, its device and its run folder."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from hat.cli.missing import advice, data_commands
from hat.config import to_yaml_values
from hat.data.batching import EpochBatches
from hat.data.pairs import PairDataset, languages, load_vocabs
from hat.errors import CheckpointError, ConfigError, DataError
from hat.files.atomic import write_text_atomic
from hat.log import say, versions
from hat.model.config import ModelConfig
from hat.model.count import profile_length
from hat.model.precision import Amp, choose_dtype, device_name, dtype_name
from hat.space import Arch, ArchOptions, SearchSpace, SpaceOptions, arch_of, space_around, space_of
from hat.train.checkpoint import Checkpoint
from hat.train.memory import keep_pages
from hat.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class TaskOptions:
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
    """vocabulary size for profiling without data; two numbers where source and target differ"""
    max_tokens: int = 4096
    """most tokens in a batch, padding included"""
    max_sentences: int | None = None
    """most sentences in a batch"""
    max_tokens_valid: int | None = None
    """as --max-tokens, for validation (default: the same)"""
    required_batch_size_multiple: int = 8
    """batches have a multiple of this many sentences where possible"""
    valid_subset: str = "valid"
    """split used for validation and search"""
    profile_length: int | None = None
    """tokens of source and target when profiling (default: by --arch)"""

    def __post_init__(self) -> None:
        if len(self.vocab_size) > 2 or any(size < 5 for size in self.vocab_size):
            raise ConfigError(
                "--vocab-size must be one or two numbers of at least 5 (four entries are special), got "
                f"{_words(self.vocab_size)}"
            )
        for name in ("max_tokens", "max_sentences", "max_tokens_valid", "profile_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")

    def sentence_length(self) -> int:
        """Return the tokens of source and target at which the task is profiled."""
        return self.profile_length or profile_length(self.arch)


@dataclass(frozen=True)
class DeviceOptions:
    """Device"""

    cpu: bool = False
    """use the CPU even where there is a GPU"""
    gpu: int | None = None
    """number of the one GPU to use (default: 0; training and search use all of them)"""
    threads: int | None = None
    """CPU threads (default: all cores)"""
    seed: int = 1
    """seed of everything random"""

    def __post_init__(self) -> None:
        most = 4 * (os.cpu_count() or 1)
        if self.threads is not None and not 1 <= self.threads <= most:
            raise ConfigError(f"--threads must lie between 1 and {most} on this machine, got {self.threads}")
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"--seed must lie between 0 and 2^63 - 1, got {self.seed}")
        if self.gpu is not None and self.gpu < 0:
            raise ConfigError(f"--gpu must not be negative, got {self.gpu}")


@dataclass(frozen=True)
class Vocabulary:
    """Sizes of both dictionaries and their SHA-256 digests ("" where only a size was given)."""

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


def dtype_of(amp: Amp, fp16: bool, device: torch.device) -> torch.dtype:
    """Return the compute type of `--amp`, or of the release's `fp16` key, which a CPU replaces."""
    wanted: Amp = "fp16" if fp16 and amp == "auto" else amp
    dtype = choose_dtype(wanted, device)
    if wanted == "fp16" and device.type == "cpu":
        say(f"fp16 is not fast on CPUs; computing in {dtype_name(dtype)} instead")
    return dtype


def vocabulary(options: TaskOptions, *, profiling: bool = False) -> Vocabulary:
    """Return the vocabulary of the data folder, or for profiling the given size where there is no data.

    Raises DataError where there is neither, naming what makes the data.
    """
    if options.data and Path(options.data).is_dir():
        folder = Path(options.data)
        found = (options.source_lang, options.target_lang)
        with _naming_what_makes(options.data):
            source, target = found if all(found) else languages(folder)  # type: ignore[assignment]
            vocabs = load_vocabs(folder, source, target)
        digests = [
            hashlib.sha256((folder / f"dict.{lang}.txt").read_bytes()).hexdigest()
            for lang in (source, target)
        ]
        sizes = (len(vocabs[0]), len(vocabs[1]))
        if profiling and options.vocab_size and set(options.vocab_size) != set(sizes):
            given = _words(options.vocab_size)
            say(f"--vocab-size {given} is not used: the dictionaries have {_words(sizes)} entries")
        return Vocabulary(sizes, (digests[0], digests[1]))
    if not profiling:
        raise DataError(missing_data(options))
    if not options.vocab_size:
        raise DataError(f"{missing_data(options)}, or give --vocab-size to profile without data")
    source_size, target_size = options.vocab_size[0], options.vocab_size[-1]
    given = _words(options.vocab_size)
    say(f"no data at {options.data or '--data'}: profiling with a vocabulary of {given} (vocab-size)")
    return Vocabulary((source_size, target_size), ("", ""))


def check_dictionaries(source: Checkpoint, vocab: Vocabulary, where: Path) -> None:
    """Raise CheckpointError where a checkpoint was trained with other dictionaries."""
    if source.vocab_sizes != vocab.sizes:
        raise CheckpointError(
            f"{where} has vocabularies of {source.vocab_sizes}, the data of {vocab.sizes}; "
            "use the data it was trained with (--data)"
        )
    if all(source.vocab_digests) and all(vocab.digests) and source.vocab_digests != vocab.digests:
        raise CheckpointError(f"{where} was trained with other dictionaries of the same size; check --data")


def missing_data(options: TaskOptions) -> str:
    """Return what to tell a user whose data is not there."""
    how = advice(data_commands(options.data), "make it with scripts/preprocess.py")
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
        commands = data_commands(data)
        raise DataError(f"{error}; {advice(commands, '')}" if commands else str(error)) from error


def validation_batches(
    data: PairDataset, options: TaskOptions, model: ModelConfig, ranks: Ranks = ALONE
) -> EpochBatches:
    """Return this rank's batches of a validation split, from short to long.

    A pair that is too long is a DataError.
    """
    return EpochBatches(
        data,
        max_tokens=options.max_tokens_valid or options.max_tokens,
        seed=0,
        epoch=0,
        rank=ranks.rank,
        world=ranks.size,
        shuffle=False,
        drop_long=False,
        multiple=options.required_batch_size_multiple,
        max_source_positions=model.max_source_positions,
        max_target_positions=model.max_target_positions,
    )


def space_and_arch(space: SpaceOptions, arch: ArchOptions) -> tuple[SearchSpace, Arch | None]:
    """Return the search space and, where one is given, the architecture, checked against the space."""
    chosen = arch_of(arch)
    if chosen is None:
        return space_of(space), None
    found = space_around(space, chosen)
    return found, found.check(chosen)


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


def write_provenance(folder: Path, device: torch.device, *options: object, stem: str = "") -> None:
    """Write the resolved configuration and the versions it ran with beside a run's output."""
    prefix = f"{stem}." if stem else ""
    values = to_yaml_values(*options)
    write_text_atomic(folder / f"{prefix}config.yml", yaml.safe_dump(values, sort_keys=False, width=100))
    facts = versions() | {"device": device_name(device), "threads": str(torch.get_num_threads())}
    facts["cores"] = str(os.cpu_count())
    write_text_atomic(folder / f"{prefix}version.json", json.dumps(facts, indent=1) + "\n")
