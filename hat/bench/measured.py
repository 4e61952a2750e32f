"""Work done in a process of its own, whose time and memory are the figure: python -m hat.bench.measured."""

import contextlib
import importlib
import json
import resource
import sys
import time
from pathlib import Path


def preprocessing(text: str, folder: str, workers: int) -> dict[str, float]:
    """Preprocess `text`; returns seconds, tokens and the peak memory of this process and of its workers."""
    from hat.data.preprocess import PreprocessConfig, preprocess

    before = peak_mib(resource.RUSAGE_SELF)
    start = time.perf_counter()
    cfg = PreprocessConfig(
        "en", "de", destdir=folder, trainpref=text, joined_dictionary=True, workers=workers
    )
    train = preprocess(cfg)["splits"]["train"]
    return {
        "seconds": time.perf_counter() - start,
        "tokens": train["en"]["tokens"] + train["de"]["tokens"],
        "start_mib": before,
        "peak_mib": peak_mib(resource.RUSAGE_SELF),
        "worker_mib": peak_mib(resource.RUSAGE_CHILDREN),
    }


class _Reached(BaseException):
    """The first step of a run begins; a user's error would be caught on the way."""


def first_step(arguments: list[str], started: float) -> dict[str, float]:
    """Run train.py up to its first training step, which is left out; returns seconds.

    `started` is what `time.monotonic`, the same clock in all processes, said when this one was started.
    """
    begun = time.monotonic()
    train = importlib.import_module("hat.cli.train")  # as train.py does; no layer below the commands may
    from hat.train.trainer import Trainer

    imported = time.monotonic()

    def end(*_: object) -> None:
        raise _Reached

    Trainer.train_step = end  # type: ignore[method-assign,assignment]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            code = train.main(arguments)
    except _Reached:
        reached = time.monotonic()
    else:
        raise SystemExit(f"train.py ended with exit code {code} before its first step")
    return {
        "python_s": begun - started,
        "import_s": imported - begun,
        "run_s": reached - imported,
        "total_s": reached - started,
        "peak_mib": peak_mib(resource.RUSAGE_SELF),
    }


def peak_mib(who: int) -> float:
    """Return the peak resident memory so far, of this process or of its ended children.

    Linux counts in KiB, macOS in bytes. Linux begins the count of a process with what its parent had when it
    started it, so there the process's own mark is read.
    """
    if who == resource.RUSAGE_SELF and (status := Path("/proc/self/status")).exists():
        mark = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(mark.split()[1]) / 1024
    peak = resource.getrusage(who).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    request = json.load(sys.stdin)
    work = {"preprocessing": preprocessing, "first_step": first_step}[request.pop("work")]
    print(json.dumps(work(**request)))
