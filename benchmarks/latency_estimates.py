"""Which estimate of a latency survives a busy machine: the same models timed in turn under several loads."""

import csv
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hat
from benchmarks.process import info
from benchmarks.timing import describe_machine

Floats = NDArray[np.float64]
Estimate = Callable[[Floats, Floats], float]  # ms [rounds, parts] of a model, [rounds] of the anchor
BUSY = {  # condition: what helper processes do, one word each
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


@dataclass(frozen=True)
class EstimateOptions(hat.Options):
    """Estimates"""

    space: str = "configs/toy.en-de/supertransformer/space0.yml"
    """YAML of the search space"""
    vocab_size: int = hat.option(1000, low=5)
    """entries of both dictionaries"""
    length: int = hat.option(12, low=2)
    """tokens of source and target"""
    archs: int = hat.option(12, low=2)
    """random architectures; the largest and the smallest are the anchor"""
    seconds: float = hat.option(30.0, above=0)
    """how long each load is measured"""
    loads: tuple[str, ...] = tuple(BUSY)
    """what else runs meanwhile; those that are measured already are not measured again"""
    rounds: tuple[int, ...] = hat.option((5, 15, 30, 60), low=1)
    """how many rounds an estimate is taken from"""
    seed: int = hat.option(1, low=0)
    """seed of weights and architectures"""
    out_dir: str = "runs/latency_estimates"
    """folder of the timings (JSON, one file a load) and of the result, estimates.csv"""


ESTIMATES: dict[str, Estimate] = {
    "lower decile of each step": lambda ms, _: float(np.quantile(ms, 0.1, axis=0).sum()),
    "minimum of each step": lambda ms, _: float(ms.min(0).sum()),
    "minimum": lambda ms, _: float(ms.sum(1).min()),
    "mean of the fastest tenth": lambda ms, _: float(np.sort(ms.sum(1))[: max(1, len(ms) // 10)].mean()),
    "lower quartile": lambda ms, _: float(np.quantile(ms.sum(1), 0.25)),
    "median": lambda ms, _: float(np.median(ms.sum(1))),
    "median of the ratio to the anchor": lambda ms, anchor: float(np.median(ms.sum(1) / anchor)),
    "minimum of the ratio to the anchor": lambda ms, anchor: float(np.min(ms.sum(1) / anchor)),
}


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
            times: list[float] = []
            mark = partial(_append_time, times)
            mark()
            work(mark)
            mark()
            taken.append([round(1e3 * (end - start), 4) for start, end in pairwise(times)])
        rounds.append(taken)
    return rounds


def _append_time(times: list[float]) -> None:
    times.append(time.perf_counter())


def measure(options: EstimateOptions, out: Path) -> None:
    """Time all models in turn under each load that `out` does not hold yet."""
    missing = [name for name in options.loads if not path_of(out, name).exists()]
    if not missing:
        return
    torch.set_num_threads(1)
    hat.keep_pages()
    space, noise = hat.SearchSpace.from_yaml(options.space), torch.Generator().manual_seed(options.seed)
    full = hat.SuperTransformer(space, options.vocab_size, hat.ModelConfig(share_all_embeddings=True), noise)
    full, rng = full.to(hat.fast_dtype(torch.device("cpu"))), hat.rng_for(options.seed, "latency-estimates")
    archs = dict.fromkeys((space.largest(), space.smallest()))
    while len(archs) < options.archs + 2:
        archs[hat.sample(space, rng)] = None
    how = hat.MeasureConfig(options.length, options.length)
    works = [hat.workload(hat.extract(full, arch).eval(), how) for arch in archs]
    timings(works, 2.0)  # warm-up
    for name in missing:
        with helpers(BUSY[name]):
            start = time.monotonic()
            found = timings(works, options.seconds)
        info(f"{name}: {len(found)} rounds of {len(works)} models in {time.monotonic() - start:.0f} s")
        content = {"machine": describe_machine(), "load": name, "ms": found}
        hat.write_text_atomic(path_of(out, name), json.dumps(content))


def path_of(out: Path, load: str) -> Path:
    """Return the file with the timings under a load."""
    return out / f"{load}.json"


def compare(ms: dict[str, Floats], rounds: Sequence[int]) -> list[dict[str, object]]:
    """Return for each estimate, load and number of rounds how ratios differ from the quiet ones, in percent.

    `ms` holds `timings` by load. Of all blocks of so many consecutive rounds: `shift`, how much slower all
    models look; `error` and `largest`, mean and maximum of how far ratios between two models are off; `tau`,
    Kendall's tau over pairs at least 6% apart; `again`, the 95th percentile of how far two blocks of one load
    lie apart for one model.
    """
    rows: list[dict[str, object]] = []
    for name, estimate in ESTIMATES.items():

        def values(block: Floats, estimate: Estimate = estimate) -> Floats:
            anchor = block[:, :2].sum((1, 2))
            return np.log([estimate(block[:, model], anchor) for model in range(2, block.shape[1])])

        truth = values(ms["quiet"])
        near = np.abs(truth[:, None] - truth) >= np.log(1.06)
        for load, count in itertools.product(ms, rounds):
            starts = range(0, len(ms[load]) - count + 1, count)
            if not len(starts):
                continue
            found = np.array([values(ms[load][start : start + count]) for start in starts])
            off = found - truth
            first, second = np.triu_indices(off.shape[1], 1)
            pairs = np.abs(off[:, first] - off[:, second])
            order = np.sign(found[:, :, None] - found[:, None]) * np.sign(truth[:, None] - truth)
            blocks = np.abs(found[:, None] - found[None])[np.triu_indices(len(found), 1)]
            rows.append(
                {
                    "estimate": name,
                    "load": load,
                    "rounds": count,
                    "shift": 100 * off.mean(),
                    "error": 100 * pairs.mean(),
                    "largest": 100 * pairs.max(1).mean(),
                    "tau": order[:, near].mean(),
                    "again": 100 * float(np.quantile(blocks, 0.95)) if len(blocks) else np.nan,
                }
            )
    return rows


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, print and keep the comparison."""
    (options,) = hat.parse(
        argv,
        EstimateOptions,
        prog="python -m benchmarks latency-estimates",
        description="Compare estimates of latencies on quiet and busy cores.",
    )
    if wrong := set(options.loads) - set(BUSY):
        raise hat.ConfigError(
            f"--loads {', '.join(wrong)}: there is no such load; allowed are {', '.join(BUSY)}"
        )
    out = Path(options.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    measure(options, out)
    held = {load: path_of(out, load) for load in BUSY}
    ms = {load: np.array(json.loads(path.read_text())["ms"]) for load, path in held.items() if path.exists()}
    rows = compare(ms, options.rounds)
    with open(out / "estimates.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    for row in rows:
        print("  ".join(f"{v:7.2f}" if isinstance(v, float) else f"{v!s:>10}" for v in row.values()))
    print(f"{os.fspath(out / 'estimates.csv')}: {len(rows)} rows")
    return 0
