"""A row of the latency dataset against the release's fixed 25 iterations of the same decode."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import hat
from benchmarks.data import MULTI30K, WMT14
from benchmarks.timing import CPU, Figure, Options, Row, Target, describe_machine, sync_of

WARMUP, ITERATIONS = 5, 20  # the release's recipe
LONG = 300  # iterations of the run that is taken as the truth
NEAR_PERCENT = 2.0
TOGETHER = 8  # rows measured in turn, as in a dataset


@dataclass(frozen=True)
class Task:
    """What the rows of one task are measured with, as in its configuration."""

    space: Path
    vocab_size: int
    length: int


TASKS = {"multi30k": Task(MULTI30K, 7960, 17), "wmt14": Task(WMT14, 32768, 30)}


@dataclass(frozen=True)
class RowConfig:
    """How many rows of what; the defaults are those of the figure."""

    space: hat.SearchSpace
    vocab_size: int
    length: int
    rows: int
    beam: int = 5
    long: int = LONG
    seed: int = 1
    device: torch.device = CPU

    @property
    def how(self) -> hat.MeasureConfig:
        """Return how a row is measured."""
        return hat.MeasureConfig(self.length, self.length, self.beam, interval_percent=NEAR_PERCENT)


@dataclass(frozen=True)
class RowResult:
    """One architecture, measured in three ways; seconds are wall clock, medians in milliseconds.

    Our median and that of the long run are given at the anchor's reference speed, as in a dataset.
    """

    ours: hat.Timing
    ours_s: float  # its share of the rows that were measured in turn
    recipe_s: float
    recipe_ms: float
    long: hat.Timing

    def apart_percent(self, ms: float) -> float:
        """Return how far `ms` is from the median of the long run."""
        return 100 * abs(ms / self.long.total.median_ms - 1)


def latency_row(options: Options, threads: int) -> Figure:
    """Measure random rows; torch has `threads` threads already."""
    task = TASKS[options.row_task]
    space = hat.SearchSpace.from_yaml(task.space)
    return time_rows(
        RowConfig(
            space,
            task.vocab_size,
            task.length,
            options.rows,
            seed=options.seed,
            device=options.torch_device,
        )
    )


@torch.inference_mode()
def time_rows(cfg: RowConfig) -> Figure:
    """Return the figure of `cfg`."""
    machine = describe_machine(cfg.device)
    sync = sync_of(cfg.device)
    noise = torch.Generator().manual_seed(cfg.seed)
    full = hat.SuperTransformer(cfg.space, cfg.vocab_size, hat.ModelConfig(share_all_embeddings=True), noise)
    full = full.to(cfg.device, hat.fast_dtype(cfg.device))
    ends = (hat.extract(full, arch).eval() for arch in (cfg.space.largest(), cfg.space.smallest()))
    runs = hat.anchor_run(*ends, cfg.how)
    anchor = hat.Anchor(runs.run, hat.pace(runs.run, runs.between, sync), runs.steps)
    draw = hat.rng_for(cfg.seed, "latency-row")
    results: list[RowResult] = []
    cut_s: list[float] = []
    for start in range(0, cfg.rows, TOGETHER):
        models: list[hat.SubTransformer] = []
        for _ in range(start, min(cfg.rows, start + TOGETHER)):
            arch = hat.sample(cfg.space, draw)
            cut_s.append(
                _seconds(lambda arch=arch, to=models: to.append(hat.extract(full, arch).eval()), sync)
            )
        results += some_rows(models, cfg, anchor, ours_first=start // TOGETHER % 2 == 0)
    return _figure(cfg, results, statistics.median(cut_s), machine)


def some_rows(
    models: Sequence[hat.SubTransformer], cfg: RowConfig, anchor: hat.Anchor, *, ours_first: bool
) -> list[RowResult]:
    """Measure some models: our way and the release's, then long."""
    sync = sync_of(cfg.device)
    found: list[hat.Timing] = []
    means: list[float] = []
    recipes = [fixed_iterations(model, cfg.how, sync) for model in models]
    work: dict[str, Callable[[], object]] = {
        "ours": lambda: found.extend(hat.measure_in_turn(models, cfg.how, anchor)),
        "recipe": lambda: means.extend(run() for run in recipes),
    }
    order = list(work)[:: 1 if ours_first else -1]
    seconds = {name: _seconds(work[name], sync) / len(models) for name in order}
    long = replace(
        cfg.how, max_iterations=cfg.long, min_iterations=cfg.long, interval_percent=0.0, budget_s=math.inf
    )
    truths = hat.measure_in_turn(models, long, anchor)
    return [
        RowResult(timing, seconds["ours"], seconds["recipe"], mean, truth)
        for timing, mean, truth in zip(found, means, truths, strict=True)
    ]


