"""train.py: train or profile a SuperTransformer or a SubTransformer."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hat.arch.config import Arch
from hat.arch.sampler import draw_arch
from hat.arch.space import SearchSpace, validation_archs
from hat.cli.interrupt import Interrupt, Stopped
from hat.cli.options import OutputOptions, command
from hat.cli.profile import describe, profile, size
from hat.cli.restore import adapt, find_checkpoint, model_of
from hat.cli.settings import RunOptions, parse_settings
from hat.cli.task import (
    TaskOptions,
    Vocabulary,
    dataset,
    device_of,
    dtype_of,
    run_folder,
    space_and_arch,
    validation_batches,
    vocabulary,
    write_provenance,
)
from hat.data.batching import EpochBatches, groups
from hat.data.pairs import PairDataset
from hat.errors import ConfigError
from hat.files.lock import FolderLock
from hat.log import RunLog, say
from hat.model.config import ModelConfig
from hat.model.extract import extract
from hat.model.precision import dtype_name
from hat.model.transformer import SuperTransformer, Transformer
from hat.rng import seed_for
from hat.train import checkpoint as ckpt
from hat.train.progress import Interval, Progress
from hat.train.schedule import ScheduleConfig
from hat.train.trainer import OptimConfig, StepResult, Trainer, evaluate


@dataclass(frozen=True)
class Job:
    """One training run, resolved."""

    run: RunOptions
    task: TaskOptions
    model: ModelConfig
    optim: OptimConfig
    space: SearchSpace
    arch: Arch | None  # None trains the SuperTransformer
    vocab: Vocabulary
    folder: Path
    device: torch.device
    seed: int


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train, validate or profile; see --help."""
    (settings,) = parse_settings(
        argv,
        prog="train.py",
        description="Train or profile a SuperTransformer, or one SubTransformer of its space.",
        config_flags=("--configs", "--sub-configs"),
    )
    run, task, space_options, arch_options, model, optim, schedule, dev, prof, out = settings
    space, arch = space_and_arch(space_options, arch_options)
    if arch is None and (run.train_subtransformer or run.validate_subtransformer):
        raise ConfigError(
            "--train-subtransformer needs an architecture: give its YAML as --configs and common.yml as "
            "--sub-configs"
        )
    device = device_of(dev)
    shown = arch or space.largest()
    if prof.asked():
        vocab = vocabulary(task, profiling=True)
        result = profile(space, shown, model, vocab.sizes, task.sentence_length(), prof, dev)
        print(describe(result))
        return _finish(out, result)
    result = size(space, shown)
    print(describe(result), flush=True)
    vocab = vocabulary(task)
    folder = run_folder(run.configs, run.save_dir)
    job = Job(run, task, model, optim, space, arch, vocab, folder, device, dev.seed)
    if run.validate_subtransformer:
        return _finish(out, result | _validate_sub(job, dtype_of(optim.amp, optim.fp16, device)))
    alone = FolderLock(folder, "wait for it, stop it, or give another --save-dir")
    with alone, Interrupt() as interrupt:
        trainer, progress = _restore(job, schedule, dtype_of(optim.amp, optim.fp16, device))
        write_provenance(folder, device, *settings)
        summary = _train(
            job, trainer, progress, interrupt, bar=not out.no_progress_bar and sys.stderr.isatty()
        )
    if interrupt.asked is not None:
        say(f"stopped by signal {interrupt.asked} and saved; the same command goes on from here")
        return interrupt.exit_code
    best = "unknown" if summary["best_loss"] is None else f"{summary['best_loss']:.3f} (base 2)"
    print(
        f"trained {summary['updates']} updates in {summary['train_s']:.0f} s, best validation loss {best}; "
        f"checkpoints in {folder}"
    )
    return _finish(out, result | {"training": summary})


def _finish(out: OutputOptions, result: dict[str, Any]) -> int:
    if out.json:
        print(json.dumps(result))
    return 0


