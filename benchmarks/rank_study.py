"""How well are architectures ranked before they are trained, and at what share of the cost of training?"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

import hat
from benchmarks.process import info
from benchmarks.trainings import Recipe, TrainingOptions, work_off

STUDY = "ranking"
_POOL = 50  # draws for each architecture that is chosen


@dataclass(frozen=True)
class StudyOptions(TrainingOptions):
    """Study"""

    num_archs: int = hat.option(12, low=2)
    """architectures, spread over decoder depth and size"""
    updates: int = hat.option(1000, low=1)
    """updates of a training from scratch; its loss is the truth"""
    seeds: int = hat.option(2, low=1)
    """trainings of each architecture; the agreement between two of them is the ceiling"""
    short_updates: int = hat.option(100, low=1)
    """updates of the short trainings from slices; successive halving begins with them"""
    ckpt_path: str | None = None
    """latency predictor, for the ranking by predicted latency"""
    out_dir: str = "runs/rank_study"
    """folder of the trainings; an interrupted study goes on from it"""


class Cell(NamedTuple):
    """One loss: of a slice (no updates), or of a training from scratch (no slice) or from a slice."""

    arch: hat.Arch
    updates: int
    seed: int = 0
    from_slice: bool = True


def design(space: hat.SearchSpace, count: int, seed: int) -> list[hat.Arch]:
    """Return `count` architectures: each decoder depth gets its share, the deepest ones what is left over; at
    one depth they are taken at equal steps, ends included, from random ones in the order of their parameters.
    """
    depths = sorted(set(space.decoder.layers_choice), reverse=True)
    chosen = []
    for place, depth in enumerate(depths):
        share = count // len(depths) + (place < count % len(depths))
        narrowed = replace(space, decoder=replace(space.decoder, layers_choice=(depth,)))
        rng = hat.rng_for(seed, "rank design", depth)
        pool = list(dict.fromkeys(hat.sample(narrowed, rng) for _ in range(_POOL * share)))
        if len(pool) < share:
            raise hat.ConfigError(
                f"--num-archs {count} asks for {share} architectures of {depth} decoder layers, {len(pool)} "
                "were found in the space; ask for fewer"
            )
        pool.sort(key=lambda arch: hat.count_params(arch, space))
        places = np.linspace(0, len(pool) - 1, share) if share > 1 else [len(pool) // 2] * share
        chosen += [pool[round(float(at))] for at in places]
    return chosen


class Study(Recipe):
    """The losses that the rankings are made of; each is known from the table, or is trained for."""

    options: StudyOptions

    def __init__(self, settings: Any, options: StudyOptions) -> None:
        self.seed, self.made = settings.device.seed, dict[Cell, str]()
        self.archs = design(hat.space_of(settings.space), options.num_archs, self.seed)
        super().__init__(settings, options, STUDY, hat.device_of(settings.device))

    def identity(self, cell: Cell) -> str:
        """Return what the loss of a cell depends on."""
        if cell not in self.made:
            source = self.options.super if cell.from_slice else None
            self.made[cell] = self.identity_of(cell.arch, cell.updates, cell.seed, source)
        return self.made[cell]

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Return the cells whose loss is not known."""
        known = self.known()
        return [cell for cell in cells if self.identity(cell) not in known]

    def losses(self, cells: Sequence[Cell]) -> list[float]:
        """Return known losses."""
        known = self.known()
        return [float(known[self.identity(cell)]["loss"]) for cell in cells]

    def train(self, cell: Cell, interrupt: Any = None) -> None:
        """Make the loss of a cell known, unless a signal comes first."""
        source, identity = self.options.super if cell.from_slice else None, self.identity(cell)
        if cell.updates:
            given = (cell.arch, cell.updates, cell.seed, identity, source, interrupt)
            result, row = self.fit(*given)
            if result.stopped is not None:
                return
            loss = result.losses["mean"]
        else:
            row = {"note": "slice", "seed": cell.seed, "updates": 0}
            given = (cell.arch, self.space, self.dataset, Path(str(source)), self.config)
            loss = hat.validate(*given, device=self.device).loss
        self.keep(identity, shape=shape_of(cell.arch), loss=f"{loss:.6f}", **row)
        shape, words = shape_of(cell.arch), f"seed {cell.seed}, {cell.updates} updates"
        info(f"{shape}, {row['note']}, {words}: loss {loss:.4f}")

    def rankings(self) -> dict[str, tuple[list[float], float]]:
        """Return for each ranking a value of each architecture, low is good, and the updates that it took.
        Raises KeyError for a loss that is not known.
        """
        archs, updates = self.archs, self.options.short_updates
        found: dict[str, tuple[list[float], float]] = {}
        if self.options.super:
            slices = self.losses([Cell(arch, 0) for arch in archs])
            short = self.losses([Cell(arch, updates, self.seed) for arch in archs])
            ranked = sorted(archs, key=dict(zip(archs, slices, strict=True)).__getitem__)
            spent = [len(archs) * updates]

            def trained(those: Sequence[hat.Arch], count: int) -> list[float]:
                spent.append(len(those) * count)
                cells = [Cell(arch, count, self.seed) for arch in those]
                for cell in self.missing(cells):
                    self.train(cell)
                return self.losses(cells)

            few = hat.SearchConfig(rerank=len(archs), rerank_updates=updates)
            order = hat.halving(ranked, hat.rounds_of(len(archs), few), trained)
            by_slice, by_short = (dict(zip(archs, each, strict=True)) for each in (slices, short))
            left_out = [
                hat.guess_trained(self.space, by_slice, {a: x for a, x in by_short.items() if a != arch})[
                    arch
                ]
                for arch in archs
            ]
            found["slices"] = slices, 0
            found[f"after {updates} updates each"] = short, spent[0]
            found["successive halving"] = [float(order.index(arch)) for arch in archs], sum(spent[1:])
            found["ridge regression, each left out"] = left_out, spent[0]
        found["decoder depth"] = [-float(arch.decoder.num_layers) for arch in archs], 0
        found["parameters"] = [-float(hat.count_params(arch, self.space)) for arch in archs], 0
        length = self.config.batches.sentence_length()  # type: ignore[attr-defined]
        found["FLOPs"] = [-float(hat.count_macs(arch, self.space, length)) for arch in archs], 0
        if self.options.ckpt_path:
            predictor = hat.LatencyPredictor.load(self.options.ckpt_path)
            found["predicted latency"] = [-each for each in predictor.predict_many(archs)], 0
        return found


