"""Call a function in a fresh process: python -m benchmarks.process reads the call and prints its result."""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hat

ROOT = Path(__file__).resolve().parents[1]


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def fresh_call(function: str, /, omp_threads: int | None = None, **arguments: object) -> Any:
    """Return what `function`, written as "benchmarks.module:name", returns in a process of its own.

    Arguments and result are plain values. `omp_threads` are those of OpenMP and MKL. Raises HatError with
    the error of the function; what the process wrote to standard error then follows here.
    """
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]  # also if this project is not installed
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    if omp_threads:
        environment |= {"OMP_NUM_THREADS": str(omp_threads), "MKL_NUM_THREADS": str(omp_threads)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.process"],
        input=json.dumps({"function": function, "arguments": arguments}),
        capture_output=True,
        text=True,
        env=environment,
    )
    answer = (done.stdout.splitlines() or [""])[-1]
    if done.returncode == 0:
        return json.loads(answer)["result"]
    sys.stderr.write(done.stderr)
    if answer.startswith('{"error"'):
        raise hat.HatError(json.loads(answer)["error"])
    if done.returncode < 0:
        raise hat.HatError(f"the process was ended by signal {-done.returncode}; was there enough memory?")
    raise hat.HatError(
        f"the process ended with exit code {done.returncode}; see its message on standard error"
    )


def seconds_of(command: Sequence[str]) -> float:
    """Return the wall-clock seconds of a Python command, started in the folder of train.py."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise hat.HatError(
            f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}; run "
            "it by itself"
        )
    return time.perf_counter() - start


def answer(request: dict[str, Any]) -> int:
    """Call the function asked for and print its result, or its error, as a line of JSON."""
    module, _, name = request["function"].partition(":")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            result = getattr(importlib.import_module(module), name)(**request["arguments"])
    except hat.HatError as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return 2
    except Exception as error:  # a fault of the project or of the machine: no reason to lose other figures
        traceback.print_exc()
        reason = (str(error).splitlines() or [""])[0]
        print(json.dumps({"error": f"{type(error).__name__}: {reason}; all of it stands on standard error"}))
        return 1
    print(json.dumps({"result": result}))
    return 0


if __name__ == "__main__":
    raise SystemExit(answer(json.load(sys.stdin)))
