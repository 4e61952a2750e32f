"""A training run as a function: `fit` starts or resumes, trains, validates, saves, returns the best model."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from hat.config import Options, fill, option, read_config, to_yaml_values
from hat.data.pairs import ORIGINAL, Batch, EpochBatches, PairDataset, groups, mixed
from hat.errors import ConfigError
from hat.log import RunLog, info
from hat.model.cpu import device_name, dtype_name
from hat.model.layers import ModelConfig
from hat.model.transformer import SubTransformer, SuperTransformer, Transformer, implant
from hat.rng import seed_for
from hat.run import Identity, Run, claim, read_record, record_path
from hat.space import Arch, SearchSpace, validation_archs
from hat.train import checkpoint as ckpt
from hat.train.checkpoint import Checkpoint, check_compatible
from hat.train.distributed import ALONE, ProcessGroup
from hat.train.trainer import Losses, OptimConfig, PolicyConfig, ScheduleConfig, Trainer, amp_dtype, evaluate

if TYPE_CHECKING:
    from hat.data.dataset import Dataset
    from hat.decode.translator import Model


@dataclass(frozen=True)
class BatchConfig(Options):
    """Batches"""

    max_tokens: int = option(4096, "most tokens in a batch, padding included", low=1)
    max_sentences: int | None = option(None, "most sentences in a batch", low=1)
    max_tokens_valid: int | None = option(None, "--max-tokens when validating", low=1, role="free")
    required_batch_size_multiple: int = option(8, "sentences of a batch: a multiple of it if possible", low=1)
    train_subset: str = option("train", "split to train on", role="free")
    valid_subset: str = option("valid", "split used for validation and search", role="free")
    distill_mix: float = option(0.0, "after hat distill: share of pairs with the old target", low=0, high=1)


@dataclass(frozen=True)
class LoopConfig(Options):
    """Saving, validating and logging"""

    reset_optimizer: bool = option(False, "start from --restore-file without its optimiser's moments")
    reset_lr_scheduler: bool = option(False, "start at update 0 of the learning-rate schedule")
    reset_dataloader: bool = option(False, "start at the first epoch")
    save_interval: int = option(1, "epochs between checkpoints", low=1, role="free")
    save_interval_updates: int = option(0, "updates between checkpoints too; 0 for none", low=0, role="free")
    keep_last_epochs: int = option(-1, "epoch checkpoints to keep; -1 for all", low=0, off=-1, role="free")
    keep_interval_updates: int = option(-1, "checkpoints within epochs to keep", low=0, off=-1, role="free")
    validate_interval: int = option(1, "epochs between validations", low=1, role="free")
    patience: int = option(-1, "validations without progress that end it", low=1, off=-1, role="lengthens")
    log_interval: int = option(100, "updates between log lines", low=1, role="free")
    tensorboard_logdir: str | None = option(None, "folder (default: tensorboard/ in --save-dir)", role="free")
    no_tensorboard: bool = option(False, "write no TensorBoard files", role="free")


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
        """Return the options of a YAML file, for example of configs/<task>/supertransformer; other keys are
        ignored, and `values`, such as `max_update=500`, win. Raises ConfigError for a wrong value or name.
        """
        entries, parts = read_config(path), dict[str, Any]()
        for part in fields(cls):
            group: Any = type(part.default)
            own = {each.name for each in fields(group)} & values.keys()
            parts[part.name] = fill(group, entries, **{name: values.pop(name) for name in own})
        if values:
            raise ConfigError(f"training has no option {', '.join(values)}; see hat.TrainConfig")
        return cls(**parts)

    def to_yaml(self) -> dict[str, Any]:
        """Return all options by their YAML keys."""
        return to_yaml_values(*(getattr(self, part.name) for part in fields(self)))


_DEFAULTS = TrainConfig()


class _Stopped(Exception):
    """Leaves a run that was asked to end; its argument is the number of the signal."""


@dataclass
class Progress:
    """Where a run stands: what a resumed run needs besides weights and optimiser."""

    epoch: int = 1
    offset: int = 0  # batches of this epoch that were trained on
    best_loss: float | None = None
    stale: int = 0  # validations since the best one
    train_s: float = 0.0
    saved: list[str] = field(default_factory=list)  # checkpoints of epochs and within them, the newest last


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
        numbers = {name: getattr(self, name) for name in ("updates", "epochs", "best_loss", "train_s")}
        return numbers | {"last_losses": self.losses}

    @cached_property
    def model(self) -> "Model":
        """The model with the best validation loss: a SuperTransformer or a SubTransformer."""
        from hat.decode.translator import Model  # late: training translates nothing

        if (found := self.best) is None:
            best, last = (cast(Path, self.folder) / f"checkpoint_{name}.pt" for name in ("best", "last"))
            found = ckpt.load(best if best.exists() else last, info)
        return Model(found.model(), getattr(self.dataset, "codec", None), found.vocab_digests)


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
    interrupt: Any = None,
    progress: bool = False,
    new_run: bool = False,
) -> FitResult:
    """Train the SuperTransformer of a search space, or one SubTransformer, and return what it reached. Called
    again with the same `out`, it goes on from the last checkpoint there and ends with the weights of a run
    that was never interrupted: bit for bit, if the number of threads is the same.

    Args:
        target: a search space trains its SuperTransformer (HAT 2020, section 3.2), an architecture itself.
        dataset: binary data with dictionaries; `config.batches` names the splits.
        config: options by subject.
        space: the search space of an architecture; needed if `target` is one.
        init: checkpoint or model whose weights to start from; an architecture inherits its slice.
        out: folder of checkpoints, log and run.json, and of the bundle of a SubTransformer once it ends; None
            keeps the best weights in memory, writes nothing.
        device: default: the first GPU, or the CPU if there is none.
        seed: of first weights, batches, dropout and sampled architectures.
        group: the processes that train together; each gets every k-th of k batches.
        interrupt: its attribute `asked`, once it is the number of a signal, asks the run to save and end.
        progress: show a progress bar instead of lines.
        new_run: move another run that is in `out` to `<out>.<its identity>`, instead of refusing it.

    Raises CheckpointError if `init` or a checkpoint in `out` does not fit, TrainingError if the loss is not
    finite (the last checkpoint stays), and HatError if `out` holds a run of another identity (see
    `hat.run.Identity`), or another process is training in it.
    """
    loop, stopped, folder = config.loop, None, None if out is None else Path(out)
    run = Training(target, space, dataset, config, folder, device, seed, group)
    run.asked = lambda: (interrupt and interrupt.asked) or 0
    with ExitStack() as stack:
        # rank 0 reads for all: only its machine needs the folder
        run.restore(*group.on_rank0(lambda: run.start(stack, init, new_run)))
        began, at = run.trainer.num_updates, run.at
        record = run.opened(stack, progress)
        finished = run.finished(at.epoch - 1)  # also if a run is started again after it had ended
        try:
            while not finished:
                run.leave_if_asked()
                epoch, names = at.epoch, []
                epoch_done = run.train_epoch(record)
                finished = run.finished(epoch)
                if finished or epoch % loop.validate_interval == 0:
                    names += ["checkpoint_best.pt"] * run.validate()
                    finished = run.finished(epoch)
                if epoch_done:
                    at.epoch, at.offset = epoch + 1, 0
                if finished or epoch % loop.save_interval == 0:
                    names.append(f"checkpoint{epoch}.pt")
                if names:
                    run.save("checkpoint_last.pt", *names)
        except _Stopped as signal:
            stopped, record.state = signal.args[0], "stopped"
            run.save("checkpoint_last.pt")
        if not (folder or run.best):
            run.save("checkpoint_best.pt")
        reached = (updates := run.trainer.num_updates, at.epoch - (at.offset == 0), at.best_loss, run.losses)
        result = FitResult(*reached, round(at.train_s, 1), folder, stopped, dataset, run.best)
        record.results |= result.summary()
        if run.arch and run.written and stopped is None:
            ckpt.leave_bundle(run.written / "checkpoint_best.pt", anew=updates > began)
    return result


def validate(
    arch: Arch,
    space: SearchSpace,
    dataset: "Dataset",
    init: Path | str,
    config: TrainConfig = _DEFAULTS,
    *,
    device: torch.device | str | None = None,
    group: ProcessGroup = ALONE,
) -> Losses:
    """Return the validation loss of an architecture with the weights of the checkpoint `init`."""
    path, where, optim, batches = Path(init), best_device(device), config.optim, config.batches
    valid = validation_batches(dataset.split(batches.valid_subset), batches, config.model, group)
    source = check_compatible(ckpt.load(path, info), path, space, arch, config.model, dataset)
    model = source.sub(arch).to(where, ckpt.evaluation_dtype(source, optim.amp, where))
    return evaluate(model, valid, arch, optim.label_smoothing, group)


def validation_batches(
    data: PairDataset, batches: BatchConfig, model: ModelConfig, group: ProcessGroup = ALONE
) -> EpochBatches:
    """Return the validation batches of this process; raises DataError for a pair that is too long."""
    most = batches.max_tokens_valid or batches.max_tokens
    how = {name: getattr(model, name) for name in ("max_source_positions", "max_target_positions")}
    how |= {"rank": group.rank, "world": group.size, "multiple": batches.required_batch_size_multiple}
    return EpochBatches(data, most, 0, 0, shuffle=False, drop_long=False, **how)


def best_device(given: torch.device | str | None) -> torch.device:
    """Return the device that is given, or the first GPU, or the CPU if there is none."""
    return torch.device(given or ("cuda:0" if torch.cuda.is_available() else "cpu"))


@dataclass
class Training:
    """The state of one run, and the steps that `fit`, which has the same arguments, takes with it."""

    target: SearchSpace | Arch
    space: SearchSpace | None
    dataset: "Dataset"
    cfg: TrainConfig
    folder: Path | None = None
    device: torch.device | str | None = "cpu"
    seed: int = 1
    group: ProcessGroup = ALONE

    def __post_init__(self) -> None:
        self.arch = self.target if isinstance(self.target, Arch) else None  # None trains the SuperTransformer
        self.space = self.space if self.arch else self.target
        if self.space is None:
            raise ConfigError("an architecture is trained in its search space: give space=")
        if self.arch:
            self.space.check(self.arch)
        batches, self.at, self.device = self.cfg.batches, Progress(), best_device(self.device)
        pairs = self.dataset.split(batches.valid_subset)
        self.valid = validation_batches(pairs, batches, self.cfg.model, self.group)
        self.pairs = self.dataset.split(batches.train_subset)
        mixed(self.pairs, batches.distill_mix, self.seed, 0)  # raises what is wrong
        self.written = self.folder if self.group.first else None  # the other processes write nothing
        self.best: Checkpoint | None = None  # the best weights, if there is no folder for them
        self.losses: dict[str, float] = {}  # of the last validation
        self.recent: list[tuple[Losses, float]] = []  # updates since the last log line, and seconds

    def identity(self, init: "Path | Model | str | None", processes: int) -> Identity:
        """Return what the result depends on; `init` may be a SHA-256. Processes share tokens of an update."""
        cfg, optim, cosine = self.cfg, self.cfg.optim, self.cfg.schedule.lr_scheduler == "cosine"
        batches = BatchConfig(**{each.name: getattr(cfg.batches, each.name) for each in fields(BatchConfig)})
        settings: dict[str, Any] = {"update-freq": None}
        for key, most in (("max-tokens", batches.max_tokens), ("max-sentences", batches.max_sentences)):
            whole = most and most * optim.update_freq * processes
            settings |= {key: None, f"{key}*update-freq*processes": whole}
        settings |= {"max-update": optim.max_update} if cosine else {"max-lr": None}
        settings |= {"seed": self.seed, **self.space.sizes}
        settings |= self.arch.to_yaml() if self.arch else self.space.choices | cfg.policy.used()
        inputs: dict[str, Path | str] = {} if init is None else {"checkpoint": ckpt.content_of(init)}
        if batches.distill_mix:
            inputs["original targets"] = self.dataset.split(ORIGINAL).target.bin
        for number, side in enumerate(("source", "target")):
            lang = getattr(self.pairs, f"{side}_lang")
            inputs[f"train.{lang}"] = getattr(self.pairs, side).bin
            inputs[f"valid.{lang}"] = getattr(self.valid.data, side).bin
            inputs[f"dict.{lang}"] = self.dataset.digests[number]
        options = cfg.model, optim, cfg.schedule, batches, cfg.loop
        return Identity.of("train", *options, settings=settings, inputs=inputs)

    def start(self, stack: ExitStack, init: Any, new_run: bool) -> tuple[Checkpoint | None, Path, Any]:
        """Claim the folder; return the checkpoint to go on or start from, its place, the run's identity."""
        folder, source, identity = self.folder, None, None
        init = Path(init) if isinstance(init, str) else init
        if folder:
            inside = isinstance(init, Path) and init.resolve().parent == folder.resolve()
            if inside and not new_run and init.name == "checkpoint_last.pt":
                # the run itself, which started from what it started from
                init = read_record(folder, folder=True, note=info).identity.inputs.get("checkpoint")
            identity = self.identity(init, self.group.size)
            advice = "wait for it, stop it, or give another --save-dir"
            moved = stack.enter_context(claim(folder, identity, advice, new_run=new_run))
            if moved and inside:
                init = moved / Path(init).name
            source = ckpt.load_newest(folder, info, identity.digest)
        where = folder if folder and source else init if isinstance(init, Path) else Path("a given model")
        if source is None and isinstance(init, Path):
            source = ckpt.load(init, info)
        elif source is None and init is not None:
            source = ckpt.pack(init.network, init.digests)
        if source:
            source = check_compatible(source, where, self.space, self.arch, self.cfg.model, self.dataset)
        return source, where, identity

    def restore(self, source: Checkpoint | None, where: Path, made_from: Identity | None) -> None:
        """Make the trainer, at the point where the run goes on or at its start."""
        self.made_from, cfg, optim = made_from, self.cfg, self.cfg.optim
        goes_on = source is not None and source.arch == self.arch and "trainer" in source.state
        if source is None or (source.arch and self.arch is None):
            noise = torch.Generator().manual_seed(seed_for(self.seed, "init"))
            model: Transformer = SuperTransformer(self.space, self.dataset.vocab_sizes, cfg.model, noise)
            if source:
                implant(model, cast("SubTransformer", source.model()))
            model = ckpt.pack(model).sub(self.arch)
        else:
            weights = source.master if goes_on and source.master is not None else source.weights
            model = replace(source, weights=weights).sub(self.arch)
        dtype = amp_dtype(optim.amp, self.device, self.group)
        how = {"dtype": dtype, "device": self.device, "seed": self.seed, "group": self.group}
        self.trainer = trainer = Trainer(model, optim, cfg.schedule, **how)
        if source is None:
            return
        if not goes_on:
            info(f"weights inherited from {where}; optimiser, schedule and data start anew")
            return
        at, own, loop = self.at, where == self.folder, cfg.loop
        state, kept = dict(source.state["trainer"]), dict(source.state["progress"])
        if not own:  # a run that goes on takes all of its own
            state |= {"optimizer": trainer.state_dict()["optimizer"]} if loop.reset_optimizer else {}
            state |= {"num_updates": 0} if loop.reset_lr_scheduler else {}
            kept |= {"epoch": 1, "offset": 0} if loop.reset_dataloader else {}
        trainer.load_state_dict(state, source.weights)
        at.epoch, at.offset, at.train_s = kept["epoch"], kept["offset"], kept["train_s"]
        if source.state["plan"] != self._batch_plan():
            at.offset = 0
            info("the batches are not those of before; the epoch starts anew")
        if own:
            at.best_loss, at.stale, at.saved = kept["best_loss"], kept["stale"], kept["saved"]
        info(f"resumed {where} at update {trainer.num_updates}, epoch {at.epoch}")
        if trainer.num_updates > optim.max_update:
            info(f"that is beyond --max-update {optim.max_update}; nothing is left to do")

    def _batch_plan(self) -> list[str]:
        of = self.cfg.batches
        limits = self.seed, of.max_tokens, of.max_sentences, of.required_batch_size_multiple
        mix = [f"{of.distill_mix}"] if of.distill_mix else []
        return [*map(str, limits), *self.dataset.digests, of.train_subset, *mix]

    def opened(self, stack: ExitStack, bar: bool) -> Run:
        """Return the record of the run, and open its log, until `stack` ends; say what computes what."""
        sizes = {key: size for key, size in self.space.sizes.items() if not key.endswith("of the decoder")}
        if self.space.decoder_qkv:  # as without the key: each side has its own width
            del sizes["qkv-dim"]
        pairs, many, folder, loop = self.pairs, self.group.size, self.written, self.cfg.loop
        settings = {**self.cfg.to_yaml(), "data": str(pairs.folder), "seed": self.seed, **sizes}
        settings |= {"source-lang": pairs.source_lang, "target-lang": pairs.target_lang}
        settings |= {**self.space.choices, **(self.arch.to_yaml() if self.arch else {})}
        told: dict[str, Any] = {"identity": self.made_from, "processes": many, "settings": settings}
        told |= {"threads": torch.get_num_threads(), "gpus": many if self.device.type == "cuda" else 0}
        dtype = dtype_name(self.trainer.dtype)
        told["device"] = {"device": device_name(self.device), "dtype": dtype}
        record = stack.enter_context(Run(folder and record_path(folder, folder=True), "train", **told))
        shared = f" in {many} processes" if many > 1 else ""
        info(f"computing in {dtype} on {self.device}{shared}, {len(pairs)} training pairs")
        board = folder and not loop.no_tensorboard and Path(loop.tensorboard_logdir or folder / "tensorboard")
        how: dict[str, Any] = {"total": self.cfg.optim.max_update, "unit": "updates", "bar": bar}
        self.log = RunLog(folder, tensorboard=board or None, **how)
        stack.callback(self.log.close)
        return record

    def finished(self, epochs: int) -> bool:
        """Return whether a limit is reached, once so many epochs are done."""
        optim, trainer = self.cfg.optim, self.trainer
        done = trainer.num_updates >= optim.max_update or epochs >= (optim.max_epoch or math.inf)
        done = done or 0 < self.cfg.loop.patience <= self.at.stale
        return done or trainer.lr() <= self.cfg.schedule.min_lr

    def leave_if_asked(self) -> None:
        """Raise _Stopped in all processes if any was asked to end."""
        if number := max(self.group.gather_objects(self.asked())):
            raise _Stopped(number)

    def train_epoch(self, record: Run) -> bool:
        """Train on the rest of the epoch; returns whether it is done, or the last update came before."""
        cfg, optim, loop, trainer, at = self.cfg, self.cfg.optim, self.cfg.loop, self.trainer, self.at
        pairs = mixed(self.pairs, cfg.batches.distill_mix, self.seed, at.epoch)
        sizes = {name: getattr(cfg.batches, name) for name in ("max_tokens", "max_sentences")}
        of_epoch = {"seed": self.seed, "epoch": at.epoch, "start": at.offset, "shuffle": True}
        batches = replace(self.valid, data=pairs, drop_long=True, **sizes, **of_epoch)
        if batches.num_skipped and (at.epoch, at.offset) == (1, 0):
            count = f"{batches.num_skipped} of {len(self.pairs)}"
            info(f"{count} training pairs are too long and are skipped")
        for group in groups(batches, optim.update_freq):
            start = time.perf_counter()
            plan = self.arch or cfg.policy.plan(self.space, self.seed, trainer.num_updates)
            step = trainer.train_step(group, plan)
            seconds, update = time.perf_counter() - start, trainer.num_updates
            at.offset = min(at.offset + optim.update_freq * self.group.size, len(batches))
            at.train_s += seconds
            self.recent.append((step, seconds))
            record.tick()
            if update % loop.log_interval == 0:
                self._log_updates()
            shown = {"loss": f"{step.loss:.3f}", "tokens_per_s": f"{step.num_tokens / seconds:.0f}"}
            self.log.advance(update, epoch=str(at.epoch), **shown)
            if loop.save_interval_updates and update % loop.save_interval_updates == 0:
                self.save("checkpoint_last.pt", f"checkpoint_{at.epoch}_{update}.pt")
            self.leave_if_asked()
            if update >= optim.max_update:
                break
        return at.offset >= len(batches)

    def _log_updates(self) -> None:
        epoch, update, last = self.at.epoch, self.trainer.num_updates, self.cfg.optim.max_update
        steps, seconds = [step for step, _ in self.recent], sum(seconds for _, seconds in self.recent)
        step, tokens = steps[-1], sum(each.num_tokens for each in steps)
        loss = sum(each.loss * each.num_tokens for each in steps) / tokens
        rate, left_s = tokens / seconds, seconds / len(steps) * (last - update)
        line = f"epoch {epoch} update {update}/{last} loss {loss:.3f} lr {step.lr:.2e} grad norm "
        line += f"{step.grad_norm:.2f} {rate:.0f} tokens/s about {left_s / 60:.1f} min left"
        values = {"loss_base2": round(loss, 6), "lr": step.lr, "tokens_per_s": round(rate, 1)}
        values |= {"grad_norm": round(step.grad_norm, 4), "train_s": round(self.at.train_s, 1)}
        self.log.metrics("train", update, line, epoch=epoch, **values)
        self.recent.clear()

    def validate(self) -> bool:
        """Note the validation losses; return whether their mean is the best so far."""

        def until_asked() -> Iterator[Batch | None]:
            for batch in self.valid:
                if self.group.size == 1:  # a resumed run begins with it; several processes finish it
                    self.leave_if_asked()
                yield batch

        archs, at = {"sub": self.arch} if self.arch else validation_archs(self.space), self.at
        losses = {name: self.trainer.evaluate(until_asked(), arch).loss for name, arch in archs.items()}
        losses["mean"] = mean = sum(losses.values()) / len(losses)
        update, self.losses = self.trainer.num_updates, losses
        shown = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        values = {f"{name}_loss_base2": round(loss, 6) for name, loss in losses.items()}
        line = f"epoch {at.epoch} update {update} validation loss {shown}"
        self.log.metrics("valid", update, line, epoch=at.epoch, **values)
        best = at.best_loss is None or mean < at.best_loss
        at.stale, at.best_loss = (0, mean) if best else (at.stale + 1, at.best_loss)
        return best

    def save(self, *names: str) -> None:
        """Save the run under each of these names, `checkpoint_last.pt` being the first."""
        numbered = [name for name in names if not name.endswith(("_last.pt", "_best.pt"))]
        self.at.saved = [name for name in self.at.saved if name not in numbered] + numbered
        state: dict[str, Any] = {"trainer": self.trainer.state_dict(), "progress": asdict(self.at)}
        state |= {"run": self.made_from.digest if self.made_from else "", "plan": self._batch_plan()}
        packed = ckpt.pack(self.trainer.eval_model, self.dataset.digests, state, self.trainer.model)
        folder, loop = self.folder, self.cfg.loop

        def write(folder: Path) -> None:
            # a resumed run starts from the first name, so that one is written last: after a kill in between
            # the others must not be older
            ckpt.save(packed, *(folder / name for name in reversed(names)))
            ckpt.rotate(folder, self.at.saved, loop.keep_last_epochs, loop.keep_interval_updates)

        if folder is not None:
            self.group.on_rank0(partial(write, folder))
        elif "checkpoint_best.pt" in names:
            weights = {name: weight.clone() for name, weight in packed.weights.items()}
            self.best = replace(packed, weights=weights, state={}, master=None)
