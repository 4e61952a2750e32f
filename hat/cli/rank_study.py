"""The command `scripts/rank_study.py`: do slices of a SuperTransformer rank as training from scratch does?"""

import csv
import hashlib
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from hat.cli.options import command
from hat.cli.rank_cells import Cell, RankCells, Source
from hat.cli.rank_work import Costs, RankWork, Stopped
from hat.cli.settings import parse_settings
from hat.cli.task import device_of, find_checkpoint, space_and_arch, vocabulary, write_provenance
from hat.decode.beam import BeamConfig
from hat.errors import ConfigError
from hat.files.atomic import write_text_atomic
from hat.files.journal import Journal
from hat.latency.predictor import LatencyPredictor
from hat.log import say
from hat.model.count import count_macs, count_params
from hat.report.ranking import plot_rank, rank_table
from hat.search.ranking import TRIVIAL, Judged, Score, design, rank_summary, updates_to_match
from hat.space import Arch
from hat.train.trainer import compute_dtype


@dataclass(frozen=True)
class StudyOptions:
    """Study"""

    super: tuple[str, ...] = ()
    """SuperTransformers to compare, each as name=checkpoint; without any, the truth alone is made"""
    num_archs: int = 12
    """architectures, spread over decoder depth and size"""
    updates: int = 1000
    """updates of a training from scratch"""
    seeds: int = 2
    """trainings of each architecture; the agreement between two of them is the ceiling"""
    finetune_updates: tuple[int, ...] = ()
    """updates of fine-tuning to compare with training from scratch, for example 50 100 200 400"""
    finetune_archs: int = 3
    """architectures that are fine-tuned, spread over size; if all are, also how they rank"""
    ckpt_path: str | None = None
    """latency predictor, for the ranking by predicted latency"""
    out_dir: str = "runs/rank_study"
    """folder of journal, table, picture and trainings; an interrupted study continues from it"""
    remove_bpe: str | None = None
    """how subwords are joined for BLEU: sentencepiece, subword_nmt or `@@ ` (default: by the dictionary)"""
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
        for name in ("num_archs", "updates", "seeds", "finetune_archs"):
            least = 2 if name == "num_archs" else 1
            if getattr(self, name) < least:
                raise ConfigError(
                    f"--{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}"
                )
        if any(updates < 1 for updates in self.finetune_updates):
            raise ConfigError(f"--finetune-updates must be at least 1, got {list(self.finetune_updates)}")
        if self.part and not (
            re.fullmatch(r"[1-9]\d?/[1-9]\d?", self.part) and self.place[0] < self.place[1]
        ):
            raise ConfigError(f"--part takes the number of a part and of all, such as 1/2, got {self.part!r}")
        if len(set(self.finetune_updates)) < len(self.finetune_updates):
            raise ConfigError(f"--finetune-updates names a number twice: {list(self.finetune_updates)}")
        if self.finetune_updates and not self.super:
            raise ConfigError("--finetune-updates needs --super name=checkpoint to start from")

    @property
    def place(self) -> tuple[int, int]:
        """Return which part this process does, from 0, and how many there are."""
        number, _, count = (self.part or "1/1").partition("/")
        return int(number) - 1, int(count)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the journal does not hold yet, write CSV, JSON and picture, print the table; see --help."""
    settings, options, beam = parse_settings(
        argv,
        StudyOptions,
        BeamConfig,
        prog="scripts/rank_study.py",
        description="Compare the ranking by slices of SuperTransformers with training from scratch.",
        config_flags=("--configs", "--sub-configs"),
    )
    if sum(word.split("=")[0] == "--super" for word in (sys.argv[1:] if argv is None else argv)) > 1:
        raise ConfigError("--super is given twice; give all SuperTransformers behind one --super")
    sources = _sources(options.super)
    space, _ = space_and_arch(settings.space, settings.arch)
    seed = settings.device.seed
    archs = design(space, options.num_archs, seed)
    vocab = vocabulary(settings.task)
    predictor = LatencyPredictor.load(options.ckpt_path) if options.ckpt_path else None
    device = device_of(settings.device)
    dtype = compute_dtype(settings.optim.amp, settings.optim.fp16, device)
    bpe = options.remove_bpe
    work = RankWork(settings, space, vocab, device, dtype, beam, bpe, bleu=not options.no_bleu)
    cells = [Cell(arch, source=source) for source in sources for arch in archs]
    cells += [Cell(arch, seed + n, options.updates) for n in range(options.seeds) for arch in archs]
    by_size = sorted(archs, key=lambda arch: count_params(arch, space))
    places = np.linspace(0, len(archs) - 1, min(options.finetune_archs, len(archs))).round().astype(int)
    tuned = [by_size[place] for place in places]
    cells += [
        Cell(arch, seed, updates, source)
        for source in sources
        for updates in options.finetune_updates
        for arch in tuned
    ]
    folder = Path(options.out_dir)
    first, step = options.place
    suffix = f"-{first + 1}-of-{step}" if options.part else ""
    with Journal(folder / f"journal{suffix}.jsonl") as journal:
        study = RankCells(work, journal, folder, keep=options.keep_checkpoints)
        study.take_others(running=bool(options.part))
        mine = cells[first::step]
        left = [cell for cell in mine if study.name(cell) not in study.done]
        if left or options.budget:
            _say_budget(work, left, len(mine), by_size)
        if options.budget:
            return 0
        write_provenance(folder, device, options, beam, *settings)
        try:
            for number, cell in enumerate(left, 1):
                if study.name(cell) not in study.done:  # one checkpoint may have two names
                    study.run(cell, f"{number}/{len(left)}")
        except Stopped as stopped:
            say("stopped; the same command goes on from here")
            return stopped.code
        if options.part:
            say(f"part {options.part} is done; when all are, the command without --part prints the table")
            return 0
        scores = {cell: study.done[study.name(cell)] for cell in cells}
    ms = predictor.predict_many(archs) if predictor else [None] * len(archs)
    length = settings.task.sentence_length()
    judged = [
        Judged(
            arch,
            count_params(arch, space),
            2 * count_macs(arch, space, length),
            predicted,
            tuple(scores[Cell(arch, seed + n, options.updates)] for n in range(options.seeds)),
            {source.name: scores[Cell(arch, source=source)] for source in sources},
            {
                f"{source.name}, fine-tuned {updates}": scores[Cell(arch, seed, updates, source)]
                for source in sources
                for updates in options.finetune_updates
                if len(tuned) == len(archs)
            },
        )
        for arch, predicted in zip(archs, ms, strict=True)
    ]
    summary = rank_summary(judged) | {"scratch_updates": options.updates, "design_seed": seed}
    if options.finetune_updates:
        summary["finetuning"] = {
            source.name: _curve(source, tuned, options, seed, scores) for source in sources
        }
    write_text_atomic(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_text_atomic(folder / "archs.csv", _csv(judged))
    print(rank_table(summary))
    try:
        plot_rank(folder / "rank.png", judged, summary)
    except ImportError:
        say("no picture: matplotlib is not installed (pip install -e '.[report]')")
    if settings.output.json:
        print(json.dumps(summary))
    return 0


def _sources(named: Sequence[str]) -> list[Source]:
    """Return the SuperTransformers that --super names; raises ConfigError and CheckpointError."""
    sources: dict[str, Source] = {}
    for text in named:
        name, equals, place = text.partition("=")
        if not (re.fullmatch(r"[\w.+-]+", name) and equals and place) or name in sources or name in TRIVIAL:
            raise ConfigError(
                f"--super takes different names without spaces, each as name=checkpoint, got {text!r}; for "
                "example --super "
                "single=checkpoints/a/checkpoint_best.pt sandwich=checkpoints/b/checkpoint_best.pt"
            )
        path = find_checkpoint(place)
        sources[name] = Source(name, path, hashlib.sha256(path.read_bytes()).hexdigest())
    return list(sources.values())


def _say_budget(work: RankWork, left: Sequence[Cell], total: int, by_size: Sequence[Arch]) -> None:
    """Say how many minutes each stage takes here, from a few updates and translations of two sizes."""
    say(f"{total - len(left)} of {total} scores are in the journal")
    if not left:
        return
    source = next((cell.source for cell in left if cell.source), None)
    costs = work.probe([by_size[0], by_size[-1]], work.take_up(source.path) if source else None)
    minutes: dict[str, list[float]] = {}
    for cell in left:
        minutes.setdefault(cell.stage, []).append(_cell_minutes(cell, costs))
    for stage, parts in minutes.items():
        say(f"{stage}: {len(parts)} left, about {sum(parts):.1f} min")
    say(
        f"about {sum(map(sum, minutes.values())):.0f} min in all ({1e3 * costs.update_s:.0f} ms an update, "
        f"{costs.loss_s:.1f} s a loss, {costs.translation_s:.1f} s a translation of the validation split)"
    )


def _cell_minutes(cell: Cell, costs: Costs) -> float:
    return (cell.updates * costs.update_s + costs.loss_s + costs.translation_s) / 60


def _curve(
    source: Source, tuned: Sequence[Arch], options: StudyOptions, seed: int, scores: dict[Cell, Score]
) -> dict[str, Any]:
    """Return the loss against updates of fine-tuning, mean over architectures, beside that from scratch."""
    points = [(0, fmean(scores[Cell(arch, source=source)].loss for arch in tuned))]
    for updates in sorted(set(options.finetune_updates)):
        points.append((updates, fmean(scores[Cell(arch, seed, updates, source)].loss for arch in tuned)))
    truth = [
        scores[Cell(arch, seed + n, options.updates)].loss for n in range(options.seeds) for arch in tuned
    ]
    return {
        "archs": len(tuned),
        "curve": points,
        "scratch_updates": options.updates,
        "scratch_loss": fmean(truth),
        "updates_equal_to_scratch": updates_to_match(points, fmean(truth)),
    }


def _csv(judged: Sequence[Judged]) -> str:
    """Return one line for each architecture: sizes, the scores of each seed and of each slice."""
    rows = []
    for one in judged:
        row: dict[str, Any] = {"params": one.params, "flops": one.flops, "predicted_ms": one.predicted_ms}
        for n, score in enumerate(one.scratch, 1):
            row |= {f"scratch_{n}_loss_base2": score.loss, f"scratch_{n}_bleu": score.bleu}
        for name, score in (one.slices | one.tuned).items():
            key = name.replace(", ", "_").replace(" ", "_")
            row |= {f"{key}_loss_base2": score.loss, f"{key}_bleu": score.bleu}
        rows.append(row | {key: json.dumps(value) for key, value in one.arch.to_yaml().items()})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
