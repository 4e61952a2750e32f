"""Measure an architecture again in a fresh process, under the conditions a predictor was trained for."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hat
from hat.errors import HatError

_FLAGS = {
    "threads": "threads",
    "dtype": "lat-amp",
    "vocab_size": "vocab-size",
    "beam": "lat-beam",
    "source_len": "profile-length",
}
_RUN = "import sys; from hat.cli.train import main; sys.exit(main())"


def condition_flags(conditions: Mapping[str, str]) -> list[str]:
    """Return the flags of train.py that measure under the conditions of a latency dataset."""
    return [f"--{flag}={conditions[name]}" for name, flag in _FLAGS.items() if name in conditions]


def remeasure(arch_yaml: Path, configs: str, conditions: Mapping[str, str], *, gpu: bool) -> dict[str, Any]:
    """Return what `train.py --latcpu --json` says of `arch_yaml` in a process of its own.

    `conditions` are those of a latency dataset: threads, dtype, vocab_size, beam and source_len. Raises
    HatError where the process fails, with what it said.
    """
    command = [
        sys.executable,
        "-c",
        _RUN,
        f"--configs={arch_yaml}",
        f"--sub-configs={configs}",
        "--latgpu" if gpu else "--latcpu",
        "--json",
    ]
    command += condition_flags(conditions)
    root = str(Path(hat.__file__).resolve().parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise HatError(f"measuring {arch_yaml} again failed: {done.stderr.strip().splitlines()[-1:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().split("\n")[-1])
    return result
