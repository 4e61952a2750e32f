"""Where a training run stands in its folder: what it is, and the point where it goes on."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hat.cli.restore import adapt, find_checkpoint, model_of
from hat.cli.settings import RunOptions
from hat.cli.task import TaskOptions, Vocabulary
from hat.log import say
from hat.model.config import ModelConfig
from hat.model.extract import extract
from hat.model.transformer import SuperTransformer, Transformer
from hat.rng import seed_for
from hat.space import Arch, SearchSpace
from hat.train import checkpoint as ckpt
from hat.train.checkpoint import Checkpoint
from hat.train.policy import PolicyConfig
from hat.train.progress import Progress
from hat.train.ranks import Ranks
from hat.train.schedule import ScheduleConfig
from hat.train.trainer import OptimConfig, Trainer


@dataclass(frozen=True)
class Job:
    """One training run, resolved."""

    run: RunOptions
    task: TaskOptions
    model: ModelConfig
    optim: OptimConfig
    policy: PolicyConfig  # of a SuperTransformer
    space: SearchSpace
    arch: Arch | None  # None trains the SuperTransformer
    vocab: Vocabulary
    folder: Path
    device: torch.device
    seed: int
    ranks: Ranks


def restore(job: Job, schedule: ScheduleConfig, dtype: torch.dtype) -> tuple[Trainer, Progress]:
    """Return a trainer at the point where the run continues, or at its start."""
    run = job.run
    # one reader for all ranks: only its machine need have the folder
    source, where, started_from = job.ranks.on_first(lambda: _source(job))
    progress = Progress(started_from=started_from)
    goes_on = source is not None and source.arch == job.arch and "trainer" in source.state
    if source is None:
        noise = torch.Generator().manual_seed(seed_for(job.seed, "init"))
        model: Transformer = SuperTransformer(job.space, job.vocab.sizes, job.model, noise)
        if job.arch:
            model = extract(model, job.arch)
    elif goes_on and source.master is not None:
        model = model_of(replace(source, weights=source.master), where, job.arch)
    else:
        model = model_of(source, where, job.arch)
    trainer = Trainer(
        model, job.optim, schedule, dtype=dtype, device=job.device, seed=job.seed, ranks=job.ranks
    )
    if source is not None and goes_on:
        if trainer.average is not None:
            trainer.average.load(source.weights)
        trainer.load_state_dict(
            source.state["trainer"], optimizer=not run.reset_optimizer, schedule=not run.reset_lr_scheduler
        )
        saved = source.state["progress"]
        if source.state["plan"] != plan_of(job) and not run.reset_dataloader:
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
        before = source.state.get("recipe")
        if before not in (None, recipe_of(job)):
            say(f"until now this run was trained with {before}; it goes on with {recipe_of(job)}")
        say(f"resumed {where} at update {trainer.num_updates}, epoch {progress.epoch}")
    elif source is not None:
        say(f"weights inherited from {where}; optimiser, schedule and data start anew")
    return trainer, progress


def _source(job: Job) -> tuple[Checkpoint | None, Path, str]:
    """Return the checkpoint to go on from, if any, its place, and what the run had been started from."""
    run = job.run
    last = ckpt.load_newest(job.folder, say) if job.folder.is_dir() else None
    start = find_checkpoint(run.restore_file, job.folder) if run.restore_file else None
    if last is not None and (start is None or last.state["progress"]["started_from"] == str(start)):
        source, where, started_from = last, job.folder, last.state["progress"]["started_from"]
    elif start is not None:
        source, where, started_from = ckpt.load(start, say), start, str(start)
    else:
        return None, job.folder, ""
    return adapt(source, where, job.space, job.arch, job.model, job.vocab), where, started_from


def recipe_of(job: Job) -> str:
    """Return which architectures an update trains, and how their weights are averaged, in words."""
    options = ({} if job.arch else job.policy.counting()) | {"--ema-decay": job.optim.ema_decay}
    return ", ".join(f"{flag} {value}" for flag, value in options.items())


def plan_of(job: Job) -> list[str]:
    """Return what the batches of an epoch depend on."""
    task = job.task
    limits = (task.max_tokens, task.max_sentences, task.required_batch_size_multiple)
    return [str(job.seed), *map(str, limits), *job.vocab.digests, job.run.train_subset]
