"""Time several cases in turn, A B A B, and keep what was found as rows, targets and figures."""

import datetime
import importlib.metadata
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

import hat

CPU = torch.device("cpu")


class Samples(NamedTuple):
    """What one case took, one entry a round; entry i of two cases were taken one after the other."""

    ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Return the median in milliseconds."""
        return statistics.median(self.ms)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """Return the first and the third quartile in milliseconds."""
        if len(self.ms) < 2:
            return self.ms[0], self.ms[0]
        low, _, high = statistics.quantiles(self.ms, n=4, method="inclusive")
        return low, high


def ratio(one: Samples, other: Samples) -> float:
    """Return the median over rounds of how many times longer `one` took than `other`."""
    return statistics.median(a / b for a, b in zip(one.ms, other.ms, strict=True))


def mean_of(series: Sequence[Mapping[str, Samples]]) -> dict[str, Samples]:
    """Return for each case the mean over several series, round by round."""
    columns = {name: zip(*(one[name].ms for one in series), strict=True) for name in series[0]}
    return {name: Samples(tuple(map(statistics.fmean, column))) for name, column in columns.items()}


def alternate(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    calls: int = 1,
    settle_s: float = 0.0,
    sync: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Samples]:
    """Return the times of all cases, each called in each round; every second round goes backwards.

    In each round a case is called `warmup` times without timing, then `calls` times; the median counts.
    Before, `settle_s` seconds pass: threads of another OpenMP runtime spin for 0.2 s and would take the cores
    from the next case. `sync` waits for the device around each timed call, because a GPU returns at once.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds):
        for name in list(cases)[:: -1 if turn % 2 else 1]:
            if settle_s:
                pause(settle_s)
            for _ in range(warmup):
                cases[name]()
            ms = []
            for _ in range(calls):
                sync()
                start = clock()
                cases[name]()
                sync()
                ms.append(1e3 * (clock() - start))
            taken[name].append(statistics.median(ms))
    return {name: Samples(tuple(ms)) for name, ms in taken.items()}


class Row(NamedTuple):
    """One number; if it is a median, `low` and `high` are the quartiles over the rounds."""

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None


def median_row(name: str, samples: Samples) -> Row:
    """Return the median of a case in milliseconds, with its quartiles."""
    return Row(name, samples.median_ms, "ms", *samples.quartiles_ms)


def rate_row(name: str, samples: Samples, items: int, unit: str) -> Row:
    """Return items a second from the times of a case that handles `items` of them."""
    low, high = (1e3 * items / ms for ms in reversed(samples.quartiles_ms))
    return Row(name, 1e3 * items / samples.median_ms, unit, low, high)


class Target(NamedTuple):
    """A ratio and the limit it has to keep."""

    text: str
    value: float
    limit: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Return whether the value keeps the limit."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


class Figure(NamedTuple):
    """One benchmark: its rows, its targets, what was left out, and the error that ended it early."""

    name: str
    machine: dict[str, Any]
    rows: Sequence[Row] = ()
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    error: str = ""

    def values(self) -> dict[str, Any]:
        """Return plain values for JSON, each target with whether it is met."""
        rows = [row._asdict() for row in self.rows]
        targets = [target._asdict() | {"met": target.met} for target in self.targets]
        return self._asdict() | {"rows": rows, "targets": targets, "notes": list(self.notes)}


def text_of(figure: Mapping[str, Any]) -> str:
    """Return the readable form of `Figure.values()`."""
    facts = ", ".join(f"{name} {value}" for name, value in figure["machine"].items() if value != "")
    lines = [f"{figure['name']} on {facts}"]
    for row in figure["rows"]:
        quartiles = "" if row["low"] is None else f"   ({row['low']:.4g} to {row['high']:.4g})"
        lines.append(f"  {row['name']:<58}{row['value']:>10.4g} {row['unit']}{quartiles}")
    for target in figure["targets"]:
        kept, sign = "met   " if target["met"] else "MISSED", "<=" if target["at_most"] else ">="
        lines.append(f"  {kept} {target['text']}: {target['value']:.3g} ({sign} {target['limit']:g})")
    lines += [f"  note: {note}" for note in figure["notes"]]
    return "\n".join(lines + ([f"  FAILED: {figure['error']}"] if figure["error"] else []))


def describe_machine(device: torch.device = CPU, threads: int | None = None) -> dict[str, Any]:
    """Return what must stand beside a figure so that others can compare: machine, versions, load, date."""
    engines = {name: importlib.util.find_spec(name) is not None for name in ("ctranslate2", "onnxruntime")}
    affinity = getattr(os, "sched_getaffinity", lambda process: range(os.cpu_count() or 1))(0)
    return {
        "gpu": "" if device.type == "cpu" else f"{hat.device_name(device)} CUDA {torch.version.cuda}",
        "cpu": hat.device_name(CPU),
        "cores": len(affinity),  # this process may run on
        "threads": threads or torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # mean number of busy processes over the last minute
        "torch": torch.__version__,
        **{name: importlib.metadata.version(name) if there else "" for name, there in engines.items()},
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ"),
    }


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def formats(device: torch.device) -> tuple[str, str]:
    """Return the names of the fast number format and of fp32. On CPUs the fast one is bf16 even without AMX,
    as the targets say; GPUs without bf16 take fp16.
    """
    return "bf16" if device.type == "cpu" else hat.dtype_name(hat.fast_dtype(device)), "fp32"


@dataclass(frozen=True)
class Options(hat.Options):
    """Figure"""

    threads: tuple[int, ...] = hat.option((), low=1, high=4 * (os.cpu_count() or 1))
    """CPU threads, of preprocess its worker processes; the figure is taken once for each number (default: 1
    and 2 for decode and preprocess, 1 for latency-row, 2 for the others)"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where models, batches and operands lie"""
    rounds: int | None = hat.option(None, low=1)
    """rounds in which all cases are timed in turn (default: by figure)"""
    seed: int = hat.option(1, low=0, high=(1 << 63) - 1)
    """seed of weights, sentences and random architectures"""
    rows: int = hat.option(12, low=1)
    """rows of latency-row"""
    row_task: Literal["multi30k", "wmt14"] = "multi30k"
    """space, vocabulary and length of latency-row"""
    pairs: int = hat.option(1_000_000, low=20_000)
    """pairs of the large corpus of preprocess and startup"""
    data: str = "data/binary/multi30k_en_de"
    """binary data of Multi30k, made from --text if it is missing"""
    text: str = "../shared/data"
    """folder with raw text: multi30k/{train,val,test_2016_flickr}.{en,de} and tatoeba.en-de/train.{en,de}"""
    json: bool = False
    """print one line of JSON last"""

    @property
    def torch_device(self) -> torch.device:
        """Return the device as PyTorch names it."""
        return torch.device(self.device)
