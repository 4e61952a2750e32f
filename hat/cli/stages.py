"""Run the commands of a task in order, skip what is done and up to date, and remember how long each took."""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hat.errors import HatError
from hat.files.atomic import write_text_atomic
from hat.files.cost import cpu_seconds


@dataclass(frozen=True)
class Stage:
    """One command: what it reads, what it makes, and whether its last line of output is JSON.

    `state` is what the command would go on from when it is started again; it belongs to these inputs only.
    A stage that is `quick` decides for itself whether there is anything to do.
    """

    name: str
    command: Sequence[str]
    inputs: Sequence[Path]
    outputs: Sequence[Path]
    state: Sequence[Path] = ()
    json: bool = True
    quick: bool = False


class StageRunner:
    """Keeps a record of finished stages in a run folder.

    A stage is up to date when its command and the content of its inputs are those of the record and its
    outputs exist. Raises HatError where a command fails; running again goes on there.
    """

    def __init__(self, folder: Path, total: int) -> None:
        self._path = folder / "stages.json"
        self._total = total
        self._count = 0
        self.record: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            try:
                self.record = json.loads(self._path.read_text("utf-8"))
            except ValueError as error:
                raise HatError(
                    f"{self._path} is damaged ({error}); remove it to run the stages again"
                ) from error

    def run(self, stage: Stage) -> Any:
        """Run one stage unless it is up to date; returns the JSON of its last line, or None."""
        self._count += 1
        title = f"[{self._count}/{self._total}] {stage.name}"
        key = self._key(stage)
        known = self.record.get(stage.name)
        whole = known and known["seconds"] is not None and all(path.exists() for path in stage.outputs)
        if known and known["key"] == key and whole and not stage.quick:
            print(f"{title}: up to date ({known['seconds']:.0f} s when it ran)", flush=True)
            return known["result"]
        print(f"{title}\n$ {shlex.join(stage.command)}", flush=True)
        if known is None or known["key"] != key:
            for path in stage.state:
                _set_aside(path)
        same = known["spent"] if known and known["key"] == key and "spent" in known else {}
        entry: dict[str, Any] = {"key": key, "seconds": None, "result": None, "spent": same}
        entry |= {"command": shlex.join(stage.command), "state": [str(path) for path in stage.state]}
        self._remember(stage.name, entry)
        start, cpu = time.perf_counter(), cpu_seconds()
        try:
            result = _run(stage)
        finally:  # what failed or was interrupted counts: the next try goes on from there
            wall_s = time.perf_counter() - start
            entry["spent"] = {
                "wall_s": round(same.get("wall_s", 0.0) + wall_s, 2),
                "cpu_s": round(same.get("cpu_s", 0.0) + cpu_seconds() - cpu, 2),
                "sittings": same.get("sittings", 0) + 1,
            }
            self._remember(stage.name, entry)
        missing = [str(path) for path in stage.outputs if not path.exists()]
        if missing:
            raise HatError(
                f"stage {stage.name} ended without making {', '.join(missing)}; see its output above"
            )
        entry |= {"seconds": round(wall_s, 2), "result": result}
        self._remember(stage.name, entry)
        return result

    def _remember(self, name: str, entry: dict[str, Any]) -> None:
        self.record[name] = entry
        write_text_atomic(self._path, json.dumps(self.record, indent=1) + "\n")

    def seconds(self) -> dict[str, float]:
        """Return how long each stage took when it last ran."""
        return {name: entry["seconds"] for name, entry in self.record.items() if entry["seconds"] is not None}

    def spent(self) -> dict[str, dict[str, float]]:
        """Return wall and CPU seconds of each stage, over all the times it was started with its inputs."""
        return {name: entry["spent"] for name, entry in self.record.items() if entry.get("spent")}

    def _key(self, stage: Stage) -> str:
        digest = hashlib.sha256("\0".join(stage.command).encode())
        for path in stage.inputs:
            digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"-")
        return digest.hexdigest()


def _set_aside(path: Path) -> None:
    """Move what was made from other inputs out of the way, so that a command does not go on from it."""
    if not path.exists():
        return
    old = path.with_name(path.name + ".old")
    if old.is_dir():
        shutil.rmtree(old)
    os.replace(path, old)
    print(f"the inputs changed: {path} was moved to {old}", flush=True)


def _run(stage: Stage) -> Any:
    """Run the command, showing its output; the JSON line is kept, not shown."""
    env = os.environ | {"PYTHON": sys.executable, "HAT_JSON": "1" if stage.json else ""}
    with subprocess.Popen(stage.command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            if last:
                sys.stdout.write(last)
                sys.stdout.flush()
            last = line
        process.wait()
    if process.returncode:
        sys.stdout.write(last)
        raise HatError(
            f"stage {stage.name} failed with exit code {process.returncode}; its message stands above. "
            "The same command goes on from there"
        )
    if not stage.json:
        sys.stdout.write(last)
        return None
    try:
        return json.loads(last)
    except ValueError as error:
        raise HatError(f"stage {stage.name} printed no JSON line last but {last[:80]!r}") from error
