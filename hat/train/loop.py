"""A training run as a function: `fit` restores or starts, trains epochs, validates, saves, and returns the best model.

Nothing here knows a command line: folders, signals, processes and progress bars are arguments.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from hat.arch.config import Arch
from hat.arch.space import SearchSpace, validation_archs
from hat.config import Options, option
from hat.data.batching import EpochBatches, groups
from hat.data.pairs import PairDataset
from hat.errors import ConfigError
from hat.files.cost import Cost
from hat.files.lock import FolderLock
from hat.log import RunLog, say
from hat.model.config import ModelConfig
from hat.model.extract import extract
from hat.model.precision import dtype_name
from hat.model.transformer import SuperTransformer, Transformer
from hat.rng import seed_for
from hat.train import checkpoint as ckpt
from hat.train.checkpoint import Checkpoint
from hat.train.distributed import ALONE, ProcessGroup
from hat.train.policy import PolicyConfig, ScheduleConfig, policy_of
from hat.train.trainer import EvalResult, OptimConfig, StepResult, Trainer, compute_dtype, evaluate

T = TypeVar("T")


@dataclass(frozen=True)
class BatchConfig(Options):
    """Batches"""

    max_tokens: int = option(4096, low=1)
    """most tokens in a batch, padding included"""
    max_sentences: int | None = option(None, low=1)
    """most sentences in a batch"""
    max_tokens_valid: int | None = option(None, low=1)
    """as --max-tokens, for validation (default: the same)"""
    required_batch_size_multiple: int = option(8, low=1)
    """batches have a multiple of this many sentences where possible"""
    train_subset: str = "train"
    """split to train on"""
    valid_subset: str = "valid"
    """split used for validation and search"""


@dataclass(frozen=True)
class RunConfig(Options):
    """Run"""

    reset_optimizer: bool = False
    """do not take the optimiser's moments from the checkpoint"""
    reset_lr_scheduler: bool = False
    """start the learning-rate schedule, and with it the update count, anew"""
    reset_dataloader: bool = False
    """start at the first epoch"""
    reset_meters: bool = False
    """forget the best validation loss"""
    save_interval: int = option(1, low=1)
    """epochs between checkpoints"""
    save_interval_updates: int = option(0, low=0)
    """updates between checkpoints within an epoch; 0 for none"""
    keep_last_epochs: int = option(-1, low=0, off=-1)
    """epoch checkpoints to keep; -1 for all"""
    keep_interval_updates: int = option(-1, low=0, off=-1)
    """checkpoints within epochs to keep; -1 for all"""
    validate_interval: int = option(1, low=1)
    """epochs between validations"""
    patience: int = option(-1, low=1, off=-1)
    """stop after this many validations without a better loss; -1 never"""
    log_interval: int = option(100, low=1)
    """updates between log lines"""
    tensorboard_logdir: str | None = None
    """folder for TensorBoard (default: tensorboard/ in --save-dir)"""
    no_tensorboard: bool = False
    """write no TensorBoard files"""


@dataclass(frozen=True)
class TrainConfig:
    """The options of a training run, by subject; `policy` counts for a SuperTransformer only."""

    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    policy: PolicyConfig = PolicyConfig()
    batches: BatchConfig = BatchConfig()
    run: RunConfig = RunConfig()

    def recipe(self, *, alone: bool) -> dict[str, object]:
        """Return which architectures an update trains and how weights are averaged, by YAML keys."""
        return ({} if alone else self.policy.used()) | {"ema-decay": self.optim.ema_decay}


class Interrupt(Protocol):
    """Asks a run to save and end: `asked` becomes the number of a signal."""

    asked: int | None


@dataclass
class _NeverAsked:
    asked: int | None = None


class _Stopped(Exception):
    """Raised to give up a validation because the run was asked to end."""


@dataclass
class Progress:
    """Where a run stands: what a resumed run needs besides weights and optimiser."""

    epoch: int = 1
    offset: int = 0  # batches of this epoch that were already trained on
    best_loss: float | None = None
    stale: int = 0  # validations since the best one
    train_s: float = 0.0
    started_from: str = ""


@dataclass(frozen=True)
class FitResult:
    """What a training run reached. Losses are label-smoothed, of base 2 and per target token."""

    updates: int
    epochs: int
    best_loss: float | None  # mean validation loss of the best checkpoint, None if nothing was validated
    losses: dict[str, float]  # of the last validation: by architecture, and their mean
    train_s: float  # seconds of the updates alone
    stopped: int | None  # number of the signal that ended the run early
    folder: Path | None
    _best: Checkpoint | None = field(default=None, repr=False)

    @cached_property
    def model(self) -> Transformer:
        """The network with the best validation loss: a SuperTransformer or a SubTransformer."""
        if self._best is not None:
            return self._best.model()
        assert self.folder is not None
        best = self.folder / "checkpoint_best.pt"
        return ckpt.load(best if best.exists() else self.folder / "checkpoint_last.pt", say).model()


def fit(
    target: SearchSpace | Arch,
    dataset: "Dataset",
    config: TrainConfig = TrainConfig(),
    *,
    space: SearchSpace | None = None,
    init: Path | str | None = None,
    out: Path | str | None = None,
    device: torch.device | str | None = None,
    seed: int = 1,
    group: ProcessGroup = ALONE,
    interrupt: Interrupt | None = None,
    progress: bool = False,
) -> FitResult:
    """Train the SuperTransformer of a search space, or one of its SubTransformers, and return the best model.

    Called again with the same `out`, it goes on from the last checkpoint there, and ends with the weights that an
    uninterrupted run has (bit for bit with the same number of threads).

    Args:
        target: a search space trains its SuperTransformer (HAT 2020, section 3.2), an architecture itself.
        dataset: binary data with dictionaries; `config.batches` names the splits.
        config: options by subject.
        space: the search space of an architecture; needed if `target` is an Arch.
        init: checkpoint whose weights to start from; an architecture inherits its slice.
        out: folder of checkpoints, log and record; None keeps the best weights in memory and writes nothing.
        device: default: the GPU if there is one.
        seed: of weights, batches, dropout and sampled architectures.
        group: the processes that train together; each gets every k-th batch.
        interrupt: asks the run to save and end after the current update.
        progress: show a progress bar instead of lines.

    Raises CheckpointError if `init` or a checkpoint in `out` does not fit, TrainingError if the loss is not finite
    (the last checkpoint stays), DataError for damaged data, HatError if another process is writing to `out`.
    """
    run = _Run(target, dataset, config, space, init, out, device, seed, group, interrupt, progress)
    if run.folder is None:
        return run.train(Cost(None, threads=0))
    with group.on_rank0_inside(lambda: FolderLock(run.folder, "wait for it, stop it, or give another folder")):
        return run.train()


