"""train.py: train or profile a SuperTransformer or a SubTransformer."""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from hat.cli.interrupt import Interrupt, Stopped
from hat.cli.launch import agreed, launch, one_of_many, processes, rank_device
from hat.cli.options import OutputOptions, command
from hat.cli.profile import describe, profile, size
from hat.cli.restore import adapt, evaluation_dtype, find_checkpoint, model_of
from hat.cli.resume import Job, plan_of, recipe_of, restore
from hat.cli.settings import parse_settings
from hat.cli.task import (
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
from hat.files.cost import Cost
from hat.files.lock import FolderLock
from hat.log import RunLog, say
from hat.model.precision import dtype_name
from hat.space import validation_archs
from hat.train import checkpoint as ckpt
from hat.train.policy import policy_of
from hat.train.progress import Interval, Progress
from hat.train.ranks import joined, place_of
from hat.train.trainer import StepResult, Trainer, evaluate


@one_of_many
@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train, validate or profile; see --help."""
    (settings,) = parse_settings(
        argv,
        prog="train.py",
        description="Train or profile a SuperTransformer, or one SubTransformer of its space.",
        config_flags=("--configs", "--sub-configs"),
    )
    run, task, space_options, arch_options, model, optim, schedule, policy, dev, many, prof, out = settings
    space, arch = space_and_arch(space_options, arch_options)
    if arch is None and (run.train_subtransformer or run.validate_subtransformer):
        raise ConfigError(
            "--train-subtransformer needs an architecture: give its YAML as --configs and common.yml as "
            "--sub-configs"
        )
    shown = arch or space.largest()
    if prof.asked():
        device_of(dev)  # fixes the threads
        vocab = vocabulary(task, profiling=True)
        result = profile(space, shown, model, vocab.sizes, task.sentence_length(), prof, dev)
        print(describe(result))
        return _finish(out, result)
    place = place_of(os.environ)
    first = place is None or place.rank == 0
    result = size(space, shown)
    if first and not (place and place.ours):
        print(describe(result), flush=True)
    vocab = vocabulary(task)
    folder = run_folder(run.configs, run.save_dir)
    if place is None and (count := processes(many, dev)) > 1:
        return launch("hat.cli.train", argv, count, many.distributed_port)
    device = rank_device(dev, place, many)
    dtype = dtype_of(optim.amp, optim.fp16, device)
    if unused := policy.unused(alone=arch is not None):
        say(f"not used: {', '.join(unused)}")
    interrupt = Interrupt()
    with joined(place, device) as ranks, ExitStack() as stack:
        job = Job(run, task, model, optim, policy, space, arch, vocab, folder, device, dev.seed, ranks)
        if run.validate_subtransformer:
            result |= _validate_sub(job)
        else:

            def lock() -> None:
                stack.enter_context(FolderLock(folder, "wait for it, stop it, or give another --save-dir"))

            ranks.on_first(lock)
            trainer, progress = restore(job, schedule, agreed(dtype, ranks))
            ranks.on_first(lambda: write_provenance(folder, device, *settings))
            bar = not out.no_progress_bar and sys.stderr.isatty()
            with interrupt, _cost(job) as cost:
                result["training"] = _train(job, trainer, progress, interrupt, cost, bar=bar)
    if interrupt.asked is not None:
        say(f"stopped by signal {interrupt.asked} and saved; the same command goes on from here")
        return interrupt.exit_code
    return _finish(out, result) if first else 0


def _finish(out: OutputOptions, result: dict[str, Any]) -> int:
    if "training" in result:
        summary = result["training"]
        best = "unknown" if summary["best_loss"] is None else f"{summary['best_loss']:.3f} (base 2)"
        print(
            f"trained {summary['updates']} updates in {summary['train_s']:.0f} s, best validation loss "
            f"{best}; checkpoints in {summary['save_dir']}"
        )
    if out.json:
        print(json.dumps(result))
    return 0


def _cost(job: Job) -> Cost:
    return Cost(
        job.folder / "cost.json" if job.ranks.first else None,
        threads=torch.get_num_threads(),
        processes=job.ranks.size,
        gpus=job.ranks.size if job.device.type == "cuda" else 0,
    )


def _train(
    job: Job, trainer: Trainer, progress: Progress, interrupt: Interrupt, cost: Cost, *, bar: bool
) -> dict[str, Any]:
    """Run epochs until a limit, validating and saving between them; returns the summary of the run."""
    run, optim = job.run, job.optim
    train = dataset(job.task, run.train_subset)
    valid = validation_batches(dataset(job.task, job.task.valid_subset), job.task, job.model, job.ranks)
    board = None if run.no_tensorboard else Path(run.tensorboard_logdir or job.folder / "tensorboard")
    folder = job.folder if job.ranks.first else None
    log = RunLog(folder, total=optim.max_update, unit="updates", bar=bar, tensorboard=board)
    many = f" in {job.ranks.size} processes" if job.ranks.size > 1 else ""
    say(
        f"computing in {dtype_name(trainer.weights.dtype)} on {job.device}{many}, {len(train)} training pairs"
    )
    interval = Interval()
    losses: dict[str, float] = {}
    finished = (  # also for a run that is started again after it had ended
        trainer.num_updates >= optim.max_update
        or (optim.max_epoch is not None and progress.epoch > optim.max_epoch)
        or 0 < run.patience <= progress.stale
    )
    stopped = interrupt.agreed(job.ranks)
    while not finished and not stopped:
        batches = _epoch(job, train, progress, first=progress.offset == 0 and progress.epoch == 1)
        stopped = _train_epoch(job, trainer, progress, batches, interval, log, interrupt, cost)
        finished = (
            trainer.num_updates >= optim.max_update
            or trainer.lr() <= trainer.schedule.min_lr
            or (optim.max_epoch is not None and progress.epoch >= optim.max_epoch)
        )
        if stopped:
            break
        epoch_done = progress.offset >= len(batches)
        best = False
        if finished or progress.epoch % run.validate_interval == 0:
            try:
                losses = _validate(job, trainer, valid, progress, log, interrupt)
            except Stopped:  # the epoch's end is saved; a resumed run begins with this validation
                stopped = True
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
        stopped = interrupt.agreed(job.ranks)
    if stopped:
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


def _epoch(job: Job, train: PairDataset, progress: Progress, *, first: bool) -> EpochBatches:
    batches = EpochBatches(
        train,
        max_tokens=job.task.max_tokens,
        max_sentences=job.task.max_sentences,
        seed=job.seed,
        epoch=progress.epoch,
        start=progress.offset,
        rank=job.ranks.rank,
        world=job.ranks.size,
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
    cost: Cost,
) -> bool:
    """Train on one epoch, or the rest of it; leaves early at the last update or when interrupted.

    Returns whether it was interrupted, on every rank alike.
    """
    run, optim = job.run, job.optim
    policy = policy_of(job.policy)
    for group in groups(batches, optim.update_freq):
        start = time.perf_counter()
        lesson = job.arch or policy.lesson(job.space, job.seed, trainer.num_updates)
        step = trainer.train_step(group, lesson)
        seconds = time.perf_counter() - start
        progress.offset = min(progress.offset + optim.update_freq * job.ranks.size, len(batches))
        progress.train_s += seconds
        interval.add(step, seconds)
        cost.tick()
        update = trainer.num_updates
        if update % run.log_interval == 0:
            _log_interval(job, progress, interval, step, update, log)
        rate = step.num_tokens / seconds
        log.advance(update, epoch=str(progress.epoch), loss=f"{step.loss:.3f}", tokens_per_s=f"{rate:.0f}")
        if run.save_interval_updates and update % run.save_interval_updates == 0:
            _save(job, trainer, progress, ["checkpoint_last.pt", f"checkpoint_{progress.epoch}_{update}.pt"])
        stopped = interrupt.agreed(job.ranks)
        if stopped or update >= optim.max_update:
            return stopped
    return False


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
        loss_base2=round(loss, 6),
        lr=step.lr,
        grad_norm=round(step.grad_norm, 4) if math.isfinite(step.grad_norm) else None,
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
    alone = job.ranks.size == 1  # several processes finish a validation: they leave together or not at all
    losses = {
        name: trainer.evaluate(interrupt.until(valid) if alone else valid, arch).loss  # type: ignore[arg-type]
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
        **{f"{name}_loss_base2": round(loss, 6) for name, loss in losses.items()},
    )
    return losses


def _save(job: Job, trainer: Trainer, progress: Progress, names: list[str]) -> None:
    def write() -> None:
        state = {"trainer": trainer.state_dict(), "progress": dict(vars(progress))}
        state |= {"plan": plan_of(job), "recipe": recipe_of(job)}
        packed = ckpt.pack(trainer.shown, job.vocab.digests, state, trainer.model)
        # the one a resumed run starts from goes last: a kill in between must not leave the others behind it
        ckpt.save(packed, *(job.folder / name for name in reversed(names)))
        ckpt.rotate(job.folder, job.run.keep_last_epochs, job.run.keep_interval_updates)

    job.ranks.on_first(write)


def _validate_sub(job: Job) -> dict[str, Any]:
    start = find_checkpoint(job.run.restore_file or "checkpoint_best.pt", job.folder)
    source = adapt(ckpt.load(start, say), start, job.space, job.arch, job.model, job.vocab)
    assert job.arch is not None
    dtype = evaluation_dtype(source, job.optim.amp, job.optim.fp16, job.device)
    model = model_of(source, start, job.arch).to(job.device, dtype)
    valid = validation_batches(dataset(job.task, job.task.valid_subset), job.task, job.model, job.ranks)
    result = evaluate(model, valid, job.arch, job.optim.label_smoothing, job.device, job.ranks)
    if job.ranks.first:
        print(f"validation loss {result.loss:.4f} (base 2, smoothed), nll {result.nll_loss:.4f}, {start}")
    return {"valid_loss": result.loss, "valid_nll_loss": result.nll_loss}
