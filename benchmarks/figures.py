"""The figures by name: what each is measured with, and how it is taken in a process of its own."""

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch

import hat
from benchmarks.data import MissingData
from benchmarks.process import fresh_call
from benchmarks.timing import Figure, Options, describe_machine


class Entry(NamedTuple):
    """A figure: its function, the options it reads, what it shows in one line."""

    function: str
    options: str
    does: str


THREADS = {"decode": (1, 2), "preprocess": (1, 2), "latency-row": (1,)}  # 2 for the others
_TIMED = "device rounds seed"
FIGURES = {
    "train-step": Entry("training:train_step", _TIMED, "an update beside its products and plain PyTorch"),
    "decode": Entry("decoding:decode", _TIMED, "a sentence beside products, CTranslate2, ONNX Runtime"),
    "decode-batch": Entry("decoding:decode_batch", _TIMED, "128 sentences beside CTranslate2"),
    "latency-row": Entry("latency_row:latency_row", "device seed rows row_task", "latencies measured twice"),
    "search-step": Entry("search_step:search_step", f"{_TIMED} data text", "scoring beside forward passes"),
    "preprocess": Entry("commands:preprocess", "rounds pairs text", "text to binary data at two sizes"),
    "startup": Entry("commands:startup", "rounds pairs", "time to help and to the first training batch"),
}


def options_of(name: str) -> tuple[str, ...]:
    """Return the options that a figure reads; `all` reads every one."""
    entries = FIGURES.values() if name == "all" else [FIGURES[name]]
    return ("threads", "json", *dict.fromkeys(" ".join(entry.options for entry in entries).split()))


def threads_of(name: str, options: Options) -> tuple[int, ...]:
    """Return the thread numbers a figure is taken with; one is enough if a GPU computes."""
    default, gpu = THREADS.get(name, (2,)), options.device == "cuda" and "device" in FIGURES[name].options
    return options.threads or (default[:1] if gpu else default)


def take_apart(name: str, threads: int, options: Options) -> dict[str, Any]:
    """Return the values of a figure taken in a process of its own, so that no figure disturbs another. A
    figure that fails has its error instead of rows.
    """
    arguments = {"name": name, "threads": threads, "options": asdict(options)}
    try:
        return dict(fresh_call("figures:take", threads, **arguments))
    except hat.HatError as error:
        return Figure(name, describe_machine(threads=threads), error=str(error)).values()


def take(name: str, threads: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a figure taken in this process; if its data is missing, a note says so."""
    torch.set_num_threads(threads)
    hat.keep_pages()  # as all commands do
    chosen = Options(**{key: tuple(v) if isinstance(v, list) else v for key, v in options.items()})
    module, _, function = FIGURES[name].function.partition(":")
    try:
        figure: Figure = getattr(importlib.import_module(f"benchmarks.{module}"), function)(chosen, threads)
    except MissingData as error:
        figure = Figure(name, describe_machine(), notes=(f"not taken: {error}",))
    return figure.values()
