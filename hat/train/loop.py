"""A training run as a function: `fit` starts or resumes, trains, validates, saves, returns the best model.

Nothing here knows a command line: folders, signals, processes and progress bars are arguments.
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from hat.config import Options, fill, option, read_config, to_yaml_values
from hat.data.batching import EpochBatches, groups
from hat.data.pairs import PairDataset
from hat.errors import ConfigError
from hat.files.lock import FolderLock
from hat.log import RunLog, say
from hat.model.cpu import device_name, dtype_name
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer, Transformer
from hat.rng import seed_for
from hat.run import Run, record_path
from hat.space import DIMS, Arch, SearchSpace, validation_archs
from hat.train import checkpoint as ckpt
from hat.train.checkpoint import Checkpoint, check_compatible, model_of
from hat.train.distributed import ALONE, ProcessGroup
from hat.train.policy import PolicyConfig, ScheduleConfig, policy_of
from hat.train.trainer import EvalResult, OptimConfig, StepResult, Trainer, compute_dtype, evaluate

if TYPE_CHECKING:
    from hat.data.dataset import Dataset
    from hat.decode.translator import Model

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
    """batches have a multiple of this many sentences if possible"""
    train_subset: str = "train"
    """split to train on"""
    valid_subset: str = "valid"
    """split used for validation and search"""


@dataclass(frozen=True)
class LoopConfig(Options):
    """Saving, validating and logging"""

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
    """The options of a training run, by subject."""

    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    policy: PolicyConfig = PolicyConfig()  # of a SuperTransformer
    batches: BatchConfig = BatchConfig()
    loop: LoopConfig = LoopConfig()

    @classmethod
    def from_yaml(cls, path: Path | str, **values: Any) -> "TrainConfig":
        """Return the options of a YAML file, for example of configs/<task>/supertransformer.

        Args:
            path: the file; keys that do not concern training are ignored.
            values: options that win over the file, for example `max_update=500`.

        Raises ConfigError for a wrong value, or if no option has the name of one in `values`.
        """
        entries, parts = read_config(path), {}
        for part in fields(cls):
            group = type(part.default)
            own = {each.name for each in fields(group)} & values.keys()
            parts[part.name] = fill(group, entries, **{name: values.pop(name) for name in own})
        if values:
            raise ConfigError(f"training has no option {', '.join(values)}; see hat.TrainConfig")
        return cls(**parts)

    def to_yaml(self) -> dict[str, Any]:
        """Return all options by their YAML keys."""
        return to_yaml_values(*(getattr(self, name) for name in self.__dataclass_fields__))


_DEFAULTS = TrainConfig()


@dataclass
class StopRequest:
    """Asks a run to save and end: `asked` becomes the number of a signal."""

    asked: int | None = None


class _Stopped(Exception):
    """Raised to leave a validation because the run was asked to end."""


@dataclass
class Progress:
    """Where a run stands: what a resumed run needs besides weights and optimiser."""

    epoch: int = 1
    offset: int = 0  # batches of this epoch that were trained on
    best_loss: float | None = None
    stale: int = 0  # validations since the best one
    train_s: float = 0.0
    started_from: str = ""


@dataclass(frozen=True)
class FitResult:
    """What a training run reached. Losses are label-smoothed, per target token, in bits."""

    updates: int
    epochs: int  # completed ones
    best_loss: float | None  # mean validation loss of the best checkpoint; None if nothing was validated
    losses: dict[str, float]  # of the last validation, by architecture, and their mean
    train_s: float  # seconds of the updates alone
    folder: Path | None
    stopped: int | None = None  # number of the signal that ended the run early
    dataset: "Dataset | None" = field(default=None, repr=False)
    best: Checkpoint | None = field(default=None, repr=False)  # if there is no folder to read it from

    def summary(self) -> dict[str, Any]:
        """Return what run.json keeps as results."""
        return {
            "updates": self.updates,
            "epochs": self.epochs,
            "best_loss": self.best_loss,
            "last_losses": self.losses,
            "train_s": self.train_s,
        }

    @cached_property
    def model(self) -> "Model":
        """The model with the best validation loss: a SuperTransformer or a SubTransformer."""
        from hat.decode.translator import Model  # late: training translates nothing

        found, codec = self.best, getattr(self.dataset, "codec", None)
        if found is None:
            assert self.folder is not None
            best, last = (self.folder / f"checkpoint_{name}.pt" for name in ("best", "last"))
            found = ckpt.load(best if best.exists() else last, say)
        return Model(found.model(), codec, found.vocab_digests)


def fit(
    target: SearchSpace | Arch,
    dataset: "Dataset",
    config: TrainConfig = _DEFAULTS,
    *,
    space: SearchSpace | None = None,
    init: "Path | str | Model | None" = None,
    out: Path | str | None = None,
    device: torch.device | str | None = None,
    seed: int = 1,
    group: ProcessGroup = ALONE,
    interrupt: StopRequest | None = None,
    progress: bool = False,
) -> FitResult:
    """Train the SuperTransformer of a search space, or one SubTransformer, and return what it reached.

    Called again with the same `out`, it goes on from the last checkpoint there and ends with the weights of a
    run that was never interrupted: bit for bit, if the number of threads is the same.

    Args:
        target: a search space trains its SuperTransformer (HAT 2020, section 3.2), an architecture itself.
        dataset: binary data with dictionaries; `config.batches` names the splits.
        config: options by subject.
        space: the search space of an architecture; needed if `target` is one.
        init: checkpoint or model whose weights to start from; an architecture inherits its slice.
        out: folder of checkpoints, log and run.json; None keeps the best weights in memory, writes nothing.
        device: default: the first GPU, or the CPU if there is none.
        seed: of first weights, batches, dropout and sampled architectures.
        group: the processes that train together; each gets every k-th of k batches.
        interrupt: asks the run to save and end after the current update.
        progress: show a progress bar instead of lines.

    Raises CheckpointError if `init` or a checkpoint in `out` does not fit, TrainingError if the loss is not
    finite (the last checkpoint stays), and HatError if another process is training in `out`.
    """
    job = _Job(target, space, dataset, config, init, out, device, seed, group, interrupt or StopRequest())
    dtype = compute_dtype(config.optim.amp, config.optim.fp16, job.device, group)
    folder = job.folder if group.first else None  # the other processes write nothing
    with ExitStack() as stack:
        if job.folder:
            advice = "wait for it, stop it, or give another --save-dir"
            lock = partial(FolderLock, job.folder, advice)
            group.on_rank0(lambda: stack.enter_context(lock()) and None)
        job.restore(dtype)
        record = Run(
            record_path(folder, folder=True) if folder else None,
            "train",
            settings=job.settings(),
            inputs=job.inputs() if folder else {},
            device={"device": device_name(job.device), "dtype": dtype_name(dtype)},
            threads=torch.get_num_threads(),
            processes=group.size,
            gpus=group.size if job.device.type == "cuda" else 0,
        )
        return job.train(stack.enter_context(record), progress)


def validate(
    arch: Arch,
    space: SearchSpace,
    dataset: "Dataset",
    init: Path | str,
    config: TrainConfig = _DEFAULTS,
    *,
    device: torch.device | str | None = None,
    group: ProcessGroup = ALONE,
) -> EvalResult:
    """Return the validation loss of an architecture with the weights of the checkpoint `init`."""
    job = _Job(arch, space, dataset, config, init, None, device, 0, group, StopRequest())
    source = job.compatible(ckpt.load(Path(init), say), Path(init))
    optim = config.optim
    dtype = ckpt.evaluation_dtype(source, optim.amp, optim.fp16, job.device)
    model = model_of(source, Path(init), arch).to(job.device, dtype)
    return evaluate(model, job.validation(), arch, optim.label_smoothing, job.device, group)


def validation_batches(
    data: PairDataset, batches: BatchConfig, model: ModelConfig, group: ProcessGroup = ALONE
) -> EpochBatches:
    """Return the batches of a validation split that this process scores, from short to long.

    Raises DataError for a pair that is too long: leaving it out would make another loss.
    """
    most = batches.max_tokens_valid or batches.max_tokens
    fixed = {"shuffle": False, "drop_long": False, "seed": 0, "epoch": 0}
    return _epoch_batches(data, batches, model, group, max_tokens=most, **fixed)


def _epoch_batches(
    data: PairDataset, batches: BatchConfig, model: ModelConfig, group: ProcessGroup, **more: Any
) -> EpochBatches:
    return EpochBatches(
        data,
        rank=group.rank,
        world=group.size,
        multiple=batches.required_batch_size_multiple,
        max_source_positions=model.max_source_positions,
        max_target_positions=model.max_target_positions,
        **more,
    )


class _Job:
    """One training run, resolved."""

    trainer: Trainer
    progress: Progress

    def __init__(
        self,
        target: SearchSpace | Arch,
        space: SearchSpace | None,
        dataset: "Dataset",
        cfg: TrainConfig,
        init: "Path | str | Model | None",
        out: Path | str | None,
        device: torch.device | str | None,
        seed: int,
        group: ProcessGroup,
        interrupt: StopRequest,
    ) -> None:
        self.arch = target if isinstance(target, Arch) else None  # None trains the SuperTransformer
        found = target if isinstance(target, SearchSpace) else space
        if found is None:
            raise ConfigError("an architecture is trained in its search space: give space=")
        self.space = found
        if self.arch:
            self.space.check(self.arch)
        self.dataset, self.cfg, self.seed, self.group, self.interrupt = dataset, cfg, seed, group, interrupt
        self.init = Path(init) if isinstance(init, str) else init
        self.folder = Path(out) if out is not None else None
        self.device = torch.device(device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
        self.sizes = (len(dataset.vocabs[0]), len(dataset.vocabs[1]))
        self.kept: Checkpoint | None = None  # the best weights, if there is no folder for them

    def settings(self) -> dict[str, Any]:
        """Return all options by their YAML keys, as run.json and a new run of train.py take them."""
        sizes = {key: size for key, size in self.space.sizes.items() if not key.endswith("of the decoder")}
        if self.space.decoder_qkv:  # as without the key: each side has its own width
            del sizes["qkv-dim"]
        choices = {dim.choice_key: [dim.encode(value) for value in self.space[dim]] for dim in DIMS}
        arch = self.arch.to_yaml() if self.arch else {}
        data = {"data": str(self.training_pairs.folder), "seed": self.seed}
        return self.cfg.to_yaml() | data | sizes | choices | arch

    def inputs(self) -> dict[str, str]:
        """Return the SHA-256 of what is read: dictionaries, and the pairs of both splits."""
        found = dict(zip(("source dictionary", "target dictionary"), self.dataset.digests, strict=True))
        for data in (self.training_pairs, self.validation_pairs):
            sides = zip(("source", "target"), data.content(), strict=True)
            found |= {f"{data.split} {side}": digest for side, digest in sides}
        return found

    @cached_property
    def training_pairs(self) -> PairDataset:
        """The split to train on; opened once, because opening it checks all of it."""
        return self.dataset.split(self.cfg.batches.train_subset)

    @cached_property
    def validation_pairs(self) -> PairDataset:
        """The split for validation, opened once."""
        return self.dataset.split(self.cfg.batches.valid_subset)

    # --- where the run starts or goes on

    def restore(self, dtype: torch.dtype) -> None:
        """Make the trainer, at the point where the run goes on or at its start."""
        loop = self.cfg.loop
        # rank 0 reads for all: only its machine needs the folder
        source, where, started_from = self.group.on_rank0(self._source)
        self.progress = progress = Progress(started_from=started_from)
        goes_on = source is not None and source.arch == self.arch and "trainer" in source.state
        if source is None:
            noise = torch.Generator().manual_seed(seed_for(self.seed, "init"))
            model: Transformer = SuperTransformer(self.space, self.sizes, self.cfg.model, noise)
            if self.arch:
                model = ckpt.pack(model).sub(self.arch)
        elif goes_on and source.master is not None:
            model = model_of(replace(source, weights=source.master), where, self.arch)
        else:
            model = model_of(source, where, self.arch)
        self.trainer = trainer = Trainer(
            model,
            self.cfg.optim,
            self.cfg.schedule,
            dtype=dtype,
            device=self.device,
            seed=self.seed,
            group=self.group,
        )
        if source is None:
            return
        if not goes_on:
            say(f"weights inherited from {where}; optimiser, schedule and data start anew")
            return
        trainer.load_average(source.weights)
        trainer.load_state_dict(
            source.state["trainer"], optimizer=not loop.reset_optimizer, schedule=not loop.reset_lr_scheduler
        )
        saved = source.state["progress"]
        if source.state["plan"] != self._batch_plan() and not loop.reset_dataloader:
            say(
                "the batches are planned in another way than before (seed, data or batch size); starting "
                "the epoch anew"
            )
            saved = saved | {"offset": 0}
        if not loop.reset_dataloader:
            progress.epoch, progress.offset = saved["epoch"], saved["offset"]
        if not loop.reset_meters:
            progress.best_loss, progress.stale = saved["best_loss"], saved["stale"]
            progress.train_s = saved["train_s"]
        before, now = source.state.get("recipe"), self._recipe()
        if before not in (None, now):
            say(f"until now this run was trained with {before}; it goes on with {now}")
        say(f"resumed {where} at update {trainer.num_updates}, epoch {progress.epoch}")

    def compatible(self, source: Checkpoint, where: Path) -> Checkpoint:
        """Return `source` for this run; raises CheckpointError if it does not fit."""
        vocabs = self.sizes, self.dataset.digests
        return check_compatible(source, where, self.space, self.arch, self.cfg.model, *vocabs)

    def _source(self) -> tuple[Checkpoint | None, Path, str]:
        """Return the checkpoint to go on from, if any, its place, and what the run was started from."""
        last = ckpt.load_newest(self.folder, say) if self.folder and self.folder.is_dir() else None
        start = self.init
        name = str(start) if start is None or isinstance(start, Path) else "a given model"
        if last is not None and (start is None or last.state["progress"]["started_from"] == name):
            assert self.folder is not None
            source, where, started_from = last, self.folder, last.state["progress"]["started_from"]
        elif isinstance(start, Path):
            source, where, started_from = ckpt.load(start, say), start, name
        elif start is not None:
            source, where, started_from = ckpt.pack(start.network, start.digests), Path(name), name
        else:
            return None, Path(), ""
        return self.compatible(source, where), where, started_from

    def _recipe(self) -> str:
        """Return which architectures an update trains, and how their weights are averaged, in words."""
        options = ({} if self.arch else self.cfg.policy.used()) | {"ema-decay": self.cfg.optim.ema_decay}
        return ", ".join(f"--{name} {value}" for name, value in options.items())

    def _batch_plan(self) -> list[str]:
        """Return what the batches of an epoch depend on."""
        batches = self.cfg.batches
        limits = (batches.max_tokens, batches.max_sentences, batches.required_batch_size_multiple)
        return [str(self.seed), *map(str, limits), *self.dataset.digests, batches.train_subset]

    # --- the loop

    def train(self, record: Run, bar: bool) -> FitResult:
        """Train epoch after epoch until a limit, with validation and saving between them."""
        loop, optim, trainer, progress = self.cfg.loop, self.cfg.optim, self.trainer, self.progress
        train, valid = self.training_pairs, self.validation()
        folder = self.folder if self.group.first else None
        board = Path(loop.tensorboard_logdir or folder / "tensorboard") if folder else None
        log = RunLog(
            folder,
            total=optim.max_update,
            unit="updates",
            bar=bar,
            tensorboard=None if loop.no_tensorboard else board,
        )
        many = f" in {self.group.size} processes" if self.group.size > 1 else ""
        dtype = dtype_name(trainer.weights.dtype)
        say(f"computing in {dtype} on {self.device}{many}, {len(train)} training pairs")
        interval = _Interval()
        losses: dict[str, float] = {}
        finished = (  # also if a run is started again after it had ended
            trainer.num_updates >= optim.max_update
            or (optim.max_epoch is not None and progress.epoch > optim.max_epoch)
            or 0 < loop.patience <= progress.stale
        )
        stopped = self._asked_to_stop()
        while not finished and not stopped:
            batches = self._epoch(train)
            stopped = self._train_epoch(batches, interval, log, record)
            finished = (
                trainer.num_updates >= optim.max_update
                or trainer.lr() <= trainer.schedule.min_lr
                or (optim.max_epoch is not None and progress.epoch >= optim.max_epoch)
            )
            if stopped:
                break
            epoch_done = progress.offset >= len(batches)
            best = False
            if finished or progress.epoch % loop.validate_interval == 0:
                try:
                    losses = self._validate(valid, log)
                except _Stopped:  # the end of the epoch is saved; a resumed run begins with this validation
                    stopped = True
                    break
                best = progress.best_loss is None or losses["mean"] < progress.best_loss
                progress.stale = 0 if best else progress.stale + 1
                progress.best_loss = losses["mean"] if best else progress.best_loss
                finished = finished or 0 < loop.patience <= progress.stale
            epoch = progress.epoch
            if epoch_done:
                progress.epoch, progress.offset = epoch + 1, 0
            if finished or best or epoch % loop.save_interval == 0:
                names = ["checkpoint_last.pt"] + ["checkpoint_best.pt"] * best
                if finished or (epoch_done and epoch % loop.save_interval == 0):
                    names.append(f"checkpoint{epoch}.pt")
                self._save(names)
            stopped = self._asked_to_stop()
        if stopped:
            self._save(["checkpoint_last.pt"])
            record.state = "stopped"
        log.close()
        result = FitResult(
            updates=trainer.num_updates,
            epochs=progress.epoch - (progress.offset == 0),
            best_loss=progress.best_loss,
            losses=losses,
            train_s=round(progress.train_s, 1),
            folder=self.folder,
            stopped=self.interrupt.asked if stopped else None,
            dataset=self.dataset,
            best=self.kept if self.kept or self.folder else self._packed(),
        )
        record.results |= result.summary()
        return result

    def validation(self) -> EpochBatches:
        """Return the validation batches of this process."""
        return validation_batches(self.validation_pairs, self.cfg.batches, self.cfg.model, self.group)

    def _asked_to_stop(self) -> bool:
        """Return whether any process was asked to end; all then know the same signal."""
        number = self.group.all_reduce_max(self.interrupt.asked or 0)
        if number:
            self.interrupt.asked = number
        return number > 0

    def _epoch(self, train: PairDataset) -> EpochBatches:
        batches, progress = self.cfg.batches, self.progress
        found = _epoch_batches(
            train,
            batches,
            self.cfg.model,
            self.group,
            max_tokens=batches.max_tokens,
            max_sentences=batches.max_sentences,
            seed=self.seed,
            epoch=progress.epoch,
            start=progress.offset,
        )
        if found.num_skipped and progress.offset == 0 and progress.epoch == 1:
            say(f"{found.num_skipped} of {len(train)} training pairs are too long and are skipped")
        return found

    def _train_epoch(self, batches: EpochBatches, interval: "_Interval", log: RunLog, record: Run) -> bool:
        """Train on the rest of an epoch; returns whether the run was asked to end, in all processes alike."""
        loop, optim, trainer, progress = self.cfg.loop, self.cfg.optim, self.trainer, self.progress
        policy = policy_of(self.cfg.policy)
        for group in groups(batches, optim.update_freq):
            start = time.perf_counter()
            plan = self.arch or policy.plan(self.space, self.seed, trainer.num_updates)
            step = trainer.train_step(group, plan)
            seconds = time.perf_counter() - start
            progress.offset = min(progress.offset + optim.update_freq * self.group.size, len(batches))
            progress.train_s += seconds
            interval.add(step, seconds)
            record.tick()
            update = trainer.num_updates
            if update % loop.log_interval == 0:
                self._log(interval, step, log)
            rate = step.num_tokens / seconds
            shown = {"loss": f"{step.loss:.3f}", "tokens_per_s": f"{rate:.0f}"}
            log.advance(update, epoch=str(progress.epoch), **shown)
            if loop.save_interval_updates and update % loop.save_interval_updates == 0:
                self._save(["checkpoint_last.pt", f"checkpoint_{progress.epoch}_{update}.pt"])
            stopped = self._asked_to_stop()
            if stopped or update >= optim.max_update:
                return stopped
        return False

    def _log(self, interval: "_Interval", step: StepResult, log: RunLog) -> None:
        progress, update, last = self.progress, self.trainer.num_updates, self.cfg.optim.max_update
        rate, loss = interval.tokens / interval.seconds, interval.loss / interval.tokens
        left_s = interval.seconds / interval.updates * (last - update)
        log.metrics(
            "train",
            update,
            f"epoch {progress.epoch} update {update}/{last} loss {loss:.3f} lr {step.lr:.2e} "
            f"grad norm {step.grad_norm:.2f} {rate:.0f} tokens/s about {left_s / 60:.1f} min left",
            epoch=progress.epoch,
            loss_base2=round(loss, 6),
            lr=step.lr,
            grad_norm=round(step.grad_norm, 4) if math.isfinite(step.grad_norm) else None,
            tokens_per_s=round(rate, 1),
            train_s=round(progress.train_s, 1),
        )
        interval.reset()

    def _validate(self, valid: EpochBatches, log: RunLog) -> dict[str, float]:
        """Return the validation losses and their mean, which picks the best checkpoint."""
        archs = {"sub": self.arch} if self.arch else validation_archs(self.space)
        # several processes finish a validation: they leave it together or not at all
        alone = self.group.size == 1
        losses = {
            name: self.trainer.evaluate(self._until_asked(valid) if alone else valid, arch).loss
            for name, arch in archs.items()
        }
        losses["mean"] = sum(losses.values()) / len(losses)
        shown = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        epoch, update = self.progress.epoch, self.trainer.num_updates
        log.metrics(
            "valid",
            update,
            f"epoch {epoch} update {update} validation loss {shown}",
            epoch=epoch,
            **{f"{name}_loss_base2": round(loss, 6) for name, loss in losses.items()},
        )
        return losses

    def _until_asked(self, batches: Iterable[T]) -> Iterator[T]:
        for batch in batches:
            if self.interrupt.asked is not None:
                raise _Stopped
            yield batch

    def _packed(self) -> Checkpoint:
        state: dict[str, Any] = {"trainer": self.trainer.state_dict(), "progress": asdict(self.progress)}
        state |= {"plan": self._batch_plan(), "recipe": self._recipe()}
        return ckpt.pack(self.trainer.eval_model, self.dataset.digests, state, self.trainer.model)

    def _save(self, names: list[str]) -> None:
        packed = self._packed()

        def write() -> None:
            assert self.folder is not None
            # a resumed run starts from the first name, so that one is written last: after a kill in between
            # the others must not be older
            ckpt.save(packed, *(self.folder / name for name in reversed(names)))
            ckpt.rotate(self.folder, self.cfg.loop.keep_last_epochs, self.cfg.loop.keep_interval_updates)

        if self.folder is not None:
            self.group.on_rank0(write)
        elif "checkpoint_best.pt" in names:
            weights = {name: weight.clone() for name, weight in packed.weights.items()}
            self.kept = replace(packed, weights=weights, state={}, master=None)


class _Interval:
    """Sums since the last log line; seconds are those of the updates alone."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start the next interval."""
        self.updates, self.tokens, self.loss, self.seconds = 0, 0, 0.0, 0.0

    def add(self, step: StepResult, seconds: float) -> None:
        """Count one update."""
        self.updates, self.seconds = self.updates + 1, self.seconds + seconds
        self.tokens, self.loss = self.tokens + step.num_tokens, self.loss + step.loss * step.num_tokens
