"""A row of the latency dataset against the release's fixed 25 iterations of the same decode."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from hat.bench.device import CPU, device_named
from hat.bench.figure import Figure, Row, Target
from hat.bench.machine import Machine, describe_machine
from hat.bench.request import BenchOptions
from hat.bench.spaces import MULTI30K, WMT14
from hat.latency.measure import (
    TOGETHER,
    Anchor,
    MeasureConfig,
    Timing,
    anchor_of,
    measure_in_turn,
    sync_of,
    workload,
)
from hat.model.cpu import fast_dtype
from hat.model.extract import extract
from hat.model.layers import ModelConfig
from hat.model.transformer import SubTransformer, SuperTransformer
from hat.rng import rng_for
from hat.space import SearchSpace, sample


@dataclass(frozen=True)
class Task:
    """What the rows of one task are measured with, as in its configuration."""

    space: SearchSpace
    vocab_size: int
    length: int


TASKS = {"multi30k": Task(MULTI30K, 7960, 17), "wmt14": Task(WMT14, 32768, 30)}
WARMUP, ITERATIONS = 5, 20  # the release's recipe
LONG = 300  # iterations of the run that is taken as the truth
NEAR_PERCENT = 2.0


@dataclass(frozen=True)
class RowResult:
    """One architecture, measured in the three ways; seconds are wall clock, medians in milliseconds.

    Our median and that of the long run are given at the anchor's reference speed, as in a dataset.
    """

    ours: Timing
    ours_s: float  # its share of the rows that were measured in turn
    recipe_s: float
    recipe_ms: float
    long: Timing

    @property
    def met(self) -> bool:
        """Return whether the 95% interval of our median is at most 2% to either side."""
        return self.ours.total.interval_percent <= NEAR_PERCENT

    @property
    def apart_percent(self) -> float:
        """Return how far our median is from that of the long run."""
        return 100 * abs(self.ours.total.median_ms / self.long.total.median_ms - 1)

    @property
    def recipe_apart_percent(self) -> float:
        """Return how far the mean of the recipe is from the median of the long run."""
        return 100 * abs(self.recipe_ms / self.long.total.median_ms - 1)


@dataclass(frozen=True)
class LatencyRowConfig:
    """How many rows of what; the defaults are those of the figure."""

    task: Task = TASKS["multi30k"]
    rows: int = 40
    together: int = TOGETHER
    beam: int = 5
    long: int = LONG
    seed: int = 1
    device: torch.device = CPU

    @property
    def how(self) -> MeasureConfig:
        """Return how a row is measured."""
        return MeasureConfig(self.task.length, self.task.length, self.beam, interval_percent=NEAR_PERCENT)


def latency_row(threads: int, options: BenchOptions) -> Figure:
    """Measure random rows; torch has `threads` threads already."""
    device = device_named(options.device)
    return time_rows(
        LatencyRowConfig(TASKS[options.row_task], options.rows, seed=options.seed, device=device)
    )


@torch.inference_mode()
def time_rows(cfg: LatencyRowConfig) -> Figure:
    """Return the figure of `cfg`."""
    machine = describe_machine(cfg.device)
    sync = sync_of(cfg.device)
    noise = torch.Generator().manual_seed(cfg.seed)
    dtype = fast_dtype(cfg.device)
    space = cfg.task.space
    model_cfg = ModelConfig(share_all_embeddings=True)
    full = SuperTransformer(space, cfg.task.vocab_size, model_cfg, noise).to(cfg.device, dtype)
    draw = rng_for(cfg.seed, "latency-row")
    ends = (extract(full, arch).eval() for arch in (space.largest(), space.smallest()))
    anchor = anchor_of(*ends, cfg.how)
    results: list[RowResult] = []
    cut_s = []
    for start in range(0, cfg.rows, cfg.together):
        models = []
        for _ in range(start, min(cfg.rows, start + cfg.together)):
            begin = time.perf_counter()
            models.append(extract(full, sample(space, draw)).eval())
            sync()
            cut_s.append(time.perf_counter() - begin)
        results += some_rows(models, cfg, anchor, ours_first=start // cfg.together % 2 == 0)
    return _figure(cfg, results, statistics.median(cut_s), machine)


def some_rows(
    models: Sequence[SubTransformer], cfg: LatencyRowConfig, anchor: Anchor, *, ours_first: bool
) -> list[RowResult]:
    """Measure some models: our way and the release's, then long."""
    long = replace(
        cfg.how, max_iterations=cfg.long, min_iterations=cfg.long, interval_percent=0.0, budget_s=math.inf
    )
    found: list[Timing] = []
    ours: Callable[[], object] = lambda: found.extend(measure_in_turn(models, cfg.how, anchor))  # noqa: E731
    means: list[float] = []
    sync = sync_of(cfg.device)
    runs = [fixed_iterations(model, cfg.how, sync) for model in models]
    recipe: Callable[[], object] = lambda: means.extend(run() for run in runs)  # noqa: E731
    if ours_first:
        ours_s, recipe_s = _seconds(ours, sync), _seconds(recipe, sync)
    else:
        recipe_s, ours_s = _seconds(recipe, sync), _seconds(ours, sync)
    return [
        RowResult(timing, ours_s / len(models), recipe_s / len(models), mean, truth)
        for timing, mean, truth in zip(found, means, measure_in_turn(models, long, anchor), strict=True)
    ]


