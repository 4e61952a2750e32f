"""The trainings that the studies made: a line each in a table that is committed, so none is made twice."""

import csv
import datetime
import hashlib
import io
import json
import lzma
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

import hat
from benchmarks.process import ROOT

RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = [
    "identity",
    "study",
    "shape",
    "seed",
    "updates",
    "loss",
    "bleu",
    "chrf",
    "minutes",
    "device",
    "torch",
    "commit",
    "date",
    "note",
]


def identity_of(facts: Mapping[str, Any]) -> str:
    """Return a short digest of all that a result depends on; plain values only."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def content_of(path: Path | str) -> str:
    """Return the SHA-256 of a file. A run's own identity is the same however long the run went."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Trainings:
    """The table in `folder`, by default the committed one, and translations of trained models beside it.

    Loss is per target token, base 2, smoothed; BLEU and chrF are 0 to 100; minutes are CPU time of one core.
    Several processes may add lines at once.
    """

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder, self.path = folder, folder / "trainings.csv"

    def lines(self, study: str = "") -> dict[str, dict[str, str]]:
        """Return the lines of a study, or all, by identity; of lines with one identity the last."""
        text = self.path.read_text("utf-8") if self.path.exists() else ""
        rows = csv.DictReader(io.StringIO(text))
        return {row["identity"]: row for row in rows if study in ("", row["study"])}

    def add(self, identity: str, **values: Any) -> None:
        """Append a line; machine, versions and date are filled in."""
        asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
        row = {"device": hat.device_name(torch.device("cpu")), "torch": torch.__version__, "date": date}
        row |= {"identity": identity, "commit": commit, **values}
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            new = not self.path.exists()
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)

    def keep_text(self, identity: str, lines: Sequence[str]) -> None:
        """Keep the translations of a test set, compressed, so that others can compare and score them."""
        path = self.folder / "translations" / f"{identity}.txt.xz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress("".join(f"{line}\n" for line in lines).encode()))

    def text(self, identity: str) -> list[str]:
        """Return the translations that `keep_text` kept."""
        path = self.folder / "translations" / f"{identity}.txt.xz"
        return lzma.decompress(path.read_bytes()).decode().split("\n")[:-1]
