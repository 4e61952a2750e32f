"""Read the folders of a run as they are: nothing in them is trusted, and what is damaged becomes a note."""

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from hat.errors import HatError
from hat.files.cost import Spent, read_cost
from hat.report.elements import DASH
from hat.report.run import Evaluation, Ranking, Search, Training
from hat.space import Arch, ArchOptions, SearchSpace, SpaceOptions, space_from_plain, space_of

Note = Callable[[str], object]
_DEPTH = 2
_NOT_RUNS = {"exp", "tensorboard", "report"}
_DAMAGED = (
    HatError,
    OSError,
    yaml.YAMLError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)


@dataclass(frozen=True)
class Folder:
    """A folder that train.py or evo_search.py wrote."""

    path: Path
    config: Mapping[str, Any]
    version: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]  # of log.jsonl
    cost: Spent | None

    @property
    def is_search(self) -> bool:
        return (
            any(record.get("kind") in ("search", "front") for record in self.records)
            or (self.path / "evaluations.csv").exists()
            or _is_of_search(self.path / "journal.jsonl")
        )

    @property
    def is_training(self) -> bool:
        return any(record.get("kind") in ("train", "valid") for record in self.records)


def run_folders(root: Path, note: Note) -> list[Folder]:
    """Return the folders of trainings and searches at `root` and up to two levels below it."""
    found = []
    for path in _walk(root, _DEPTH):
        if any((path / name).is_file() for name in ("log.jsonl", "journal.jsonl")):
            folder = Folder(
                path,
                read_mapping(path / "config.yml", note),
                read_mapping(path / "version.json", note),
                tuple(_lines(path / "log.jsonl", note)),
                read_cost(path / "cost.json"),
            )
            if folder.is_search or folder.is_training:
                found.append(folder)
    return found


def is_study(root: Path) -> bool:
    """Return whether a folder is that of a rank study or predictor study, not of a search or training."""
    if any((root / name).exists() for name in ("log.jsonl", "evaluations.csv")):
        return False
    journals = sorted(root.glob("journal*.jsonl"))
    return any(record for path in journals for record in _records(path)) and not any(
        map(_is_of_search, journals)
    )


def rankings_of(summary: Mapping[str, Any]) -> tuple[list[Ranking], Ranking | None, str]:
    """Return the rankings of a rank study, its ceiling and what it is of; nothing for another summary."""

    def ranking(name: str, values: object) -> Ranking | None:
        keys = ("kendall_tau", "equal_depth_accuracy", "kendall_tau_bleu")
        return Ranking(name, *(number(values.get(key)) for key in keys)) if isinstance(values, dict) else None

    held = summary.get("rankings")
    named = held.items() if isinstance(held, dict) else ()
    found = [each for each in (ranking(str(name), values) for name, values in named) if each]
    counts = (number(summary.get(name)) for name in ("archs", "seeds"))
    archs, seeds = (DASH if count is None else f"{count:g}" for count in counts)
    what = f"{archs} architectures, {seeds} trainings of each"
    return found, ranking("training from scratch, seed to seed", summary.get("ceiling")), what


