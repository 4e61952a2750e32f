"""How long a run takes to begin: `train.py --help`, and the first batch of a large corpus."""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hat.bench.alternate import Samples, alternate
from hat.bench.corpus import random_pairs
from hat.bench.figure import Figure, Row, Target, median_row
from hat.bench.fresh import run_measured, run_seconds
from hat.bench.machine import describe_machine
from hat.bench.request import BenchOptions


@dataclass(frozen=True)
class StartupConfig:
    """Size of the corpus; the defaults are those of the figure."""

    pairs: int = 1_000_000
    rounds: int = 7
    max_tokens: int = 4096


def startup(threads: int, options: BenchOptions) -> Figure:
    """Time the start of training commands."""
    return time_startup(StartupConfig(options.pairs, options.rounds or StartupConfig.rounds))


def time_startup(cfg: StartupConfig) -> Figure:
    """Return the figure; each call is a fresh process."""
    machine = describe_machine()
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        random_pairs(Path(folder), cfg.pairs)
        samples = alternate(
            {
                "train.py --help": lambda: run_seconds(["train.py", "--help"]),
                "import torch": lambda: run_seconds(["-c", "import torch"]),
                "first batch": lambda: runs.append(
                    run_measured("first_batch", folder=folder, max_tokens=cfg.max_tokens)[0]
                ),
            },
            cfg.rounds,
            warmup=0,
        )
    over = Samples(
        tuple(a - b for a, b in zip(samples["train.py --help"].ms, samples["import torch"].ms, strict=True))
    )
    rows = [median_row(name, one) for name, one in samples.items()]
    rows.append(median_row("train.py --help without import torch", over))
    parts = {"import_s": "its imports", "open_s": "opening and checking the data", "plan_s": "plan and batch"}
    rows += [
        Row(f"first batch, {what}", 1e3 * statistics.median(run[key] for run in runs), "ms")
        for key, what in parts.items()
    ]
    rows.append(Row("first batch, peak memory", max(run["peak_mib"] for run in runs), "MiB"))
    targets = (
        Target("seconds of train.py --help beyond import torch", over.median_ms / 1e3, 0.4),
        Target("seconds to the first batch, imports included", samples["first batch"].median_ms / 1e3, 3.0),
    )
    note = f"{cfg.pairs} pairs of 4 to 30 random words; files are in the page cache after the first round"
    return Figure("startup", machine, tuple(rows), targets, (note,))
