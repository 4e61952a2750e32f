"""Stages of a task: run in order, skip what is up to date, and remember what came out and what it cost.

A stage is a name, the settings and inputs that its result depends on, and a function. It is up to date if
these are what they were, by content, and what it made exists; a stage that was killed goes on.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hat.errors import HatError
from hat.run import Run, cpu_seconds, digest_of, identity_of, read_record


@dataclass(frozen=True)
class Stage:
    """One step of a task.

    Attributes:
        name: unique in its task.
        settings: options that the result depends on.
        inputs: files that the result depends on, by what they are used for.
        outputs: files that must exist afterwards.
        function: does the work and returns its result as plain values.
        state: what the function would go on from when it is started again; it belongs to these inputs only.
        record: run folder or product whose own record knows the cost of all sittings.
        always: the function decides for itself whether there is anything to do.
    """

    name: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Path]
    outputs: Sequence[Path]
    function: Callable[[], Any]
    state: Sequence[Path] = ()
    record: Path | None = None
    always: bool = False

    @property
    def key(self) -> str:
        """Return the SHA-256 of what the stage is made from; "-" stands for an input that is missing."""
        digests = {use: digest_of(path) if path.is_file() else "-" for use, path in self.inputs.items()}
        return identity_of(self.name, self.settings, digests)


class Stages:
    """Runs stages in order and keeps what came out in the record of the task.

    Raises HatError if a stage fails; running again goes on there.
    """

    def __init__(self, run: Run, total: int) -> None:
        self._run, self._total, self._count = run, total, 0
        self.known: dict[str, dict[str, Any]] = run.results.setdefault("stages", {})

    def run(self, stage: Stage) -> Any:
        """Run one stage unless it is up to date; returns its result."""
        self._count += 1
        title = f"stage {self._count} of {self._total}: {stage.name}"
        key, known = stage.key, self.known.get(stage.name, {})
        same = known.get("key") == key
        whole = known.get("seconds") is not None and all(path.exists() for path in stage.outputs)
        if same and whole and not stage.always:
            print(f"{title}: up to date ({known['seconds']:.0f} s when it ran)", flush=True)
            return known["result"]
        print(title, flush=True)
        if not same:
            for path in stage.state:
                _set_aside(path)
        before = known.get("spent", {}) if same else {}
        entry: dict[str, Any] = {"key": key, "seconds": None, "result": None, "spent": before}
        self.known[stage.name] = entry
        self._run.write()
        start, cpu_s, threads = time.perf_counter(), cpu_seconds(), torch.get_num_threads()
        try:
            result = stage.function()
        finally:  # what failed or was interrupted counts: the next try goes on from there
            torch.set_num_threads(threads)  # a stage may have set its own
            wall_s = time.perf_counter() - start
            entry["spent"] = self._spent(stage, before, wall_s, cpu_seconds() - cpu_s)
            self._run.write()
        if missing := [str(path) for path in stage.outputs if not path.exists()]:
            raise HatError(
                f"stage {stage.name} ended without making {', '.join(missing)}; see its output above"
            )
        entry |= {"seconds": round(wall_s, 2), "result": result}
        self._run.write()
        return result

    def _spent(self, stage: Stage, before: Mapping[str, Any], wall_s: float, cpu_s: float) -> dict[str, Any]:
        """Return the cost of all sittings; the record of a stage also knows those that were killed."""
        spent = {
            "wall_s": round(before.get("wall_s", 0.0) + wall_s, 2),
            "cpu_s": round(before.get("cpu_s", 0.0) + cpu_s, 2),
            "sittings": before.get("sittings", 0) + 1,
        }
        own = read_record(stage.record, note=lambda text: None).cost if stage.record else None
        if own:
            spent = {name: max(value, getattr(own, name) or 0) for name, value in spent.items()}
            spent |= {"gpu_s": round(own.gpu_s, 2), "threads": own.threads}
        return spent


def _set_aside(path: Path) -> None:
    """Move what was made from other inputs out of the way, so that a stage does not go on from it."""
    if path.exists():
        old = path.with_name(path.name + ".old")
        shutil.rmtree(old, ignore_errors=True)  # a file is replaced below
        os.replace(path, old)
        print(f"the inputs changed: {path} was moved to {old}", flush=True)


def shell(words: Sequence[str], *, result: bool = False) -> Any:
    """Run a command and show its output; with `result`, its last line is JSON, which is returned instead."""
    env = os.environ | {"PYTHON": sys.executable, "HAT_JSON": "1" if result else ""}
    last = ""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(last)
            sys.stdout.flush()
            last = line
    if process.returncode or not result:
        sys.stdout.write(last)
    if process.returncode:
        raise HatError(
            f"{Path(words[1]).name} failed with exit code {process.returncode}; its message stands above. "
            "The same command goes on from there"
        )
    if not result:
        return None
    try:
        return json.loads(last)
    except ValueError as error:
        raise HatError(f"{words[1]} printed no JSON line last but {last[:80]!r}") from error
