"""Work done in a process of its own, whose time and memory are the figure; it imports little by itself."""

import resource
import runpy
import sys
import time
from pathlib import Path

import hat
from benchmarks.process import ROOT


def preprocessing(text: str, folder: str, workers: int) -> dict[str, float]:
    """Preprocess `text`; return seconds, tokens and the peak memory of this process and of its workers."""
    cfg = hat.PreprocessConfig(
        "en", "de", destdir=folder, trainpref=text, joined_dictionary=True, workers=workers
    )
    preprocess = hat.preprocess
    before = peak_mib(resource.RUSAGE_SELF)
    start = time.perf_counter()
    train = preprocess(cfg)["splits"]["train"]
    return {
        "seconds": time.perf_counter() - start,
        "tokens": train["en"]["tokens"] + train["de"]["tokens"],
        "start_mib": before,
        "peak_mib": peak_mib(resource.RUSAGE_SELF),
        "worker_mib": peak_mib(resource.RUSAGE_CHILDREN),
    }


class _Reached(BaseException):
    """The first step of a run begins. No Exception, because the command would catch that."""


def first_step(arguments: list[str], started: float) -> dict[str, float]:
    """Run train.py up to its first training step, which is left out; return seconds. `started` is what
    `time.monotonic`, the same clock in all processes, said when this one was started.
    """
    begun = time.monotonic()
    trainer = hat.Trainer
    imported = time.monotonic()

    def end(*_: object) -> None:
        raise _Reached

    trainer.train_step = end
    sys.argv = ["train.py", *arguments]
    try:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except _Reached:
        reached = time.monotonic()
    except SystemExit as ended:
        raise hat.HatError(f"train.py ended with exit code {ended.code} before its first step") from ended
    return {
        "python_s": begun - started,
        "import_s": imported - begun,
        "run_s": reached - imported,
        "total_s": reached - started,
        "peak_mib": peak_mib(resource.RUSAGE_SELF),
    }


def peak_mib(who: int) -> float:
    """Return the peak resident memory so far, of this process or of its ended children. On Linux the
    process's own mark is read: its count begins with the memory of its parent, and is in KiB, on macOS in
    bytes.
    """
    if who == resource.RUSAGE_SELF and (status := Path("/proc/self/status")).exists():
        mark = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(mark.split()[1]) / 1024
    peak = resource.getrusage(who).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
