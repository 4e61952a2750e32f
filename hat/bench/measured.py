"""Work done in a process of its own, whose time and memory are the figure: python -m hat.bench.measured."""

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


def first_batch(folder: str, max_tokens: int) -> dict[str, float]:
    """Open a training split, plan its first epoch and make the first batch, all as train.py does."""
    start = time.perf_counter()
    from hat.data.batching import EpochBatches
    from hat.data.pairs import PairDataset
    from hat.train.trainer import Trainer

    assert Trainer  # its imports, torch among them, belong to the start of a run
    imported = time.perf_counter()
    data = PairDataset.load(Path(folder), "train")
    loaded = time.perf_counter()
    batch = next(iter(EpochBatches(data, max_tokens=max_tokens, seed=1, epoch=1)))
    assert batch is not None
    done = time.perf_counter()
    return {
        "import_s": imported - start,
        "open_s": loaded - imported,
        "plan_s": done - loaded,
        "sentences": len(batch),
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
    work = {"preprocessing": preprocessing, "first_batch": first_batch}[request.pop("work")]
    print(json.dumps(work(**request)))