def _restore(job: Job, schedule: ScheduleConfig, dtype: torch.dtype) -> tuple[Trainer, Progress]:
    """Return a trainer at the point where the run continues, or at its start."""
    run = job.run
    last = ckpt.load_newest(job.folder, say) if job.folder.is_dir() else None
    start = find_checkpoint(run.restore_file, job.folder) if run.restore_file else None
    progress = Progress(started_from=str(start or ""))
    if last is not None and (start is None or last.state["progress"]["started_from"] == str(start)):
        source, where = last, job.folder
        progress.started_from = last.state["progress"]["started_from"]
    elif start is not None:
        source, where = ckpt.load(start, say), start
    else:
        source, where = None, job.folder
    if source is None:
        noise = torch.Generator().manual_seed(seed_for(job.seed, "init"))
        model: Transformer = SuperTransformer(job.space, job.vocab.sizes, job.model, noise)
        if job.arch:
            model = extract(model, job.arch)
    else:
        model = model_of(adapt(source, where, job.space, job.model, job.vocab), where, job.arch)
    trainer = Trainer(model, job.optim, schedule, dtype=dtype, device=job.device, seed=job.seed)
    if source is not None and source.arch == job.arch and "trainer" in source.state:
        trainer.load_state_dict(
            source.state["trainer"], optimizer=not run.reset_optimizer, schedule=not run.reset_lr_scheduler
        )
        saved = source.state["progress"]
        if source.state["plan"] != _plan(job) and not run.reset_dataloader:
            say(
                "the batches are planned in another way than before (seed, data or batch size); starting "
                "the epoch anew"
            )
            saved = saved | {"offset": 0}
        if not run.reset_dataloader:
            progress.epoch, progress.offset = saved["epoch"], saved["offset"]
        if not run.reset_meters:
            progress.best_loss, progress.stale = saved["best_loss"], saved["stale"]
            progress.train_s = saved["train_s"]
        say(f"resumed {where} at update {trainer.num_updates}, epoch {progress.epoch}")
    elif source is not None:
        say(f"weights inherited from {where}; optimiser, schedule and data start anew")
    return trainer, progress


def _train(
    job: Job, trainer: Trainer, progress: Progress, interrupt: Interrupt, *, bar: bool
) -> dict[str, Any]:
    """Run epochs until a limit, validating and saving between them; returns the summary of the run."""
    run, optim = job.run, job.optim
    train = dataset(job.task, run.train_subset)
    valid = validation_batches(dataset(job.task, job.task.valid_subset), job.task, job.model)
    board = None if run.no_tensorboard else Path(run.tensorboard_logdir or job.folder / "tensorboard")
    log = RunLog(job.folder, total=optim.max_update, unit="updates", bar=bar, tensorboard=board)
    say(f"computing in {dtype_name(trainer.weights.dtype)} on {job.device}, {len(train)} training pairs")
    interval = Interval()
    losses: dict[str, float] = {}
    finished = (  # also for a run that is started again after it had ended
        trainer.num_updates >= optim.max_update
        or (optim.max_epoch is not None and progress.epoch > optim.max_epoch)
        or 0 < run.patience <= progress.stale
    )
    while not finished and interrupt.asked is None:
        batches = _epoch(job, train, progress, first=progress.offset == 0 and progress.epoch == 1)
        _train_epoch(job, trainer, progress, batches, interval, log, interrupt)
        finished = (
            trainer.num_updates >= optim.max_update
            or trainer.lr() <= trainer.schedule.min_lr
            or (optim.max_epoch is not None and progress.epoch >= optim.max_epoch)
        )
        if interrupt.asked is not None:
            break
        epoch_done = progress.offset >= len(batches)
        best = False
        if finished or progress.epoch % run.validate_interval == 0:
            try:
                losses = _validate(job, trainer, valid, progress, log, interrupt)
            except Stopped:  # the epoch's end is saved; a resumed run begins with this validation
                break
            best = losses["mean"] < (progress.best_loss if progress.best_loss is not None else float("inf"))
            progress.stale = 0 if best else progress.stale + 1
            progress.best_loss = losses["mean"] if best else progress.best_loss
            finished = finished or 0 < run.patience <= progress.stale
        epoch = progress.epoch
        if epoch_done:
            progress.epoch, progress.offset = epoch + 1, 0
        if finished or best or epoch % run.save_interval == 0:
            names = ["checkpoint_last.pt"] + ["checkpoint_best.pt"] * best
            if finished or (epoch_done and epoch % run.save_interval == 0):
                names.append(f"checkpoint{epoch}.pt")
            _save(job, trainer, progress, names)
    if interrupt.asked is not None:
        _save(job, trainer, progress, ["checkpoint_last.pt"])
    log.close()
    return {
        "updates": trainer.num_updates,
        "epochs": progress.epoch - (progress.offset == 0),
        "best_loss": progress.best_loss,
        "last_losses": losses,
        "train_s": round(progress.train_s, 1),
        "save_dir": str(job.folder),
    }


def _plan(job: Job) -> list[str]:
    """Return what the batches of an epoch depend on."""
    task = job.task
    limits = (task.max_tokens, task.max_sentences, task.required_batch_size_multiple)
    return [str(job.seed), *map(str, limits), *job.vocab.digests, job.run.train_subset]


