"""Call a function in a fresh process: python -m benchmarks.process module:name reads its arguments."""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hat

ROOT = Path(__file__).resolve().parents[1]


def info(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def fresh_call(function: str, /, omp_threads: int | None = None, **arguments: object) -> Any:
    """Return what `function`, written as "module:name" of this package, returns in a process of its own.
    Arguments and result are plain values. `omp_threads` are those of OpenMP and MKL. Raises HatError with the
    last line that the process wrote; all of them follow here on standard error.
    """
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]  # also if this project is not installed
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    if omp_threads:
        environment |= {"OMP_NUM_THREADS": str(omp_threads), "MKL_NUM_THREADS": str(omp_threads)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.process", function],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(done.stderr)
    signal = f"the process was ended by signal {-done.returncode}; was there enough memory?"
    lines = [signal] if done.returncode < 0 else done.stderr.splitlines()
    raise hat.HatError((lines or [f"exit code {done.returncode}"])[-1])


def seconds_of(command: Sequence[str]) -> float:
    """Return the wall-clock seconds of a Python command, started in the folder of train.py."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    with contextlib.redirect_stdout(sys.stderr):
        result = getattr(importlib.import_module(f"benchmarks.{module}"), name)(**json.load(sys.stdin))
    print(json.dumps(result))
