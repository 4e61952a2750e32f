"""Do slices of a SuperTransformer rank architectures as training them from scratch does?"""

import hashlib
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch

import hat
from benchmarks import ranking
from benchmarks.agreement import csv_text
from benchmarks.process import say
from benchmarks.ranking import Judged, Score
from benchmarks.translation import best_tokens, bleu_of

PROBED_UPDATES, PROBED_SENTENCES = 6, 64


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
    """folder of journal, table, picture and trainings; an interrupted study continues from it"""
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


class Task(NamedTuple):
    """What all trainings share, and how they are scored; a score depends on nothing but this and its cell."""

    space: hat.SearchSpace
    dataset: hat.Dataset
    config: hat.TrainConfig
    beam: hat.BeamConfig | None  # None: without BLEU
    device: torch.device
    content: Sequence[Sequence[str]]  # digests of the training and the validation split

    def recipe(self, updates: int) -> hat.TrainConfig:
        """Return the options of a training of `updates`; its warm-up is at most a fifth of it."""
        optim, schedule = self.config.optim, self.config.schedule
        return replace(
            self.config,
            optim=replace(optim, max_update=updates, max_epoch=None),
            schedule=replace(schedule, warmup_updates=min(schedule.warmup_updates, updates // 5)),
            # validated at the end alone, which is what the study scores
            loop=hat.LoopConfig(validate_interval=10**9, keep_last_epochs=0, no_tensorboard=True),
        )

    def identity(self, cell: Cell) -> dict[str, Any]:
        """Return all that the weights of a cell depend on."""
        return {
            "arch": cell.arch.to_yaml(),
            "seed": cell.seed,
            "updates": cell.updates,
            "source": cell.source.digest if cell.source else "",
            "recipe": self.recipe(cell.updates or 1).to_yaml(),
            "space": asdict(self.space),
            "data": [*self.dataset.digests, self.content],
            "dtype": str(hat.fast_dtype(self.device)),
        }

    def train_once(self, cell: Cell, out: Path | None, interrupt: Any = None) -> hat.FitResult:
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

    def score(self, arch: hat.Arch, checkpoint: Path) -> Score:
        """Return loss and BLEU of `arch` on the validation split with the weights of a checkpoint."""
        given = (arch, self.space, self.dataset, checkpoint, self.config)
        loss = hat.validate(*given, device=self.device).loss
        if self.beam is None:
            return Score(loss, None)
        data = self.dataset.split(self.config.batches.valid_subset)
        network = hat.load_checkpoint(checkpoint).sub(arch).eval()
        fixed = hat.InferenceModel(network.to(self.device, hat.fast_dtype(self.device)))
        return Score(loss, bleu_of(best_tokens(fixed, data, self.beam), self.dataset, data))

    def probe(self, archs: Sequence[hat.Arch]) -> tuple[float, float]:
        """Return the seconds of an update and of a score: means over `archs`, here and now.

        Without trained weights translations end late, so the second one is an upper bound.
        """
        updates_s, scores_s = [], []
        for arch in archs:
            begun = time.perf_counter()
            result = self.train_once(Cell(arch, 1, PROBED_UPDATES), None)
            updates_s.append(result.train_s / PROBED_UPDATES)
            scores_s.append(time.perf_counter() - begun - result.train_s)
            if self.beam:
                data = self.dataset.split(self.config.batches.valid_subset)
                count = min(PROBED_SENTENCES, len(data))
                sizes = len(self.dataset.vocabs[0]), len(self.dataset.vocabs[1])
                whole = hat.SuperTransformer(self.space, sizes, self.config.model)
                network = hat.extract(whole, arch).to(self.device, hat.fast_dtype(self.device)).eval()
                source = data.batch(range(count)).source.to(self.device)
                begun = time.perf_counter()
                hat.beam_search(hat.InferenceModel(network), source, self.beam)
                scores_s[-1] += (time.perf_counter() - begun) * len(data) / count
        return fmean(updates_s), fmean(scores_s)


class Scores:
    """Runs cells and keeps their scores in a journal, under all that they depend on."""

    def __init__(self, task: Task, journal: Any, options: StudyOptions) -> None:
        self.task, self._journal, self._options = task, journal, options
        self._folder, self.done = Path(options.out_dir), dict[str, Score]()
        self._read(journal.path, journal.records)
        for path in sorted(self._folder.glob("journal*.jsonl")):
            if path == journal.path:
                continue
            if options.part:  # the processes of other parts may be running
                self._read(path, hat.read_journal(path))
            else:
                with hat.Journal(path) as other:
                    self._read(path, other.records)

    def _read(self, path: Path, records: Sequence[dict[str, Any]]) -> None:
        try:
            self.done |= {r["name"]: Score(r["loss"], r["bleu"]) for r in records}
        except (KeyError, TypeError) as error:
            raise hat.DataError(f"{path} is no journal of a rank study; give another --out-dir") from error

    def name(self, cell: Cell) -> str:
        """Return a digest of all that the score of this cell depends on."""
        beam = asdict(self.task.beam) if self.task.beam else None
        return _digest({"training": self.task.identity(cell), "bleu": beam})

    def run(self, cell: Cell, place: str, interrupt: Any) -> int | None:
        """Score one cell, training it first if it asks for updates; returns the signal that stopped it."""
        start = time.perf_counter()
        training = _digest(self.task.identity(cell))
        run = self._folder / "trainings" / f"{training}-dec{cell.arch.decoder.num_layers}-seed{cell.seed}"
        if cell.updates:
            stopped: int | None = self.task.train_once(cell, run, interrupt).stopped
            if stopped is not None:
                return stopped
        kept = cell.updates or cell.source is None
        score = self.task.score(cell.arch, run / "checkpoint_last.pt" if kept else cell.source.path)
        facts = {"stage": cell.stage, "arch": cell.arch.to_yaml(), "updates": cell.updates, "seed": cell.seed}
        seconds, name = round(time.perf_counter() - start, 1), self.name(cell)
        self._journal.append({"name": name, **score._asdict(), **facts, "seconds": seconds})
        self.done[name] = score
        if cell.updates and not self._options.keep_checkpoints:
            for path in run.glob("*.pt*"):
                path.unlink()
        bleu = "" if score.bleu is None else f", BLEU {score.bleu:.2f}"
        say(f"{place}: {cell.stage}, loss {score.loss:.4f}{bleu}, {seconds:.1f} s")
        return None


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Do what the journal does not hold yet, write CSV, JSON and picture, print the table; see --help."""
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
    sources = read_sources(options.super)
    seed, space, device = settings.device.seed, hat.space_of(settings.space), hat.device_of(settings.device)
    archs = ranking.design(space, options.num_archs, seed)
    predictor = hat.LatencyPredictor.load(options.ckpt_path) if options.ckpt_path else None
    beam = None if options.no_bleu else beam
    given = settings.task
    config = hat.TrainConfig(settings.model, settings.optim, settings.schedule, batches=given)
    data = hat.Dataset.load(given.data or "data", given.source_lang, given.target_lang)
    splits = (config.batches.train_subset, config.batches.valid_subset)
    content = [data.split(split).content() for split in splits]
    task = Task(space, data, config, beam, device, content)
    by_size = sorted(archs, key=lambda arch: hat.count_params(arch, space))
    places = np.linspace(0, len(archs) - 1, min(options.finetune_archs, len(archs))).round().astype(int)
    tuned = [by_size[place] for place in places]
    seeds = range(seed, seed + options.seeds)
    steps = [(source, updates) for source in sources for updates in sorted(options.finetune_updates)]
    cells = [Cell(arch, source=source) for source in sources for arch in archs]
    cells += [Cell(arch, each, options.updates) for each in seeds for arch in archs]
    cells += [Cell(arch, seed, updates, source) for source, updates in steps for arch in tuned]
    folder, (first, count) = Path(options.out_dir), options.place
    suffix = f"-{first + 1}-of-{count}" if options.part else ""
    with hat.Journal(folder / f"journal{suffix}.jsonl") as journal, hat.Interrupt() as interrupt:
        found = Scores(task, journal, options)
        mine = cells[first::count]
        left = [cell for cell in mine if found.name(cell) not in found.done]
        if left or options.budget:
            say(f"{len(mine) - len(left)} of {len(mine)} scores are in the journal")
        if left:
            say_budget(left, *task.probe([by_size[0], by_size[-1]]))
        if options.budget:
            return 0
        for number, cell in enumerate(left, 1):
            if found.name(cell) in found.done:  # one checkpoint may have two names
                continue
            stopped = found.run(cell, f"{number}/{len(left)}", interrupt)
            if stopped is not None:
                say("stopped; the same command goes on from here")
                return 128 + stopped
        if options.part:
            say(f"part {options.part} is done; when all are, the command without --part prints the table")
            return 0
        scores = {cell: found.done[found.name(cell)] for cell in cells}
    ms = predictor.predict_many(archs) if predictor else [None] * len(archs)
    length = settings.task.sentence_length()
    judged = [
        Judged(
            arch,
            hat.count_params(arch, space),
            2 * hat.count_macs(arch, space, length),
            predicted,
            tuple(scores[Cell(arch, each, options.updates)] for each in seeds),
            {source.name: scores[Cell(arch, source=source)] for source in sources},
            {
                f"{source.name}, fine-tuned {updates}": scores[Cell(arch, seed, updates, source)]
                for source, updates in steps
                if len(tuned) == len(archs)
            },
        )
        for arch, predicted in zip(archs, ms, strict=True)
    ]
    summary = ranking.rank_summary(judged) | {"scratch_updates": options.updates, "design_seed": seed}
    if steps:
        truth = fmean(scores[Cell(arch, each, options.updates)].loss for each in seeds for arch in tuned)
        summary["finetuning"] = {}
        for source in sources:
            points = [(0, fmean(scores[Cell(arch, source=source)].loss for arch in tuned))]
            for updates in sorted(options.finetune_updates):
                losses = [scores[Cell(arch, seed, updates, source)].loss for arch in tuned]
                points.append((updates, fmean(losses)))
            summary["finetuning"][source.name] = {
                "archs": len(tuned),
                "curve": points,
                "scratch_updates": options.updates,
                "scratch_loss": truth,
                "updates_equal_to_scratch": ranking.updates_to_match(points, truth),
            }
    hat.write_text_atomic(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    hat.write_text_atomic(folder / "archs.csv", csv_text([record_of(one) for one in judged]))
    print(ranking.rank_table(summary))
    try:
        ranking.plot_rank(folder / "rank.png", judged, summary)
    except ImportError:
        say("no picture: matplotlib is not installed (pip install -e '.[report]')")
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


def say_budget(left: Sequence[Cell], update_s: float, score_s: float) -> None:
    """Say how many minutes each stage takes."""
    total = 0.0
    for stage in dict.fromkeys(cell.stage for cell in left):
        parts = [cell.updates * update_s + score_s for cell in left if cell.stage == stage]
        total += sum(parts) / 60
        say(f"{stage}: {len(parts)} left, about {sum(parts) / 60:.1f} min")
    say(f"about {total:.0f} min in all ({1e3 * update_s:.0f} ms an update, {score_s:.1f} s a score)")


def record_of(one: Judged) -> dict[str, Any]:
    """Return the line of an architecture in the CSV file: sizes, scores of each seed and of each slice."""
    row: dict[str, Any] = {"params": one.params, "flops": one.flops, "predicted_ms": one.predicted_ms}
    named = {f"scratch_{n}": score for n, score in enumerate(one.scratch, 1)}
    for name, score in (named | one.slices | one.tuned).items():
        key = name.replace(", ", "_").replace(" ", "_")
        row |= {f"{key}_loss_base2": score.loss, f"{key}_bleu": score.bleu}
    return row | {key: json.dumps(value) for key, value in one.arch.to_yaml().items()}
