"""A row of the latency dataset against the release's fixed 25 iterations of the same decode."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

import hat
from benchmarks import timing
from benchmarks.data import MULTI30K, WMT14
from benchmarks.timing import Row, Target

WARMUP, ITERATIONS = 5, 20  # the release's recipe
NEAR_PERCENT = 2.0
TOGETHER = 8  # rows measured in turn, as in a dataset


class Task(NamedTuple):
    """What the rows of one task are measured with, and the iterations of the run that is the truth."""

    space: Path
    vocab_size: int
    length: int
    long: int = 300


TASKS = {"multi30k": Task(MULTI30K, 7960, 17), "wmt14": Task(WMT14, 32768, 30)}


class Measured(NamedTuple):
    """One architecture, measured in three ways; our medians are at the anchor's reference speed."""

    ours: hat.Timing
    ours_s: float  # wall clock; its share of the rows that were measured in turn
    recipe_s: float
    recipe_ms: float
    long: hat.Timing

    def apart_percent(self, ms: float) -> float:
        """Return how far `ms` is from the median of the long run."""
        return 100 * abs(ms / self.long.total.median_ms - 1)


@torch.inference_mode()
def latency_row(options: timing.Options, threads: int, task: Task | None = None) -> timing.Figure:
    """Measure random rows of a task; torch has `threads` threads already."""
    task, device = task or TASKS[options.row_task], options.torch_device
    machine, sync = timing.describe_machine(device), hat.sync_of(device)
    space, noise = hat.SearchSpace.from_yaml(task.space), torch.Generator().manual_seed(options.seed)
    full = hat.SuperTransformer(space, task.vocab_size, hat.ModelConfig(share_all_embeddings=True), noise)
    full = full.to(device, hat.fast_dtype(device))
    how = hat.MeasureConfig(task.length, task.length, beam=5, interval_percent=NEAR_PERCENT)
    long = replace(how, max_iterations=task.long, min_iterations=task.long, interval_percent=0.0)
    long = replace(long, budget_s=math.inf)
    anchor = hat.anchor_of(*(hat.extract(full, a).eval() for a in (space.largest(), space.smallest())), how)
    draw = hat.rng_for(options.seed, "latency-row")
    found: list[Measured] = []
    for start in range(0, options.rows, TOGETHER):
        count = min(TOGETHER, options.rows - start)
        models = [hat.extract(full, hat.sample(space, draw)).eval() for _ in range(count)]
        ours: list[hat.Timing] = []
        means: list[float] = []
        work: dict[str, Callable[[], object]] = {
            "ours": lambda to=ours, models=models: to.extend(hat.measure_in_turn(models, how, anchor)),
            "recipe": lambda to=means, models=models: to.extend(recipe_ms(m, how, sync) for m in models),
        }
        order = list(work)[:: -1 if start // TOGETHER % 2 else 1]
        each_s = {name: _seconds(work[name], sync) / count for name in order}
        for timed, mean, truth in zip(ours, means, hat.measure_in_turn(models, long, anchor), strict=True):
            found.append(Measured(timed, each_s["ours"], each_s["recipe"], mean, truth))
    rows, targets = summary_of(found, task.long)
    note = (
        f"random rows of the space {space.encoder.super_embed_dim}/{space.encoder.super_ffn_dim}, vocabulary "
        f"{task.vocab_size}, {task.length} tokens, beam 5; the recipe times the same encoder and the same "
        "search; cutting a model out is in neither"
    )
    return timing.Figure("latency-row", machine, rows, targets, [note])


def recipe_ms(model: hat.SubTransformer, how: hat.MeasureConfig, sync: Callable[[], None]) -> float:
    """Return the milliseconds that the release's recipe gives: a mean of 20 iterations after 5 warm-ups."""
    work = hat.workload(model, how)  # packs the weights of the model, as ours does
    times = [_seconds(work.encode, sync) + _seconds(work.decode, sync) for _ in range(WARMUP + ITERATIONS)]
    return 1e3 * statistics.fmean(times[WARMUP:])


def _seconds(run: Callable[[], object], sync: Callable[[], None]) -> float:
    sync()
    start = time.perf_counter()
    run()
    sync()
    return time.perf_counter() - start


def summary_of(found: Sequence[Measured], iterations: int) -> tuple[list[Row], list[Target]]:
    """Return rows and targets of the figure; the long runs had so many iterations."""

    def near(values: Sequence[float]) -> float:
        return 100 * sum(value <= NEAR_PERCENT for value in values) / len(values)

    ours, recipe = [one.ours_s for one in found], [one.recipe_s for one in found]
    widths = [one.ours.total.interval_percent for one in found]
    apart = [one.apart_percent(one.ours.total.median_ms) for one in found]
    many = f"{iterations} iterations"
    rows = [
        Row("rows", len(found), "rows"),
        Row("a row at +-2%", statistics.fmean(ours), "s", min(ours), max(ours)),
        Row("the release's 5 + 20 iterations", statistics.fmean(recipe), "s", min(recipe), max(recipe)),
        Row("iterations of a row", statistics.fmean(one.ours.total.count for one in found), "iterations"),
        Row("latency, median of the rows", statistics.median(r.long.total.median_ms for r in found), "ms"),
        Row("largest half-interval of a row", max(widths), "%"),
        Row(f"recipe within 2% of {many}", near([r.apart_percent(r.recipe_ms) for r in found]), "%"),
        Row(f"largest distance to {many}", max(apart), "%"),
    ]
    targets = [
        Target("seconds of a row / seconds of the release's recipe", sum(ours) / sum(recipe), 1.0),
        Target("rows whose interval is met, %", near(widths), 95.0, at_most=False),
        Target(f"rows within 2% of {many}, %", near(apart), 95.0, at_most=False),
    ]
    return rows, targets
