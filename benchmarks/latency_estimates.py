"""Which estimate of a latency survives a busy machine: the same models timed in turn under several loads."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hat
from benchmarks.process import ROOT, info
from benchmarks.timing import describe_machine

Floats = NDArray[np.float64]
SPACE = ROOT / "configs/toy.en-de/supertransformer/space0.yml"
VOCAB_SIZE, LENGTH, ARCHS = 1000, 12, 12  # the last: beside the anchor
LOADS = {  # what helper processes do, one word each
    "quiet": (),
    "one-busy": ("spin",),
    "both-busy": ("spin", "spin"),
    "bursts": ("burst", "burst"),
    "memory": ("copy",),
    "quiet-again": (),
}
HELPER = """
import os, random, sys, time
work, parent, rng, block = sys.argv[1], os.getppid(), random.Random(os.getpid()), bytearray(1 << 26)
while os.getppid() == parent:
    busy_s, idle_s = (rng.uniform(1, 10), rng.uniform(1, 10)) if work == "burst" else (0.2, 0)
    end = time.monotonic() + busy_s
    while time.monotonic() < end and os.getppid() == parent:
        bytes(block) if work == "copy" else sum(range(100_000))
    time.sleep(idle_s)
"""
ESTIMATES: dict[str, Callable[[Floats, Floats], float]] = {  # of ms [rounds, parts], and of the anchor's
    "lower decile of each step": lambda ms, _: float(np.quantile(ms, 0.1, axis=0).sum()),
    "minimum of each step": lambda ms, _: float(ms.min(0).sum()),
    "minimum": lambda ms, _: float(ms.sum(1).min()),
    "mean of the fastest tenth": lambda ms, _: float(np.sort(ms.sum(1))[: max(1, len(ms) // 10)].mean()),
    "lower quartile": lambda ms, _: float(np.quantile(ms.sum(1), 0.25)),
    "median": lambda ms, _: float(np.median(ms.sum(1))),
    "median of the ratio to the anchor": lambda ms, anchor: float(np.median(ms.sum(1) / anchor)),
    "minimum of the ratio to the anchor": lambda ms, anchor: float(np.min(ms.sum(1) / anchor)),
}


@dataclass(frozen=True)
class EstimateOptions(hat.Options):
    """Estimates"""

    seconds: float = hat.option(30.0, above=0)
    """how long each load is measured"""
    rounds: int = hat.option(20, low=1)
    """how many rounds an estimate is taken from"""
    out_dir: str = "runs/latency_estimates"
    """folder of the timings (JSON, one file a load), which are not measured again"""


@contextmanager
def helpers(works: Sequence[str]) -> Iterator[None]:
    """Keep processes busy beside the body; they end with it, or with this process."""
    running = [subprocess.Popen([sys.executable, "-c", HELPER, work]) for work in works]
    try:
        time.sleep(1.0 if running else 0.0)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def timings(works: Sequence[Any], seconds: float) -> list[list[list[float]]]:
    """Return ms [rounds][models][parts] of the parts of each search: encoder, start, decoder steps."""
    rounds, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(rounds) < 3:
        taken = []
        for work in works:
            times = [time.perf_counter()]
            work(lambda times=times: times.append(time.perf_counter()))
            times.append(time.perf_counter())
            taken.append([round(1e3 * (end - start), 4) for start, end in pairwise(times)])
        rounds.append(taken)
    return rounds


def models() -> list[Any]:
    """Return what is timed: the largest and the smallest architecture, the anchor, and random ones."""
    torch.set_num_threads(1)
    hat.keep_pages()
    space, noise = hat.SearchSpace.from_yaml(SPACE), torch.Generator().manual_seed(1)
    full = hat.SuperTransformer(space, VOCAB_SIZE, hat.ModelConfig(share_all_embeddings=True), noise)
    full, rng = full.to(hat.fast_dtype(torch.device("cpu"))), hat.rng_for(1, "latency-estimates")
    archs = dict.fromkeys((space.largest(), space.smallest()))
    while len(archs) < ARCHS + 2:
        archs[hat.sample(space, rng)] = None
    how = hat.MeasureConfig(LENGTH, LENGTH)
    return [hat.workload(hat.extract(full, arch).eval(), how) for arch in archs]


def compare(ms: dict[str, Floats], count: int) -> list[dict[str, object]]:
    """Return for each estimate and load how far ratios between two models lie from the quiet ones. `ms` holds
    `timings` by load; an estimate is taken from each block of `count` rounds. Mean and mean maximum are in
    percent; tau is Kendall's, over pairs at least 6% apart.
    """
    rows: list[dict[str, object]] = []
    for name, estimate in ESTIMATES.items():

        def values(block: Floats, estimate: Callable[[Floats, Floats], float] = estimate) -> Floats:
            anchor = block[:, :2].sum((1, 2))
            return np.log([estimate(block[:, model], anchor) for model in range(2, block.shape[1])])

        truth = values(ms["quiet"])
        first, second = np.triu_indices(len(truth), 1)
        apart = truth[first] - truth[second]
        for load, all_rounds in ms.items():
            starts = range(0, max(1, len(all_rounds) - count + 1), count)
            found = np.array([values(all_rounds[start : start + count]) for start in starts])
            between = found[:, first] - found[:, second]
            off, clear = 100 * np.abs(between - apart), np.abs(apart) >= np.log(1.06)
            tau = float((np.sign(between) * np.sign(apart))[:, clear].mean())
            row = {"estimate": name, "load": load, "rounds": count}
            rows.append(row | {"mean": off.mean(), "largest": off.max(1).mean(), "tau": tau})
    return rows


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Time all models in turn under each load that is missing; print and keep the comparison."""
    prog = "python -m benchmarks latency-estimates"
    (options,) = hat.parse(argv, EstimateOptions, prog=prog, description=__doc__)
    paths = {load: Path(options.out_dir) / f"{load}.json" for load in LOADS}
    missing = [load for load, path in paths.items() if not path.exists()]
    works = models() if missing else []
    info(f"{len(missing)} loads to measure, about {(len(missing) * (options.seconds + 1) + 2) / 60:.1f} min")
    timings(works, 2.0 if missing else 0.0)  # warm-up
    for load in missing:
        with helpers(LOADS[load]):
            found = timings(works, options.seconds)
        info(f"{load}: {len(found)} rounds of {len(works)} models")
        paths[load].parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": describe_machine(), "load": load, "ms": found}
        hat.write_text_atomic(paths[load], json.dumps(content))
    ms = {load: np.array(json.loads(path.read_text())["ms"]) for load, path in paths.items()}
    rows = compare(ms, options.rounds)
    for row in rows:
        print("  ".join(f"{v:7.2f}" if isinstance(v, float) else f"{v!s:>10}" for v in row.values()))
    return 0