def fixed_iterations(
    model: SubTransformer, how: MeasureConfig, sync: Callable[[], None]
) -> Callable[[], float]:
    """Return the release's recipe on the decode we time; it returns milliseconds.

    5 warm-ups and 20 iterations, encoder and search apart.
    """

    @torch.inference_mode()
    def run() -> float:
        work = workload(model, how)  # each row packs the weights of its own model, in ours as well
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


def _figure(cfg: LatencyRowConfig, results: list[RowResult], cut_s: float, machine: Machine) -> Figure:
    ours = [one.ours_s for one in results]
    recipe = [one.recipe_s for one in results]
    met = 100 * sum(one.met for one in results) / len(results)
    recipe_near = 100 * sum(one.recipe_apart_percent <= NEAR_PERCENT for one in results) / len(results)
    near = 100 * sum(one.apart_percent <= NEAR_PERCENT for one in results) / len(results)
    rows = (
        Row("a row at +-2%", statistics.fmean(ours), "s", *_range(ours), len(ours)),
        Row("the release's 5 + 20 iterations", statistics.fmean(recipe), "s", *_range(recipe), len(recipe)),
        Row("cutting the model out, in both", cut_s, "s"),
        Row("iterations of a row", statistics.fmean(one.ours.total.count for one in results), "iterations"),
        Row(
            "latency, median of the rows",
            statistics.median(one.long.total.median_ms for one in results),
            "ms",
        ),
        Row("largest half-interval of a row", max(one.ours.total.interval_percent for one in results), "%"),
        Row(
            f"largest half-interval of {cfg.long} iterations",
            max(one.long.total.interval_percent for one in results),
            "%",
        ),
        Row(f"rows of the recipe within 2% of {cfg.long} iterations", recipe_near, "%"),
        Row(f"largest distance to {cfg.long} iterations", max(one.apart_percent for one in results), "%"),
    )
    targets = (
        Target("seconds of a row / seconds of the release's recipe", sum(ours) / sum(recipe), 1.0),
        Target("rows whose interval is met, %", met, 95.0, at_most=False),
        Target(f"rows within 2% of {cfg.long} iterations, %", near, 95.0, at_most=False),
    )
    enc = cfg.task.space.encoder
    note = (
        f"{len(results)} random rows of the space {enc.super_embed_dim}/{enc.super_ffn_dim}, vocabulary "
        f"{cfg.task.vocab_size}, {cfg.task.length} tokens, beam {cfg.beam}; the recipe times the same "
        "encoder and the same search"
    )
    return Figure("latency-row", machine, rows, targets, (note,))


def _range(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)
