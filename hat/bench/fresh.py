"""Run work in a fresh process and take its wall-clock time."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hat.errors import HatError

ROOT = Path(__file__).resolve().parents[2]


def run_measured(work: str, **arguments: object) -> tuple[dict[str, Any], float]:
    """Return what `hat.bench.measured` says of some work, and the seconds of the whole process."""
    start = time.perf_counter()
    output = _run([sys.executable, "-m", "hat.bench.measured"], json.dumps({"work": work, **arguments}))
    return json.loads(output), time.perf_counter() - start


def run_seconds(command: Sequence[str]) -> float:
    """Return the wall-clock seconds of a Python command, started in the folder of train.py."""
    start = time.perf_counter()
    _run([sys.executable, *command], "")
    return time.perf_counter() - start


def _run(command: Sequence[str], text: str) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise HatError(
            f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}; run "
            "it by itself"
        )
    return done.stdout