def read_mapping(path: Path, note: Note) -> dict[str, Any]:
    """Return what a JSON or YAML file holds; a missing file is empty, a damaged one is noted."""
    if not path.is_file():
        return {}
    try:
        text = path.read_text("utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if isinstance(values, dict):
            return {str(name): value for name, value in values.items()}
        note(f"{path} is left out: it holds no names with values")
    except _DAMAGED as error:
        note(f"{path} is left out: it is damaged ({type(error).__name__})")
    return {}


def number(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def arch_in(values: Mapping[str, Any]) -> Arch | None:
    """Return the architecture of a mapping with the ten keys, or None."""
    try:
        own = {f.replace("_", "-") for f in ArchOptions.__dataclass_fields__}
        return Arch.from_yaml({name: value for name, value in values.items() if name in own})
    except _DAMAGED:
        return None


def space_in(folder: Folder) -> SearchSpace | None:
    """Return the search space of a resolved configuration, or None."""
    values = {f: folder.config.get(f.replace("_", "-")) for f in SpaceOptions.__dataclass_fields__}
    try:
        given = {f: tuple(v) if isinstance(v, list) else v for f, v in values.items() if v is not None}
        if "encoder_embed_choice" in given:
            return space_of(SpaceOptions(**given))
        journal = folder.path / "journal.jsonl"
        with open(journal, encoding="utf-8") as file:
            return space_from_plain(json.loads(file.readline())["record"]["space"])
    except _DAMAGED:
        return None


def training_of(folder: Folder, name: str) -> Training:
    """Return the curves of a training; a resumed run repeats records, of which the last counts."""
    train: dict[float, float] = {}
    valid: dict[str, dict[float, float]] = {}
    for record in folder.records:
        update = number(record.get("update"))
        for key, value in record.items():
            loss = number(value)
            if update is None or loss is None or not key.endswith("loss_base2"):
                continue
            if record.get("kind") == "train":
                train[update] = loss
            elif record.get("kind") == "valid":
                valid.setdefault(key.removesuffix("_loss_base2"), {})[update] = loss
    return Training(
        name,
        tuple(sorted(train.items())),
        {key: tuple(sorted(points.items())) for key, points in valid.items()},
    )


def searches_of(folder: Folder, summary: Mapping[str, Any], name: str, note: Note) -> list[Search]:
    """Return the searches of a folder, one for each limit or front; the first has all that was scored."""
    steps: dict[tuple[str, float | None], dict[float, dict[str, float]]] = {}
    for record in folder.records:
        update = number(record.get("update"))
        if record.get("kind") in ("search", "front") and update is not None:
            values = {key: found for key, v in record.items() if (found := number(v)) is not None}
            which = (str(record["kind"]), values.get("constraint_ms"))
            steps.setdefault(which, {})[update] = values  # a resumed search repeats records
    limits = [number(winner.get("constraint_ms")) for winner in winners_of(summary)]
    limits = limits or [number(folder.config.get("latency-constraint"))]
    known = tuple(dict.fromkeys(limit for limit in limits if limit is not None))
    scored = [each for path in sorted(folder.path.glob("*.csv")) for each in _csv_evaluations(path, note)]
    evaluations = tuple(scored or _journal_evaluations(folder.path / "journal.jsonl", note))
    found = [
        Search(name, known if limit is None else (limit,), tuple(step for _, step in sorted(of.items())))
        for (_, limit), of in steps.items()
    ]
    first, *later = found or [Search(name, known)]
    random, depth = (
        tuple(_journal_evaluations(folder.path / f"{kind}.jsonl", note)) for kind in ("random", "depth")
    )
    return [
        replace(first, evaluations=evaluations, front=_front_of(summary), random=random, depth=depth),
        *later,
    ]


def winners_of(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a search's summary says of each architecture found; older ones hold one at the top."""
    winners = summary.get("winners")
    if isinstance(winners, list):
        return [winner for winner in winners if isinstance(winner, dict)]
    return [summary] if isinstance(summary.get("arch"), dict) else []


def _front_of(summary: Mapping[str, Any]) -> tuple[Evaluation, ...]:
    """Return the front, lowest loss first; every search keeps one, those under limits did not look for it."""
    listed = summary.get("front") if summary.get("mode") == "pareto" else None
    rows = (row for row in listed if isinstance(row, dict)) if isinstance(listed, list) else ()
    found = (each for each in map(_evaluation, rows) if each)
    return tuple(sorted(found, key=lambda each: (each.loss, each.predicted_ms)))


def _journal_evaluations(path: Path, note: Note) -> Iterator[Evaluation]:
    """Yield what a journal holds; `predicted_ms` and `latency_ms` are both names of the prediction."""
    for entry in _lines(path, note):
        record = entry.get("record")
        if isinstance(record, dict) and "loss" in record:
            each = _evaluation(record)
            if each:
                yield each


def _csv_evaluations(path: Path, note: Note) -> Iterator[Evaluation]:
    """Yield the rows of a table of evaluations; other tables hold none."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                values = {str(name): _parsed(value) for name, value in row.items()}
                each = _evaluation(values | {"arch": _csv_arch(row)})
                if each:
                    yield each
    except (OSError, ValueError, csv.Error) as error:
        note(f"{path} is left out: it is damaged ({type(error).__name__})")


def _evaluation(values: Mapping[str, Any]) -> Evaluation | None:
    def first(*names: str) -> float | None:
        return next((found for name in names if (found := number(values.get(name))) is not None), None)

    loss = first("loss")
    predicted = first("predicted_ms", "predicted", "latency_ms")
    if loss is None or predicted is None:
        return None
    arch = values.get("arch")
    return Evaluation(
        loss,
        predicted,
        first("bound_ms", "bound"),
        first("measured_ms", "measured"),
        arch_in(arch) if isinstance(arch, dict) else None,
    )


def _csv_arch(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ten keys of a row of a table of evaluations, whose lists are JSON; none where damaged."""
    try:
        return {name: json.loads(row[name]) for name in row if str(name).endswith("-subtransformer")}
    except _DAMAGED:
        return {}


def _parsed(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _is_of_search(path: Path) -> bool:
    """Return whether a journal is that of a search: studies keep theirs under the same name."""
    return any(
        record.get("kind") == "hat search" or _evaluation(record) is not None for record in _records(path)
    )


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the records of a journal; what is damaged in it is noted elsewhere."""
    for entry in _lines(path, lambda text: None):
        if isinstance(record := entry.get("record"), dict):
            yield record


def _lines(path: Path, note: Note) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file, one a line; an unfinished last line is left by a kill."""
    if not path.is_file():
        return
    bad = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                yield record
            else:
                bad += line.endswith("\n")
    if bad:
        note(f"{path}: {bad} lines are damaged and left out")


def _walk(root: Path, depth: int) -> Iterator[Path]:
    yield root
    if depth == 0:
        return
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    for name in names:
        if name not in _NOT_RUNS and not name.endswith(".old") and not name.startswith("."):
            yield from _walk(root / name, depth - 1)
