"""Rows of a latency table measured twice, beside the release's fixed 25 iterations of the same decode."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import hat
from benchmarks import timing
from benchmarks.data import MULTI30K, WMT14
from benchmarks.timing import Row, Target

WARMUP, ITERATIONS = 5, 20  # the release's recipe
NEAR_PERCENT = 3.0  # two measurements of one architecture


TASKS = {"multi30k": (MULTI30K, 7960, 17), "wmt14": (WMT14, 32768, 30)}  # space, vocabulary, length


@torch.inference_mode()
def latency_row(options: timing.Options, threads: int, task: Any = None) -> timing.Figure:
    """Measure random rows of a task; torch has `threads` threads already."""
    (path, vocab_size, length), device = task or TASKS[options.row_task], options.torch_device
    machine, sync = timing.describe_machine(device), hat.sync_of(device)
    space, noise = hat.SearchSpace.from_yaml(path), torch.Generator().manual_seed(options.seed)
    full = hat.SuperTransformer(space, vocab_size, hat.ModelConfig(share_all_embeddings=True), noise)
    full = full.to(device, hat.fast_dtype(device))
    how, draw = hat.MeasureConfig(length, length), hat.rng_for(options.seed, "latency-row")
    models = [hat.extract(full, hat.sample(space, draw)).eval() for _ in range(options.rows)]
    anchor = [hat.workload(hat.extract(full, a).eval(), how) for a in (space.largest(), space.smallest())]
    start = time.perf_counter()
    once, again = (hat.measure_in_turn(models, how, anchor) for _ in range(2))
    row_s = (time.perf_counter() - start) / (2 * len(models))
    recipe = [recipe_s(model, how, sync) for model in models]
    rows, targets = summary_of(once, again, row_s, recipe)
    note = f"random rows, {path.parts[-3]}, vocabulary {vocab_size}, {length} tokens, beam 5, whole searches"
    return timing.Figure("latency-row", machine, rows, targets, [note])


def recipe_s(model: hat.SubTransformer, how: hat.MeasureConfig, sync: Callable[[], None]) -> float:
    """Return the seconds that the release's recipe takes: 20 iterations after 5 warm-ups."""
    work = hat.workload(model, how)  # packs the weights of the model, as ours does
    sync()
    start = time.perf_counter()
    for _ in range(WARMUP + ITERATIONS):
        work(sync)
        sync()
    return time.perf_counter() - start


def summary_of(
    once: Sequence[hat.Timing], again: Sequence[hat.Timing], row_s: float, recipe: Sequence[float]
) -> tuple[list[Row], list[Target]]:
    """Return rows and targets of the figure; both series are compared at one speed of the anchor."""
    pairs = zip(once, again, strict=True)
    found = [(a.at_speed(a.anchor_ms or 0.0), b.at_speed(a.anchor_ms or 0.0)) for a, b in pairs]
    apart = [100 * abs(b.total_ms / a.total_ms - 1) for a, b in found]
    widths = [max(a.interval_percent, b.interval_percent) for a, b in found]
    near = 100 * statistics.fmean(one <= NEAR_PERCENT for one in apart)
    held = 100 * statistics.fmean(one <= width for one, width in zip(apart, widths, strict=True))
    rows = [
        Row("rows", len(once), "rows"),
        Row("a row", row_s, "s"),
        Row("the release's 5 + 20 iterations", statistics.fmean(recipe), "s", min(recipe), max(recipe)),
        Row("repeats of a row", float(once[0].conditions["iterations"]), "repeats"),
        Row("latency, median of the rows", statistics.median(a.total_ms for a in once), "ms"),
        Row("interval, median of the rows", statistics.median(widths), "%"),
        Row("largest distance of two measurements", max(apart), "%"),
        Row("two measurements within their interval", held, "%"),
    ]
    within = f"two measurements within {NEAR_PERCENT:g}%, % of the rows"
    return rows, [Target(within, near, 95.0, at_most=False)]
