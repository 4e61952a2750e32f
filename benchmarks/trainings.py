"""The trainings that the studies made: a line each in a table that is committed, so none is made twice."""

import csv
import datetime
import hashlib
import io
import json
import lzma
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

import hat
from benchmarks.process import ROOT, info

RESULTS = ROOT / "benchmarks" / "results"
_RESULT = ["shape", "seed", "updates", "loss", "bleu", "chrf", "minutes"]
COLUMNS = ["identity", "study", *_RESULT, "device", "torch", "commit", "date", "note"]


@dataclass(frozen=True)
class TrainingOptions(hat.Options):
    """Trainings"""

    super: str | None = hat.option(None, role="free")
    """SuperTransformer, whose slices are ranked, or trained on"""
    results: str = str(RESULTS)
    """folder of the table of trainings, of translations and pictures"""
    out_dir: str = "runs/study"
    """folder of the trainings; an interrupted study goes on from it"""
    part: int = hat.option(1, low=1)
    """which part of the trainings to do, if several processes share them"""
    parts: int = hat.option(1, low=1)
    """how many parts there are"""
    budget: bool = False
    """print what is left to do and how long it takes, and stop"""


def identity_of(facts: Mapping[str, Any]) -> str:
    """Return a short digest of all that a result depends on; plain values only."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def content_of(path: Path | str) -> str:
    """Return the SHA-256 of a file. A run's own identity is the same however long the run went."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Trainings:
    """The table in `folder`, by default the committed one, and translations of trained models beside it. Loss
    is per target token, base 2, smoothed; BLEU and chrF are 0 to 100; minutes are CPU time of one core.
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
        with FileLock(f"{self.path}.lock"), open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if not file.tell():
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


class Recipe:
    """What all trainings of a study share; a line depends on nothing but this and its own facts."""

    def __init__(self, settings: Any, options: TrainingOptions, study: str, device: torch.device) -> None:
        given, self.options, self.study, self.device = settings.task, options, study, device
        self.space, self.trainings = hat.space_of(settings.space), Trainings(Path(options.results))
        self.config = hat.TrainConfig(settings.model, settings.optim, settings.schedule, batches=given)
        self.dataset = hat.Dataset.load(given.data or "data", given.source_lang, given.target_lang)

    def config_of(self, updates: int, max_lr: float | None = None) -> Any:
        """Return the options of a training of so many updates."""
        schedule = self.config.schedule if max_lr is None else replace(self.config.schedule, max_lr=max_lr)
        return hat.short_training(replace(self.config, schedule=schedule), updates)

    def identity_of(
        self,
        arch: hat.Arch,
        updates: int,
        seed: int,
        source: str | None,
        max_lr: float | None = None,
        **facts: Any,
    ) -> str:
        """Return what a line depends on: the identity of its training, as hat defines it, and `facts`."""
        config = self.config_of(max(updates, 1), max_lr)
        weights = content_of(source) if source else None
        training = hat.Training(arch, self.space, self.dataset, config, seed=seed).identity(weights, 1)
        dtype = str(hat.fast_dtype(self.device))
        return identity_of({"training": training.digest, "updates": updates, "dtype": dtype, **facts})

    def known(self) -> dict[str, dict[str, str]]:
        """Return the lines of the study by identity."""
        return self.trainings.lines(self.study)

    def fit(
        self,
        arch: hat.Arch,
        updates: int,
        seed: int,
        identity: str,
        source: str | None,
        interrupt: Any,
        max_lr: float | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Train from a slice of `source`, or from scratch; returns the result and what a line says of it."""
        out = Path(self.options.out_dir) / identity
        how: dict[str, Any] = {"space": self.space, "init": source, "out": out, "device": self.device}
        how |= {"seed": seed, "interrupt": interrupt}
        result = hat.fit(arch, self.dataset, self.config_of(updates, max_lr), **how)
        cost = hat.read_record(out, folder=True).cost
        minutes = f"{cost.cpu_s / 60:.2f}" if cost and cost.cpu_s is not None else ""
        note = "from its slice" if source else "from scratch"
        return result, {"seed": seed, "updates": updates, "minutes": minutes, "note": note}

    def keep(self, identity: str, **row: Any) -> None:
        """Add a line, and remove the weights that it is of."""
        self.trainings.add(identity, study=self.study, **row)
        for weights in (Path(self.options.out_dir) / identity).glob("*.pt*"):
            weights.unlink()


def work_off(left: Sequence[Any], train: Callable[[Any, Any], object]) -> int:
    """Train each of what is left; returns 0, or the exit code of the signal that stopped it."""
    with hat.Interrupt() as interrupt:
        for cell in left:
            train(cell, interrupt)
            if interrupt.asked is not None:
                info("stopped; the same command goes on from here")
                return 128 + int(interrupt.asked)
    return 0
