"""The figures by name: what each is measured with by default, and the process it is measured in."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from hat.bench.corpus import MissingData
from hat.bench.device import CPU, device_named
from hat.bench.figure import Figure
from hat.bench.fresh import ROOT
from hat.bench.machine import describe_machine
from hat.bench.request import BenchOptions
from hat.errors import CheckpointError, HatError

FIGURES = {  # name: module with a function of that name, threads
    "train-step": ("hat.bench.train_step", (2,)),
    "decode": ("hat.bench.decode", (1, 2)),
    "decode-batch": ("hat.bench.decode", (2,)),
    "latency-row": ("hat.bench.latency_row", (1,)),
    "search-step": ("hat.bench.search_step", (2,)),
    "preprocess": ("hat.bench.preprocess", (1, 2)),
    "startup": ("hat.bench.startup", (2,)),
}


_MODELS = ("train-step", "decode", "decode-batch", "latency-row", "search-step")
COUNTS = {  # option: the figures it counts for, and why not for the others
    "rounds": (
        tuple(name for name in FIGURES if name != "latency-row"),
        "its rows are measured until they are known; give --rows",
    ),
    "seed": (_MODELS, "nothing is drawn by it there"),
    "device": (_MODELS, "they are figures of the CPU"),
    "rows": (("latency-row",), "only latency-row has them"),
    "row_task": (("latency-row",), "only latency-row has tasks"),
    "pairs": (("preprocess", "startup"), "only preprocess and startup have a large corpus"),
    "data": (("decode", "search-step"), "only search-step and the check of decode read it"),
    "text": (("decode", "search-step", "preprocess"), "no text is read there"),
    "quality_checkpoint": (("decode",), "decode checks 8-bit weights with 1 thread on a CPU"),
}
EVERYWHERE = ("rounds", "seed", "device")
HOST = ("preprocess", "startup")  # figures of the CPU, whatever the device


def threads_of(name: str, options: BenchOptions) -> tuple[int, ...]:
    """Return the thread numbers a figure is taken with; one is enough where a GPU computes."""
    default = FIGURES[name][1]
    return options.threads or (default if on_cpu(name, options) else default[:1])


def uncounted(names: Sequence[str], options: BenchOptions) -> list[str]:
    """Return a line for each option that was given and does not count for some of `names`.

    Of all figures together only options are spoken of that one expects everywhere; others have their figure.
    """
    lines = []
    for option, (users, why) in COUNTS.items():
        if getattr(options, option) == getattr(BenchOptions, option):
            continue
        left = [name for name in names if name not in users]
        if option == "quality_checkpoint" and not (
            on_cpu("decode", options) and 1 in threads_of("decode", options)
        ):
            left = list(names)
        if left and (option in EVERYWHERE or len(left) == len(names)):
            flag = f"--{option.replace('_', '-')}"
            lines.append(f"{flag} does not count for {', '.join(left)}: {why}")
    return lines


def check_inputs(names: Sequence[str], options: BenchOptions) -> None:
    """Raise CheckpointError where a figure of `names` would miss what it was given, before any is timed."""
    given = options.quality_checkpoint
    if given is not None and "decode" in names and not Path(given).is_file():
        raise CheckpointError(
            f"--quality-checkpoint {given} is no file; give a checkpoint of a Multi30k model, train that "
            "model, or leave it out"
        )


def failed(name: str, threads: int, error: HatError) -> Figure:
    """Return what is recorded of a figure that could not be taken."""
    return Figure(name, replace(describe_machine(), threads=threads), (), error=str(error))


def on_cpu(name: str, options: BenchOptions) -> bool:
    """Return whether a figure is taken on the CPU."""
    return options.device == "cpu" or name in HOST


def take(name: str, threads: int, options: BenchOptions) -> Figure:
    """Return a figure taken in this process; threads are already given by the environment."""
    module = importlib.import_module(FIGURES[name][0])
    figure: Figure
    try:
        figure = getattr(module, name.replace("-", "_"))(threads, options)
    except MissingData as error:  # of this figure; others still run
        device = CPU if on_cpu(name, options) else device_named(options.device)
        return Figure(name, describe_machine(device), (), notes=(f"not taken: {error}",))
    return figure


def take_apart(name: str, threads: int, options: BenchOptions) -> Figure:
    """Return a figure taken in a process of its own, so that no figure disturbs another.

    Raises HatError with what a process that failed says of it.
    """
    here = [str(ROOT), os.environ.get("PYTHONPATH", "")]  # also where this project is not installed
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(path for path in here if path),
    }
    request = json.dumps({"name": name, "threads": threads, "options": asdict(options)})
    done = subprocess.run(
        [sys.executable, "-m", "hat.bench.child"],
        input=request,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise HatError(_error_of(done))
    return Figure.of_values(json.loads(done.stdout.splitlines()[-1]))


def _error_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a process that failed said in its last line, or how it ended where it could say nothing."""
    lines = done.stdout.splitlines()
    if lines and lines[-1].startswith('{"error"'):
        return str(json.loads(lines[-1])["error"])
    if done.returncode < 0:
        return f"the process was ended by signal {-done.returncode}; was there enough memory?"
    return f"the process ended with exit code {done.returncode}; its own message stands on standard error"