def _epoch(job: Job, train: PairDataset, progress: Progress, *, first: bool) -> EpochBatches:
    batches = EpochBatches(
        train,
        max_tokens=job.task.max_tokens,
        max_sentences=job.task.max_sentences,
        seed=job.seed,
        epoch=progress.epoch,
        start=progress.offset,
        multiple=job.task.required_batch_size_multiple,
        max_source_positions=job.model.max_source_positions,
        max_target_positions=job.model.max_target_positions,
    )
    if first and batches.num_skipped:
        say(f"{batches.num_skipped} of {len(train)} training pairs are too long and are skipped")
    return batches


def _train_epoch(
    job: Job,
    trainer: Trainer,
    progress: Progress,
    batches: EpochBatches,
    interval: Interval,
    log: RunLog,
    interrupt: Interrupt,
) -> None:
    """Train on one epoch, or the rest of it; leaves early at the last update or when interrupted."""
    run, optim = job.run, job.optim
    for group in groups(batches, optim.update_freq):
        start = time.perf_counter()
        arch = job.arch or draw_arch(job.space, job.seed, trainer.num_updates)
        step = trainer.train_step(group, arch)
        seconds = time.perf_counter() - start
        progress.offset += len(group)
        progress.train_s += seconds
        interval.add(step, seconds)
        update = trainer.num_updates
        if update % run.log_interval == 0:
            _log_interval(job, progress, interval, step, update, log)
        rate = step.num_tokens / seconds
        log.advance(update, epoch=str(progress.epoch), loss=f"{step.loss:.3f}", tokens_per_s=f"{rate:.0f}")
        if run.save_interval_updates and update % run.save_interval_updates == 0:
            _save(job, trainer, progress, ["checkpoint_last.pt", f"checkpoint_{progress.epoch}_{update}.pt"])
        if update >= optim.max_update or interrupt.asked is not None:
            return


def _log_interval(
    job: Job, progress: Progress, interval: Interval, step: StepResult, update: int, log: RunLog
) -> None:
    rate, loss = interval.tokens / interval.seconds, interval.loss / interval.tokens
    left_s = interval.seconds / interval.updates * (job.optim.max_update - update)
    log.metrics(
        "train",
        update,
        f"epoch {progress.epoch} update {update}/{job.optim.max_update} loss {loss:.3f} lr {step.lr:.2e} "
        f"grad norm {step.grad_norm:.2f} {rate:.0f} tokens/s about {left_s / 60:.1f} min left",
        epoch=progress.epoch,
        loss_base2=round(loss, 4),
        lr=step.lr,
        grad_norm=round(step.grad_norm, 4),
        tokens_per_s=round(rate, 1),
        train_s=round(progress.train_s, 1),
    )
    interval.reset()


def _validate(
    job: Job,
    trainer: Trainer,
    valid: EpochBatches,
    progress: Progress,
    log: RunLog,
    interrupt: Interrupt,
) -> dict[str, float]:
    """Return the validation losses and their mean, which picks the best checkpoint."""
    archs = {"sub": job.arch} if job.arch else validation_archs(job.space)
    losses = {
        name: trainer.evaluate(interrupt.until(valid), arch).loss  # type: ignore[arg-type]
        for name, arch in archs.items()
    }
    losses["mean"] = sum(losses.values()) / len(losses)
    shown = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
    update = trainer.num_updates
    log.metrics(
        "valid",
        update,
        f"epoch {progress.epoch} update {update} validation loss {shown}",
        epoch=progress.epoch,
        **{f"{name}_loss_base2": round(loss, 4) for name, loss in losses.items()},
    )
    return losses


def _save(job: Job, trainer: Trainer, progress: Progress, names: list[str]) -> None:
    state = {"trainer": trainer.state_dict(), "progress": dict(vars(progress)), "plan": _plan(job)}
    packed = ckpt.pack(trainer.model, job.vocab.digests, state)
    # the one a resumed run starts from goes last: a kill in between must not leave the others behind it
    ckpt.save(packed, *(job.folder / name for name in reversed(names)))
    ckpt.rotate(job.folder, job.run.keep_last_epochs, job.run.keep_interval_updates)


def _validate_sub(job: Job, dtype: torch.dtype) -> dict[str, Any]:
    start = find_checkpoint(job.run.restore_file or "checkpoint_best.pt", job.folder)
    source = adapt(ckpt.load(start, say), start, job.space, job.model, job.vocab)
    assert job.arch is not None
    model = model_of(source, start, job.arch).to(job.device, dtype)
    valid = validation_batches(dataset(job.task, job.task.valid_subset), job.task, job.model)
    result = evaluate(model, valid, job.arch, job.optim.label_smoothing, job.device)
    print(f"validation loss {result.loss:.4f} (base 2, smoothed), nll {result.nll_loss:.4f}, {start}")
    return {"valid_loss": result.loss, "valid_nll_loss": result.nll_loss}