def fixed_iterations(
    model: hat.SubTransformer, how: hat.MeasureConfig, sync: Callable[[], None]
) -> Callable[[], float]:
    """Return the release's recipe on the decode we time, 5 warm-ups and 20 iterations; it returns ms."""

    @torch.inference_mode()
    def run() -> float:
        work = hat.work_of(model, how)  # each row packs the weights of its own model, in ours as well
        encoder, decoder = [], []
        for _ in range(WARMUP + ITERATIONS):
            encoder.append(_seconds(work.encode, sync))
            decoder.append(_seconds(work.decode, sync))
        return 1e3 * (statistics.fmean(encoder[WARMUP:]) + statistics.fmean(decoder[WARMUP:]))

    return run


def _seconds(run: Callable[[], object], sync: Callable[[], None]) -> float:
    sync()
    start = time.perf_counter()
    run()
    sync()
    return time.perf_counter() - start


def _figure(cfg: RowConfig, results: list[RowResult], cut_s: float, machine: dict[str, Any]) -> Figure:
    def share(kept: list[bool]) -> float:
        return 100 * sum(kept) / len(kept)

    ours, recipe = ([getattr(one, name) for one in results] for name in ("ours_s", "recipe_s"))
    apart = [one.apart_percent(one.ours.total.median_ms) for one in results]
    recipe_apart = [one.apart_percent(one.recipe_ms) for one in results]
    widths = [one.ours.total.interval_percent for one in results]
    many = f"{cfg.long} iterations"
    rows = (
        Row("a row at +-2%", statistics.fmean(ours), "s", min(ours), max(ours), len(ours)),
        Row(
            "the release's 5 + 20 iterations",
            statistics.fmean(recipe),
            "s",
            min(recipe),
            max(recipe),
            len(recipe),
        ),
        Row("cutting the model out, in both", cut_s, "s"),
        Row("iterations of a row", statistics.fmean(one.ours.total.count for one in results), "iterations"),
        Row("latency, median of the rows", statistics.median(r.long.total.median_ms for r in results), "ms"),
        Row("largest half-interval of a row", max(widths), "%"),
        Row(f"largest half-interval of {many}", max(one.long.total.interval_percent for one in results), "%"),
        Row(f"rows of the recipe within 2% of {many}", share([x <= NEAR_PERCENT for x in recipe_apart]), "%"),
        Row(f"largest distance to {many}", max(apart), "%"),
    )
    met, near = (share([value <= NEAR_PERCENT for value in values]) for values in (widths, apart))
    targets = (
        Target("seconds of a row / seconds of the release's recipe", sum(ours) / sum(recipe), 1.0),
        Target("rows whose interval is met, %", met, 95.0, at_most=False),
        Target(f"rows within 2% of {many}, %", near, 95.0, at_most=False),
    )
    enc = cfg.space.encoder
    note = (
        f"{len(results)} random rows of the space {enc.super_embed_dim}/{enc.super_ffn_dim}, vocabulary "
        f"{cfg.vocab_size}, {cfg.length} tokens, beam {cfg.beam}; the recipe times the same encoder and the "
        "same search"
    )
    return Figure("latency-row", machine, rows, targets, (note,))
