"""Reads model files in a process that watches itself, and prints what it saw as JSON lines.

usage: python watched_reader.py FOLDER SEED ROUNDS
FOLDER holds `<reader>-<name>.ok` (read once before, so that lazy imports are done) and `<reader>-<name>.bin`,
the hostile ones. Then those that are ok are read ROUNDS times, mutated each time.
"""

import io
import itertools
import json
import random
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foreign import mutated

from hat.errors import CheckpointError
from hat.files.archive import check_file
from hat.files.tensors import read_foreign
from hat.latency.predictor import LatencyPredictor
from hat.train.checkpoint import load

READERS: dict[str, Callable[[Path], Any]] = {
    "foreign": lambda path: read_foreign(path, path.read_bytes()),
    "checkpoint": load,
    "predictor": LatencyPredictor.load,
    "proof": check_file,
}
_QUIET = ("object.__", "builtins.id", "gc.", "code.__new__", "sys._getframe", "tensor.")


class Watch:
    """Notes the events that Python's audit hook reports while a file is read, but not the reading itself."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.events: list[str] = []
        sys.addaudithook(self._hook)

    def read(self, reader: str, path: Path) -> str:
        """Return "read", or "refused" for a CheckpointError; anything else is raised."""
        modules = set(sys.modules)
        verdict = self._read_once(reader, path)
        new = set(sys.modules) - modules
        if new and all(name.startswith("torch.") for name in new) and not self._acted():
            verdict = self._read_once(reader, path)  # torch needed a module of its own; now it has that
        else:
            self.events += [f"import of {name}" for name in new]
        return verdict

    def _acted(self) -> bool:
        return any(event.startswith(("os.", "subprocess.", "socket.", "shutil.")) for event in self.events)

    def _read_once(self, reader: str, path: Path) -> str:
        self.path, self.events = str(path), []
        try:
            READERS[reader](path)
            return "read"
        except CheckpointError as error:
            text = str(error)
            assert len(text) < 900 and text.isascii() and text.isprintable(), text
            return "refused"
        except ValueError:
            if reader != "proof":
                raise
            return "refused"
        finally:
            self.path = None

    def _hook(self, event: str, args: tuple) -> None:
        if self.path is None or event.startswith(_QUIET):
            return
        if event == "open" and str(args[0]).startswith(self.path) and args[1] in ("r", "rb", None):
            return
        self.events.append(f"{event} {args!r}"[:200])


def inner(content: bytes, rng: random.Random) -> bytes:
    """Return a zip archive with one entry mutated and its checksum right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        pickles = [name for name in old.namelist() if name.endswith("data.pkl")]
        chosen = pickles[0] if rng.random() < 0.8 else rng.choice(old.namelist())
        for name in old.namelist():
            new.writestr(name, mutated(old.read(name), rng) if name == chosen else old.read(name))
    return buffer.getvalue()


def read_all(folder: Path, watch: Watch) -> Iterator[dict]:
    for path in sorted(folder.glob("*.bin")):
        yield {
            "name": path.name,
            "verdict": watch.read(path.name.split("-")[0], path),
            "events": watch.events,
        }


def mutate_all(seeds: list[Path], watch: Watch, seed: int, rounds: int) -> Iterator[dict]:
    rng = random.Random(seed)
    contents = [(path.name.split("-")[0], path.read_bytes()) for path in seeds]
    path = seeds[0].with_name("mutated")
    found: dict[str, Any] = {"read": 0, "refused": 0, "events": []}
    for _ in range(rounds):
        reader, content = rng.choice(contents)
        inside = content.startswith(b"PK") and rng.random() < 0.6
        path.write_bytes(inner(content, rng) if inside else mutated(content, rng))
        found[watch.read(reader, path)] += 1
        found["events"] += watch.events
    yield found


def main() -> None:
    folder = Path(sys.argv[1])
    watch = Watch()
    seeds = sorted(folder.glob("*.ok"))
    for path in seeds:
        assert watch.read(path.name.split("-")[0], path) == "read", path
    for content in (b"", b"PK\x03\x04", b"\x80\x02N."):  # refusals import late, too
        (folder / "refused").write_bytes(content)
        assert [watch.read(name, folder / "refused") for name in READERS if name != "proof"]
    mutations = mutate_all(seeds, watch, int(sys.argv[2]), int(sys.argv[3]))
    for result in itertools.chain(read_all(folder, watch), mutations):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
