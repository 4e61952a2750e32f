"""How long a run takes to begin: `train.py --help`, and the first batch of a large corpus."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hat.bench.alternate import Samples, alternate
from hat.bench.corpus import random_task
from hat.bench.figure import Figure, Row, Target, median_row
from hat.bench.fresh import run_measured, run_seconds
from hat.bench.machine import describe_machine
from hat.bench.request import BenchOptions

TASK = "configs/multi30k.en-de/supertransformer/space0.yml"


@dataclass(frozen=True)
class StartupConfig:
    """Size of the corpus; the defaults are those of the figure."""

    pairs: int = 1_000_000
    rounds: int = 7


def startup(threads: int, options: BenchOptions) -> Figure:
    """Time the start of training commands."""
    return time_startup(StartupConfig(options.pairs, options.rounds or StartupConfig.rounds))


def time_startup(cfg: StartupConfig) -> Figure:
    """Return the figure; each call is a fresh process."""
    machine = describe_machine()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        random_task(data, cfg.pairs)

        def train() -> None:
            fresh = Path(folder) / f"run{len(runs)}"
            words = ["--configs", TASK, "--data", str(data), "--save-dir", str(fresh)]
            words += ["--no-tensorboard", "--no-progress-bar", "--cpu"]
            runs.append(run_measured("first_step", arguments=words, started=time.monotonic())[0])

        samples = alternate(
            {
                "train.py --help": lambda: run_seconds(["train.py", "--help"]),
                "import torch": lambda: run_seconds(["-c", "import torch"]),
                "first batch": train,
            },
            cfg.rounds,
            warmup=0,
        )
    # until the step begins: what ends the process afterwards is no part of a start
    samples["first batch"] = Samples(tuple(1e3 * run["total_s"] for run in runs))
    over = Samples(
        tuple(a - b for a, b in zip(samples["train.py --help"].ms, samples["import torch"].ms, strict=True))
    )
    rows = [median_row(name, one) for name, one in samples.items()]
    rows.append(median_row("train.py --help without import torch", over))
    parts = {
        "python_s": "start of Python",
        "import_s": "its imports",
        "run_s": "options, data, model, optimiser and batches",
    }
    rows += [
        Row(f"first batch, {what}", 1e3 * statistics.median(run[key] for run in runs), "ms")
        for key, what in parts.items()
    ]
    rows.append(Row("first batch, peak memory", max(run["peak_mib"] for run in runs), "MiB"))
    targets = (
        Target("seconds of train.py --help beyond import torch", over.median_ms / 1e3, 0.4),
        Target("seconds of train.py to its first batch", samples["first batch"].median_ms / 1e3, 3.0),
    )
    notes = (
        f"{cfg.pairs} pairs of 4 to 30 random words; files are in the page cache after the first round",
        f"first batch: train.py with {TASK} in a fresh process and folder on the CPU, without TensorBoard, "
        "until it begins its first training step",
    )
    return Figure("startup", machine, tuple(rows), targets, notes)
