"""Text to binary data at two sizes: sentences and tokens a second of each worker, and peak memory."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hat.bench.alternate import Samples, alternate, ratio
from hat.bench.corpus import repeat_lines, tatoeba_pieces
from hat.bench.figure import Figure, Row, Target
from hat.bench.fresh import run_measured
from hat.bench.machine import describe_machine
from hat.bench.request import SMALL_PAIRS, BenchOptions


@dataclass(frozen=True)
class PreprocessCase:
    """The sizes compared; the defaults are those of the figure."""

    small: int = SMALL_PAIRS
    large: int = 1_000_000
    rounds: int = 2
    workers: int = 1


def preprocess(threads: int, options: BenchOptions) -> Figure:
    """Preprocess Tatoeba, repeated; as many workers as threads."""
    rounds = options.rounds or PreprocessCase.rounds
    with tempfile.TemporaryDirectory() as folder:
        prefix = tatoeba_pieces(options, Path(folder))
        return time_preprocessing(
            PreprocessCase(large=options.pairs, rounds=rounds, workers=threads), prefix, Path(folder)
        )


def time_preprocessing(cfg: PreprocessCase, prefix: Path, folder: Path) -> Figure:
    """Return the figure on the text at `prefix`, which is split into subwords already."""
    machine = describe_machine()
    found: dict[int, list[dict[str, Any]]] = {cfg.small: [], cfg.large: []}

    def work(pairs: int) -> None:
        text = str(folder / f"text{pairs}")
        out = str(folder / f"out{pairs}")
        found[pairs].append(run_measured("preprocessing", text=text, folder=out, workers=cfg.workers)[0])

    for pairs in found:
        repeat_lines(prefix, pairs, folder / f"text{pairs}")
    alternate({str(pairs): lambda pairs=pairs: work(pairs) for pairs in found}, cfg.rounds, warmup=0)
    seconds = {pairs: Samples(tuple(1e3 * one["seconds"] for one in all_)) for pairs, all_ in found.items()}
    rows = []
    for pairs, samples in seconds.items():
        tokens, first = found[pairs][0]["tokens"], found[pairs][0]
        each_s = samples.median_ms / 1e3 * cfg.workers
        rows += [
            Row(f"{pairs} pairs", samples.median_ms / 1e3, "s", count=cfg.rounds),
            Row(f"{pairs} pairs, sentences of both sides", 2 * pairs / each_s, "sentences/s per worker"),
            Row(f"{pairs} pairs", tokens / each_s, "tokens/s per worker"),
            Row(f"{pairs} pairs, before the work", first["start_mib"], "MiB"),
            Row(f"{pairs} pairs, peak", _peak(found[pairs], "peak_mib"), "MiB"),
            Row(f"{pairs} pairs, peak of a worker", _peak(found[pairs], "worker_mib"), "MiB"),
        ]
    times = ratio(seconds[cfg.large], seconds[cfg.small]) / (cfg.large / cfg.small)
    memory = max(
        _peak(found[cfg.large], key) / max(_peak(found[cfg.small], key), 1.0)
        for key in ("peak_mib", "worker_mib")
    )
    targets = (
        Target(f"time of a pair at {cfg.large} / at {cfg.small}", times, 1.1),
        Target(f"peak memory at {cfg.large} / at {cfg.small}", memory, 1.25),
    )
    note = (
        f"{cfg.workers} workers, joined dictionary, Tatoeba English-German split into {8000} sentencepiece "
        "pieces beforehand and repeated; a token is a piece or the end of a sentence"
    )
    return Figure("preprocess", machine, tuple(rows), targets, (note,))


def _peak(runs: list[dict[str, Any]], key: str) -> float:
    return float(max(run[key] for run in runs))
