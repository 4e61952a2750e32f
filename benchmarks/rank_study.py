"""Do slices of a SuperTransformer rank architectures as training them from scratch does?"""

import hashlib
import itertools
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch

import hat
from benchmarks import ranking
from benchmarks.data import best_tokens, bleu_of
from benchmarks.process import csv_text, info
from benchmarks.ranking import Judged, Score

PROBED_UPDATES = 6


@dataclass(frozen=True)
class StudyOptions(hat.Options):
    """Study"""

    super: tuple[str, ...] = ()
    """SuperTransformers to compare, each as name=checkpoint; without any, the truth alone is made"""
    num_archs: int = hat.option(12, low=2)
    """architectures, spread over decoder depth and size"""
    updates: int = hat.option(1000, low=1)
    """updates of a training from scratch"""
    seeds: int = hat.option(2, low=1)
    """trainings of each architecture; the agreement between two of them is the ceiling"""
    finetune_updates: tuple[int, ...] = hat.option((), low=1)
    """updates of fine-tuning to compare with training from scratch, for example 50 100 200 400"""
    finetune_archs: int = hat.option(3, low=1)
    """architectures that are fine-tuned, spread over size; if all are, also how they rank"""
    ckpt_path: str | None = None
    """latency predictor, for the ranking by predicted latency"""
    out_dir: str = "runs/rank_study"
    """folder of scores, tables, report and trainings; an interrupted study continues from it"""
    no_bleu: bool = False
    """score by validation loss alone"""
    keep_checkpoints: bool = False
    """keep the checkpoints of trainings that are scored"""
    part: str = ""
    """do one part of the work, for example 1/2 in one process and 2/2 in another of the same --out-dir; the
    command without it then adds them up"""
    budget: bool = False
    """print what is left to do and how long it takes on this machine, and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        first, count = self.place if re.fullmatch(r"([1-9]\d?/[1-9]\d?)?", self.part) else (1, 0)
        if first >= count:
            raise hat.ConfigError(
                f"--part takes a part and how many there are, such as 1/2, got {self.part!r}"
            )
        if len(set(self.finetune_updates)) < len(self.finetune_updates):
            raise hat.ConfigError(f"--finetune-updates names a number twice: {list(self.finetune_updates)}")
        if self.finetune_updates and not self.super:
            raise hat.ConfigError("--finetune-updates needs --super name=checkpoint to start from")

    @property
    def place(self) -> tuple[int, int]:
        """Return which part this process does, from 0, and how many there are."""
        number, _, count = (self.part or "1/1").partition("/")
        return int(number) - 1, int(count)


class Source(NamedTuple):
    """A SuperTransformer of the study."""

    name: str
    path: Path
    digest: str


class Cell(NamedTuple):
    """One score: of a slice, or of a training from scratch (no source) or from a slice."""

    arch: hat.Arch
    seed: int = 0
    updates: int = 0  # 0: the slice as it is
    source: Source | None = None

    @property
    def stage(self) -> str:
        """Return which part of the study this belongs to."""
        if self.source is None:
            return f"training from scratch, seed {self.seed}"
        return f"{'fine-tuning' if self.updates else 'slices'} of {self.source.name}"


@dataclass(frozen=True)
class Task:
    """What all trainings share, and how they are scored; a score depends on nothing but this and its cell."""

    space: hat.SearchSpace
    dataset: hat.Dataset
    config: hat.TrainConfig
    beam: hat.BeamConfig | None  # None: without BLEU
    device: torch.device
    folder: Path
    keep_checkpoints: bool

    def recipe(self, updates: int) -> hat.TrainConfig:
        """Return the options of a training of `updates`; its warm-up is at most a fifth of it."""
        return hat.short_training(self.config, updates)

    @cached_property
    def content(self) -> list[Any]:
        """Return digests of dictionaries, training and validation split."""
        splits = (self.config.batches.train_subset, self.config.batches.valid_subset)
        return [*self.dataset.digests, *(self.dataset.split(split).content() for split in splits)]

    def name(self, cell: Cell, *, score: bool) -> str:
        """Return a digest of all that the weights of a cell, or its score, depend on."""
        arch = cell.arch
        facts = {
            "arch": arch.to_yaml(),
            "seed": cell.seed,
            "updates": cell.updates,
            "source": cell.source.digest if cell.source else "",
            "recipe": self.recipe(cell.updates or 1).to_yaml(),
            "space": asdict(self.space),
            "data": self.content,
            "dtype": str(hat.fast_dtype(self.device)),
            "bleu": asdict(self.beam) if score and self.beam else None,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return f"{digest}-dec{arch.decoder.num_layers}-seed{cell.seed}"

    def known(self, cell: Cell) -> Score | None:
        """Return the score of a cell if it is known."""
        path = self.folder / "scores" / f"{self.name(cell, score=True)}.json"
        if not path.exists():
            return None
        held = json.loads(path.read_text("utf-8"))
        return Score(held["loss"], held["bleu"])

    def train(self, cell: Cell, out: Path | None, interrupt: Any = None) -> hat.FitResult:
        """Train the architecture of a cell; called again with the same folder, a killed training goes on."""
        return hat.fit(
            cell.arch,
            self.dataset,
            self.recipe(cell.updates),
            space=self.space,
            init=cell.source.path if cell.source else None,
            out=out,
            device=self.device,
            seed=cell.seed,
            interrupt=interrupt,
        )

    def run(self, cell: Cell, place: str, interrupt: Any) -> int | None:
        """Score a cell, training it first if it asks for updates; returns the signal that stopped it."""
        start = time.perf_counter()
        run = self.folder / "trainings" / self.name(cell, score=False)
        if cell.updates:
            stopped: int | None = self.train(cell, run, interrupt).stopped
            if stopped is not None:
                return stopped
        checkpoint = run / "checkpoint_last.pt" if cell.updates or cell.source is None else cell.source.path
        given = (cell.arch, self.space, self.dataset, checkpoint, self.config)
        loss, bleu = hat.validate(*given, device=self.device).loss, None
        if self.beam:
            data = self.dataset.split(self.config.batches.valid_subset)
            network = hat.load_checkpoint(checkpoint).sub(cell.arch).eval()
            ready = hat.InferenceModel(network.to(self.device, hat.fast_dtype(self.device)))
            bleu = bleu_of(best_tokens(ready, data, self.beam), self.dataset, data)
        seconds = round(time.perf_counter() - start, 1)
        facts = {"loss": loss, "bleu": bleu, "stage": cell.stage, "arch": cell.arch.to_yaml()}
        facts |= {"updates": cell.updates, "seed": cell.seed, "seconds": seconds}
        path = self.folder / "scores" / f"{self.name(cell, score=True)}.json"
        hat.write_text_atomic(path, json.dumps(facts) + "\n")
        if cell.updates and not self.keep_checkpoints:
            for weights in run.glob("*.pt*"):
                weights.unlink()
        said = "" if bleu is None else f", BLEU {bleu:.2f}"
        info(f"{place}: {cell.stage}, loss {loss:.4f}{said}, {seconds:.1f} s")
        return None

    def say_budget(self, left: Sequence[Cell], archs: Sequence[hat.Arch]) -> None:
        """Say how many minutes each stage trains, by what updates of `archs` take here and now."""
        probes = [self.train(Cell(arch, 1, PROBED_UPDATES), None) for arch in archs]
        update_s = fmean(probe.train_s / PROBED_UPDATES for probe in probes)
        for stage, cells in itertools.groupby(left, lambda cell: cell.stage):
            updates = [cell.updates for cell in cells]
            info(f"{stage}: {len(updates)} left, about {sum(updates) * update_s / 60:.1f} min of updates")


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Do what has no score yet, write CSV, JSON and picture, print the table; see --help."""
    settings, options, beam = hat.parse_settings(
        argv,
        StudyOptions,
        hat.BeamConfig,
        prog="python -m benchmarks rank-study",
        description="Compare the ranking by slices of SuperTransformers with training from scratch.",
        config_flags=("--configs", "--sub-configs"),
    )
    if sum(word.split("=")[0] == "--super" for word in argv or sys.argv) > 1:
        raise hat.ConfigError("--super is given twice; give all SuperTransformers behind one --super")
    sources, given, seed = read_sources(options.super), settings.task, settings.device.seed
    space, device = hat.space_of(settings.space), hat.device_of(settings.device)
    archs = ranking.design(space, options.num_archs, seed)
    predictor = hat.LatencyPredictor.load(options.ckpt_path) if options.ckpt_path else None
    config = hat.TrainConfig(settings.model, settings.optim, settings.schedule, batches=given)
    data = hat.Dataset.load(given.data or "data", given.source_lang, given.target_lang)
    folder, beam = Path(options.out_dir), None if options.no_bleu else beam
    task = Task(space, data, config, beam, device, folder, options.keep_checkpoints)
    by_size = sorted(archs, key=lambda arch: hat.count_params(arch, space))
    places = np.linspace(0, len(archs) - 1, min(options.finetune_archs, len(archs))).round().astype(int)
    tuned, (first, count) = [by_size[place] for place in places], options.place
    scratch = {arch: [Cell(arch, seed + n, options.updates) for n in range(options.seeds)] for arch in archs}
    steps = [(source, updates) for source in sources for updates in sorted(options.finetune_updates)]
    cells = [Cell(arch, source=source) for source in sources for arch in archs]
    cells += [cell for row in zip(*scratch.values(), strict=True) for cell in row]
    cells += [Cell(arch, seed, updates, source) for source, updates in steps for arch in tuned]
    mine = cells[first::count]
    left = [cell for cell in mine if task.known(cell) is None]
    if left or options.budget:
        info(f"{len(mine) - len(left)} of {len(mine)} scores are known")
    if left:
        task.say_budget(left, [by_size[0], by_size[-1]])
    if options.budget:
        return 0
    with hat.Interrupt() as interrupt:
        for number, cell in enumerate(left, 1):
            if task.known(cell) is not None:  # one checkpoint may have two names
                continue
            stopped = task.run(cell, f"{number}/{len(left)}", interrupt)
            if stopped is not None:
                info("stopped; the same command goes on from here")
                return 128 + stopped
    if options.part:
        info(f"part {options.part} is done; when all are, the command without --part prints the table")
        return 0
    scores = {cell: score for cell in cells if (score := task.known(cell))}
    latencies_ms = predictor.predict_many(archs) if predictor else [None] * len(archs)
    judged = [
        Judged(
            arch,
            hat.count_params(arch, space),
            2 * hat.count_macs(arch, space, given.sentence_length()),
            predicted_ms,
            tuple(scores[cell] for cell in scratch[arch]),
            {source.name: scores[Cell(arch, source=source)] for source in sources},
            {
                f"{source.name}, fine-tuned {updates}": scores[Cell(arch, seed, updates, source)]
                for source, updates in steps
                if len(tuned) == len(archs)
            },
        )
        for arch, predicted_ms in zip(archs, latencies_ms, strict=True)
    ]
    summary = ranking.rank_summary(judged) | {"scratch_updates": options.updates, "design_seed": seed}
    if steps:
        truth = fmean(scores[cell].loss for arch in tuned for cell in scratch[arch])
        summary["finetuning"] = {}
        for source in sources:
            curve = [
                (
                    updates,
                    fmean(scores[Cell(arch, seed if updates else 0, updates, source)].loss for arch in tuned),
                )
                for updates in (0, *sorted(options.finetune_updates))
            ]
            summary["finetuning"][source.name] = {
                "archs": len(tuned),
                "curve": curve,
                "scratch_updates": options.updates,
                "scratch_loss": truth,
                "updates_equal_to_scratch": ranking.updates_to_match(curve, truth),
            }
    hat.write_text_atomic(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    hat.write_text_atomic(folder / "archs.csv", csv_text([record_of(one) for one in judged]))
    print(ranking.rank_table(summary))
    info(f"written: {hat.report(folder)}")
    if settings.output.json:
        print(json.dumps(summary))
    return 0


def read_sources(named: Sequence[str]) -> list[Source]:
    """Return the SuperTransformers that --super names; raises ConfigError and CheckpointError."""
    sources: dict[str, Source] = {}
    for text in named:
        name, equals, place = text.partition("=")
        taken = name in sources or name in ranking.TRIVIAL
        if taken or not (re.fullmatch(r"[\w.+-]+", name) and equals and place):
            raise hat.ConfigError(
                f"--super takes different names without spaces, each as name=checkpoint, got {text!r}; for "
                "example --super single=checkpoints/a/checkpoint_best.pt two=checkpoints/b/checkpoint_best.pt"
            )
        path = Path(place)
        if not path.exists():
            raise hat.CheckpointError(f"the checkpoint {place} does not exist; train that model first")
        sources[name] = Source(name, path, hashlib.sha256(path.read_bytes()).hexdigest())
    return list(sources.values())


def record_of(one: Judged) -> dict[str, Any]:
    """Return the line of an architecture in the CSV file: sizes, scores of each seed and of each slice."""
    row: dict[str, Any] = {"params": one.params, "flops": one.flops, "predicted_ms": one.predicted_ms}
    named = {f"scratch_{n}": score for n, score in enumerate(one.scratch, 1)}
    for name, score in (named | one.slices | one.tuned).items():
        key = name.replace(", ", "_").replace(" ", "_")
        row |= {f"{key}_loss_base2": score.loss, f"{key}_bleu": score.bleu}
    return row | {key: json.dumps(value) for key, value in one.arch.to_yaml().items()}
