"""Reads model files in a process that watches itself, and writes what it saw into the file `seen`.

The working folder holds `<reader>-<name>.ok` (read once before, so that lazy imports are done) and the
hostile ones, `<reader>-<name>.bin`. Then those that are ok are read many times, mutated each time.
"""

import io
import json
import random
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foreign import mutated

from hat.errors import CheckpointError
from hat.files.download import check_file
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

    def read(self, path: Path, reader: str = "") -> str:
        """Return "read", or "refused" for a CheckpointError; anything else is raised."""
        reader, modules = reader or path.name.split("-")[0], set(sys.modules)
        verdict = self._read_once(reader, path)
        new = set(sys.modules) - modules
        acted = any(event.startswith(("os.", "subprocess.", "socket.", "shutil.")) for event in self.events)
        if new and all(name.startswith("torch.") for name in new) and not acted:
            return self._read_once(reader, path)  # torch needed a module of its own; now it has that
        self.events += [f"import of {name}" for name in new]
        return verdict

    def _read_once(self, reader: str, path: Path) -> str:
        self.path, self.events = str(path), []
        try:
            READERS[reader](path)
            return "read"
        except CheckpointError as error:
            text = str(error)
            assert len(text) < 900 and text.isascii() and text.isprintable(), text
        except ValueError:
            if reader != "proof":
                raise
        finally:
            self.path = None
        return "refused"

    def _hook(self, event: str, args: tuple) -> None:
        reading = event == "open" and str(args[0]).startswith(str(self.path)) and args[1] in ("r", "rb", None)
        if self.path is not None and not reading and not event.startswith(_QUIET):
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


def main(argv: Sequence[str]) -> int:
    """Read all; the arguments are a seed for the mutations and how many there are."""
    folder, rng, rounds = Path.cwd(), random.Random(argv[0]), int(argv[1])
    warnings.simplefilter("ignore")  # Python reads our source to show one
    watch, seeds = Watch(), sorted(folder.glob("*.ok"))
    seen = []
    for path in seeds:
        assert watch.read(path) == "read", path
    path = folder / "mutated"
    for content in (b"", b"PK\x03\x04", b"\x80\x02N."):  # refusals import late, too
        path.write_bytes(content)
        assert [watch.read(path, name) for name in READERS if name != "proof"]
    for hostile in sorted(folder.glob("*.bin")):
        seen.append({"name": hostile.name, "verdict": watch.read(hostile), "events": watch.events})
    contents = [(seed.name.split("-")[0], seed.read_bytes()) for seed in seeds]
    found: dict[str, Any] = {"read": 0, "refused": 0, "events": []}
    for _ in range(rounds):
        reader, content = rng.choice(contents)
        inside = content.startswith(b"PK") and rng.random() < 0.6
        path.write_bytes(inner(content, rng) if inside else mutated(content, rng))
        found[watch.read(path, reader)] += 1
        found["events"] += watch.events
    (folder / "seen").write_text(json.dumps([*seen, found]))
    return 0
