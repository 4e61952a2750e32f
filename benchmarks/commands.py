"""Whole commands in fresh processes: preprocessing at two sizes, and how long a training takes to begin."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.data import MULTI30K, PIECES, random_task, repeat_lines, tatoeba_pieces
from benchmarks.process import fresh_call, seconds_of
from benchmarks.timing import Figure, Row, Samples, Target, median_row

SMALL_PAIRS = 10_000  # of the small corpus of preprocess


def preprocess(options: timing.Options, threads: int) -> Figure:
    """Preprocess Tatoeba, repeated; as many workers as threads."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prefix = tatoeba_pieces(options, folder)
        return time_preprocessing(prefix, folder, SMALL_PAIRS, options.pairs, options.rounds or 1, threads)


def time_preprocessing(
    prefix: Path, folder: Path, small: int, large: int, rounds: int, workers: int
) -> Figure:
    """Return the figure on the text at `prefix`, which is split into subwords already."""
    machine = timing.describe_machine()
    found: dict[int, list[dict[str, Any]]] = {small: [], large: []}

    def work(pairs: int) -> None:
        text, out = (str(folder / f"{name}{pairs}") for name in ("text", "out"))
        run = fresh_call("work:preprocessing", text=text, folder=out, workers=workers)
        found[pairs].append(run)

    for pairs in found:
        repeat_lines(prefix, pairs, folder / f"text{pairs}")
    timing.alternate({str(pairs): lambda pairs=pairs: work(pairs) for pairs in found}, rounds, warmup=0)
    rows, seconds, peaks = [], {}, {}
    for pairs, runs in found.items():
        seconds[pairs] = Samples(tuple(1e3 * run["seconds"] for run in runs))
        peaks[pairs] = [max(run[key] for run in runs) for key in ("peak_mib", "worker_mib")]
        each_s = seconds[pairs].median_ms / 1e3 * workers
        rows += [
            Row(f"{pairs} pairs", each_s / workers, "s"),
            Row(f"{pairs} pairs, sentences of both sides", 2 * pairs / each_s, "sentences/s per worker"),
            Row(f"{pairs} pairs", runs[0]["tokens"] / each_s, "tokens/s per worker"),
            Row(f"{pairs} pairs, before the work", runs[0]["start_mib"], "MiB"),
            Row(f"{pairs} pairs, peak", peaks[pairs][0], "MiB"),
            Row(f"{pairs} pairs, peak of a worker", peaks[pairs][1], "MiB"),
        ]
    each = timing.ratio(seconds[large], seconds[small]) / (large / small)
    memory = max(more / max(less, 1.0) for more, less in zip(peaks[large], peaks[small], strict=True))
    targets = (
        Target(f"time of a pair at {large} / at {small}", each, 1.1),
        Target(f"peak memory at {large} / at {small}", memory, 1.25),
    )
    note = f"{workers} workers, joined dictionary, Tatoeba English-German, repeated, in {PIECES} pieces"
    return Figure("preprocess", machine, rows, targets, [note])


def startup(options: timing.Options, threads: int) -> Figure:
    """Time the start of training commands; each call is a fresh process."""
    machine = timing.describe_machine()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        random_task(data, options.pairs)

        def train() -> None:
            words = [f"--configs={MULTI30K}", f"--data={data}", f"--save-dir={folder}/run{len(runs)}"]
            words += ["--no-tensorboard", "--no-progress-bar", "--cpu"]
            runs.append(fresh_call("work:first_step", arguments=words, started=time.monotonic()))

        cases = {
            "train.py --help": lambda: seconds_of(["train.py", "--help"]),
            "import torch": lambda: seconds_of(["-c", "import torch"]),
            "first batch": train,
        }
        samples = timing.alternate(cases, options.rounds or 5, warmup=0)
    # until the step begins: what ends the process afterwards is no part of a start
    samples["first batch"] = Samples(tuple(1e3 * run["total_s"] for run in runs))
    pairs = zip(samples["train.py --help"].ms, samples["import torch"].ms, strict=True)
    over = Samples(tuple(helped - bare for helped, bare in pairs))
    rows = [median_row(name, one) for name, one in samples.items()]
    rows.append(median_row("train.py --help without import torch", over))
    names = ("start of Python", "its imports", "options, data, model, batches")
    for key, what in zip(("python_s", "import_s", "run_s"), names, strict=True):
        rows.append(Row(f"first batch, {what}", 1e3 * statistics.median(run[key] for run in runs), "ms"))
    rows.append(Row("first batch, peak memory", max(run["peak_mib"] for run in runs), "MiB"))
    targets = (
        Target("seconds of train.py --help beyond import torch", over.median_ms / 1e3, 0.4),
        Target("seconds of train.py to its first batch", samples["first batch"].median_ms / 1e3, 3.0),
    )
    note = (
        f"first batch: train.py for the Multi30k SuperTransformer on {options.pairs} pairs of 4 to 30 random "
        "words, in a fresh process on the CPU, until it begins its first step"
    )
    return Figure("startup", machine, rows, targets, [note])