def shape_of(arch: hat.Arch) -> str:
    """Return layers, widths and mean feed-forward widths of both sides, such as 6-2 256/896 160/512."""
    sides = (arch.encoder, arch.decoder)
    return f"{sides[0].num_layers}-{sides[1].num_layers} " + " ".join(
        f"{side.embed_dim}/{fmean(side.ffn_dims):.0f}" for side in sides
    )


def agreement(
    values: Sequence[float], truth: Sequence[float], archs: Sequence[hat.Arch]
) -> tuple[float, float]:
    """Return Kendall's tau, and the share of pairs of equal decoder depth that both order alike. A tie in
    `values` is no answer for tau, and counts half in the share.
    """
    depths = [arch.decoder.num_layers for arch in archs]
    pairs = [(i, j) for i, j in combinations(range(len(archs)), 2) if depths[i] == depths[j]]
    signs = [(values[i] - values[j]) * (truth[i] - truth[j]) for i, j in pairs if truth[i] != truth[j]]
    share = fmean([0.5 if sign == 0 else float(sign > 0) for sign in signs] or [float("nan")])
    return float(hat.kendall_tau(np.array(values), np.array(truth))), share


def table_of(work: Study) -> str:
    """Return how well each ranking agrees with the truth, in Markdown."""
    options, archs = work.options, work.archs
    seeds = range(work.seed, work.seed + options.seeds)
    truths = [work.losses([Cell(arch, options.updates, seed, False) for arch in archs]) for seed in seeds]
    truth, total = [fmean(each) for each in zip(*truths, strict=True)], options.updates * len(archs)
    pairs = [agreement(one, other, archs) for one, other in combinations(truths, 2)]
    ceiling = tuple(fmean(each) for each in zip(*pairs, strict=True)) if pairs else (1.0, 1.0)
    rows = ["| ranking | tau | of the ceiling | pairs of equal depth | updates of training all |"]
    rows.append("|---|--:|--:|--:|--:|")
    for name, (values, updates) in work.rankings().items():
        tau, share = agreement(values, truth, archs)
        cells = f"{tau:.3f} | {tau / ceiling[0]:.0%} | {share:.3f} | {updates / total:.1%}"
        rows.append(f"| {name} | {cells} |")
    if pairs:
        rows.append(f"| ceiling: seed to seed | {ceiling[0]:.3f} | 100% | {ceiling[1]:.3f} | 100% |")
    rows.append(f"\n{len(archs)} architectures, losses {min(truth):.3f} to {max(truth):.3f}")
    return "\n".join(rows)


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Make every loss that is not in the table yet, and print how well the rankings agree; see --help."""
    settings, options = hat.parse_settings(
        argv,
        StudyOptions,
        prog="python -m benchmarks rank-study",
        description=__doc__,
        config_flags=("--configs", "--sub-configs"),
    )
    if options.super and not Path(options.super).exists():
        raise hat.CheckpointError(f"--super {options.super} does not exist; train that model first")
    if options.part > options.parts:
        raise hat.ConfigError(f"--part {options.part} of --parts {options.parts}: give a part from 1 to that")
    work = Study(settings, options)
    cells = [Cell(arch, 0) for arch in work.archs if options.super]
    cells += [Cell(arch, options.short_updates, work.seed) for arch in work.archs if options.super]
    seeds = range(work.seed, work.seed + options.seeds)
    cells += [Cell(arch, options.updates, seed, False) for seed in seeds for arch in work.archs]
    left = work.missing(cells[options.part - 1 :: options.parts])
    if left:
        updates = sum(cell.updates for cell in left)
        info(f"{len(left)} of {len(cells)} losses are not known; they take {updates} updates")
        probe = hat.fit(left[-1].arch, work.dataset, hat.short_training(work.config, 6), space=work.space)
        info(f"that is about {probe.train_s / 6 * updates / 60:.0f} minutes here")
    if options.budget:
        return 0
    if stopped := work_off(left, work.train):
        return stopped
    if missing := len(work.missing(cells)):
        info(f"this part is done; {missing} losses are left to the others, after which the table is printed")
        return 0
    print(table_of(work))
    if settings.output.json:
        print(json.dumps({name: values for name, (values, _) in work.rankings().items()}))
    return 0
