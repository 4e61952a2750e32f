"""From the records that runs left in a folder to what a report shows of them.

A report starts from `run.json` (see docs/records.md). That of a task names the folders and records of its
stages; other folders are searched for run.json up to three levels below. Of a run its log, journals and table
are read, and the records of files whose content they vouch for. Nothing in them is trusted: what is damaged
becomes a note, and no path leads out of the folder.
"""

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from hat.errors import DataError, HatError
from hat.files.atomic import file_digest
from hat.model.count import count_macs, count_params, profile_length
from hat.run import Cost, Record, read_record
from hat.search.constraints import in_ms, kept
from hat.space import Arch, SearchSpace, space_from_plain

Values = Mapping[str, Any]
Points = tuple[tuple[float, float], ...]
_DEPTH = 3
_DAMAGED = (HatError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Model:
    """One architecture with what is known of it; None: not known."""

    name: str
    role: str  # largest, smallest, baseline (made by hand) or found
    weights: str  # inherited, trained, or "" if unknown
    arch: Arch | None = None
    params: int | None = None  # of the layers, without embeddings and output matrix
    flops: int | None = None
    size_bytes: int | None = None  # of the stand-alone file
    limit_ms: float | None = None
    predicted_ms: float | None = None
    bound_ms: float | None = None
    measured_ms: float | None = None
    measured_interval_ms: float | None = None  # how far it may be off
    bleu: float | None = None
    signature: str | None = None
    inherited_loss: float | None = None  # validation loss (base 2) with the SuperTransformer's weights
    trained_loss: float | None = None  # with its own

    @property
    def within_limit(self) -> bool | None:
        """Return whether the measured latency keeps to the limit, see `kept`."""
        return kept(self.limit_ms, self.measured_ms, self.measured_interval_ms)

    @classmethod
    def of_row(cls, row: Values) -> "Model":
        """Return the model of a row of a summary."""
        name, known = str(row.get("name")), ("largest", "smallest", "baseline")
        role = next((each for each in known if name.startswith(each)), "found")
        return cls(name, role, str(row.get("weights", "")), _arch(row.get("arch")), **_figures(row))


class Evaluation(NamedTuple):
    """One architecture that a search scored."""

    loss: float
    predicted_ms: float
    bound_ms: float | None = None
    measured_ms: float | None = None
    arch: Arch | None = None


@dataclass(frozen=True)
class Search:
    """One search; steps are its iterations, oldest first."""

    name: str
    limits_ms: tuple[float, ...]
    steps: tuple[Mapping[str, float], ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    front: tuple[Evaluation, ...] = ()  # lowest loss first; of a search for the whole front only


class Training(NamedTuple):
    """One training; points are (update, loss in base 2)."""

    name: str
    train: Points
    valid: Mapping[str, Points]  # by what was validated: largest, smallest, mean, sub


@dataclass
class Report:
    """Everything a report shows; `notes` say what was left out, and why."""

    title: str
    models: list[Model] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    predictor: Values = field(default_factory=dict)  # results of its record: scores, unseen rows, conditions
    stages: list[tuple[str, Cost]] = field(default_factory=list)
    space: SearchSpace | None = None
    machine: dict[str, str] = field(default_factory=dict)
    study: Values = field(default_factory=dict)  # the summary of a ranking study
    notes: list[str] = field(default_factory=list)

    @property
    def winner(self) -> Model | None:
        """Return the found model with the best BLEU, or with the lowest loss if none was translated with."""
        found = [model for model in self.models if model.role == "found"]
        within = [model for model in found if model.within_limit is not False] or found
        scored = [model for model in within if model.bleu is not None]
        if scored:
            return max(scored, key=lambda model: model.bleu or 0.0)
        return min(within, key=lambda model: model.inherited_loss or math.inf, default=None)

    @property
    def found(self) -> str:
        """Return one sentence on what was found."""
        best, largest = self.winner, next((model for model in self.models if model.role == "largest"), None)
        if best is None:
            return ""
        parts, than, ms = list[str](), list[str](), best.measured_ms
        if best.bleu is not None:
            parts.append(f"translates at {best.bleu:.2f} BLEU")
        if ms is not None:
            parts.append(f"takes {in_ms(ms, best.measured_interval_ms)} for a sentence")
        text = f"{best.name} {' and '.join(parts) or 'was found'}"
        if best.limit_ms is not None and ms is not None:
            apart = (
                f"{abs(100 * (ms / best.limit_ms - 1)):.1f}% {'below' if ms <= best.limit_ms else 'above'}"
            )
            text += f", {apart} its limit of {best.limit_ms:g} ms"
            text += ", as far as that can be measured" if best.within_limit is None else ""
        for what, field_ in (("parameters", "params"), ("latency", "measured_ms")) if largest else ():
            if (own := getattr(best, field_)) and (whole := getattr(largest, field_)):
                than.append(f"{100 * own / whole:.0f}% of its {what}")
        if largest and largest.bleu is not None and best.bleu is not None:
            than.append(f"{best.bleu - largest.bleu:+.2f} BLEU")
        return f"{text}; against the largest: {', '.join(than)}." if than else f"{text}."

    @property
    def price(self) -> str:
        """Return one sentence on what all stages took."""
        if not self.stages:
            return ""
        sums = (sum(cost[part] or 0 for _, cost in self.stages) for part in range(3))
        (wall_s, cpu_s, gpu_s), (name, most) = sums, max(self.stages, key=lambda stage: stage[1].wall_s)
        gpu = f" and {gpu_s / 3600:.2f} GPU hours" if gpu_s else ""
        return (
            f"The price: {duration(wall_s)} in {len(self.stages)} stages, {cpu_s / 3600:.2f} CPU core hours"
            f"{gpu}; the longest stage, {name}, took {duration(most.wall_s)}."
        )

    @property
    def shown(self) -> tuple[str, Arch | None]:
        """Return the architecture to show layer by layer: the winner, or the lowest loss of a front."""
        if self.winner:
            return self.winner.name, self.winner.arch
        ends = [search.front[0] for search in self.searches if search.front]
        return "Lowest loss of the front", min(ends, key=lambda each: each.loss).arch if ends else None


@dataclass(frozen=True)
class _Found:
    """A run folder or product with its record."""

    path: Path  # the folder, or the product
    name: str
    kind: str
    record: Record
    log: tuple[Values, ...] = ()
    summary: Values = field(default_factory=dict)

    @property
    def arch(self) -> Arch | None:
        """Return the architecture that was trained."""
        return _arch(self.record.settings) if self.kind == "train" else None

    @property
    def winners(self) -> list[tuple[Values, Arch]]:
        """Return what a search says of each architecture it found."""
        rows = _rows(self.summary.get("winners")) if self.kind == "search" else []
        return [(row, arch) for row in rows if (arch := _arch(row.get("arch")))]


def collect(root: Path) -> Report:
    """Return what `root` holds: a task, search, training, ranking study, or a folder above several.

    Raises DataError if there is none of these. What is damaged or missing becomes a note.
    """
    return _Collector(root).collect()


class _Collector:
    """Reads one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.inside = root, root.resolve()
        self.report = Report(self.inside.name)
        self.note = self.report.notes.append

    def collect(self) -> Report:
        report, found = self.report, list[_Found]()
        own = next(self._runs(self.root), _Found(self.root, "", "", Record("")))
        # of a folder that is a run, only its record tells; a study and a task of version 0.1 have none
        summary = own.record.results if own.kind else self._mapping(self.root / "summary.json")
        stages, rows = _dict(summary.get("stages")), _rows(summary.get("models"))
        if isinstance(plan := summary.get("plan"), list):  # the others are of earlier limits
            stages = {name: stages[name] for name in map(str, plan) if name in stages}
        paths = [self.root / str(place) for e in stages.values() for place in _dict(e).get("places", ())]
        if own.kind != "task":
            paths = [each for f in self._folders() for each in (f, *sorted(f.glob("*.run.json")))]
        for path in paths:
            found += self._runs(path) if path.is_dir() else self._product(path)
        every = [own.record, *(each.record for each in found)]
        facts = [_dict(summary.get("machine")), *({**each.device, **each.versions} for each in every)]
        report.machine = {str(name): str(value) for name, value in next(filter(None, facts), {}).items()}
        if isinstance(summary.get("rankings"), dict):  # its trainings are only means to it
            report.study, report.title = summary, f"Ranking study {report.title}"
            return report
        runs = [each for each in found if each.kind in ("train", "search")]
        if not runs and not rows and not stages:
            what = "holds no run" if self.root.is_dir() else "is no folder"
            raise DataError(
                f"{self.root} {what}: no run.json of train.py, evo_search.py or run_task.sh is here or up to "
                "three folders below; run one of these, or give another folder"
            )
        if "task" in summary:
            report.title = f"{summary['task']} on {summary.get('hardware', 'an unnamed device')}"
        report.space = next((space for each in runs if (space := self._space(each))), None)
        report.searches = [one for each in runs if each.kind == "search" for one in self._searches(each)]
        report.trainings = [_training(each) for each in runs if each.kind == "train"]
        report.predictor = self._predictor(found)
        models = [Model.of_row(row) for row in rows] or self._models(runs)
        report.models = [self._completed(model, found) for model in models]
        report.stages = stage_costs(stages) or [
            (f"{e.kind} {e.name}", e.record.cost) for e in found if e.record.cost and e.kind != "task"
        ]
        for name, entry in stages.items():
            if _dict(entry).get("seconds") is None:
                self.note(f"stage {name} has not ended; bash scripts/run_task.sh goes on with it")
        return report

    # --- files: regular ones inside the folder only

    def _folders(self) -> Iterator[Path]:
        """Yield the folder and those up to three levels below it; links are not followed."""
        for name, below, _ in os.walk(self.root):
            yield Path(name)
            deep = len(Path(name).relative_to(self.root).parts) >= _DEPTH
            below[:] = [] if deep else sorted({*below} - {"tensorboard", "report"})

    def _plain(self, path: Path) -> bool:
        """Return whether a path is a regular file of this folder: no pipe or device, no link out of it."""
        return path.is_file() and path.resolve().is_relative_to(self.inside)

    def _mapping(self, path: Path) -> Values:
        """Return what a JSON file holds; a missing file is empty, a damaged one is noted."""
        try:
            return _dict(json.loads(path.read_text("utf-8"))) if self._plain(path) else {}
        except (OSError, ValueError, RecursionError) as error:
            self.note(f"{path} is left out: it is damaged ({type(error).__name__})")
            return {}

    def _lines(self, path: Path) -> Iterator[Values]:
        """Yield the JSON objects of a file, one a line; an unfinished last line is left by a kill."""
        bad = 0
        with open(path if self._plain(path) else os.devnull, encoding="utf-8", errors="replace") as file:
            for line in file:
                record = _parsed(line)
                if isinstance(record, dict):
                    yield record
                else:
                    bad += line.endswith("\n")
        if bad:
            self.note(f"{path}: {bad} lines are damaged and left out")

    def _runs(self, folder: Path) -> Iterator[_Found]:
        """Yield the run that a folder holds, if it holds one."""
        present = [folder / name for name in ("run.json", "log.jsonl", "journal.jsonl")]
        present = [path for path in present if os.path.lexists(path)]
        if not all(map(self._plain, present)):
            self.note(f"{folder} is left out: its record, log or journal is no plain file of this folder")
        elif folder / "run.json" in present:
            record = read_record(folder, folder=True, note=self.note)
            log = tuple(self._lines(folder / "log.jsonl"))
            summary = self._mapping(folder / "summary.json") if record.kind == "search" else {}
            name = str(folder.relative_to(self.root)) if folder != self.root else self.inside.name
            yield _Found(folder, name, record.kind, record, log, {**summary, **record.results})

    def _product(self, file: Path) -> Iterator[_Found]:
        """Yield a file by its record F.run.json, if that vouches for its content; large ones are not read."""
        product = file.with_name(file.name.removesuffix(".run.json"))
        if product == file or not self._plain(file) or not self._plain(product):
            return
        record = read_record(product, folder=False, note=self.note)
        small = record.kind in ("predictor", "score")
        if small and record.outputs.get(product.name) != file_digest(product):
            self.note(f"{product} is left out: its record does not vouch for its content")
        elif record.kind not in ("train", "search"):
            yield _Found(product, str(product.relative_to(self.root)), record.kind, record)

    # --- what runs hold

    def _predictor(self, found: Sequence[_Found]) -> Mapping[str, Any]:
        """Return the results of the predictor that the searches used; of any, if there is no search."""
        used = {each.record.inputs.get("predictor") for each in found if each.kind == "search"} - {None}
        own = [each for each in found if each.kind == "predictor"]
        fitting = [each for each in own if not used or used & {*each.record.outputs.values()}]
        if own and not fitting:
            self.note(f"{own[0].path} is left out: the searches here used another predictor")
        return fitting[0].record.results if fitting else {}

    def _space(self, of: _Found) -> SearchSpace | None:
        try:
            if "encoder-embed-choice" in of.record.settings:
                return SearchSpace.from_yaml(of.record.settings)
            head = next(self._lines(of.path / "journal.jsonl"))
            return space_from_plain(head["record"]["space"])
        except (*_DAMAGED, StopIteration):
            return None

    def _searches(self, of: _Found) -> list[Search]:
        """Return the searches of a folder, one for each limit or front; the first has all that was scored."""
        steps: dict[tuple[str, float | None], dict[float, dict[str, float]]] = {}
        for record in of.log:
            update = number(record.get("update"))
            if record.get("kind") in ("search", "front") and update is not None:
                values = {key: held for key, v in record.items() if (held := number(v)) is not None}
                which = (str(record["kind"]), values.get("constraint_ms"))
                steps.setdefault(which, {})[update] = values  # a resumed search repeats records
        limits = [winner.get("constraint_ms") for winner, _ in of.winners]
        limits = limits or [of.record.settings.get("latency-constraint")]
        known = tuple(dict.fromkeys(ms for ms in map(number, limits) if ms is not None))
        entries = (_dict(entry.get("record")) for entry in self._lines(of.path / "journal.jsonl"))
        scored = self._table(of.path / "evaluations.csv")  # it tells bounds, too
        scored = scored or tuple(filter(None, map(_evaluation, entries)))
        found = [
            Search(of.name, known if ms is None else (ms,), tuple(own[at] for at in sorted(own)))
            for (_, ms), own in steps.items()
        ]
        listed = _rows(of.summary.get("front")) if of.summary.get("mode") == "pareto" else []
        front = tuple(sorted(filter(None, map(_evaluation, listed)), key=lambda each: each[:2]))
        first, *later = found or [Search(of.name, known)]
        return [replace(first, evaluations=scored, front=front), *later]

    def _table(self, path: Path) -> tuple[Evaluation, ...]:
        """Return the rows of evaluations.csv, whose lists are JSON."""
        if not self._plain(path):
            return ()
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            lines = (line.replace("\0", "") for line in file)
            rows = [{str(name): _parsed(row[name]) for name in row} for row in csv.DictReader(lines)]
        return tuple(filter(None, (_evaluation({**row, "arch": row}) for row in rows)))

    def _models(self, runs: Sequence[_Found]) -> list[Model]:
        """Return largest and smallest, what searches found, and what was trained besides."""
        space, models = self.report.space, list[Model]()
        for role in ("largest", "smallest") if space else ():
            models.append(Model(role, role, "inherited", getattr(space, role)()))
        trained = {arch: each for each in runs if (arch := each.arch)}
        for each in runs:
            for row, arch in each.winners:
                name = Path(str(row.get("write_config_path") or each.name)).stem
                weights = "trained" if arch in trained else "inherited"
                models.append(Model(name, "found", weights, arch, **_figures(row)))
        known = {model.arch for model in models if model.role == "found"}
        others = {arch: each.path.resolve().name for arch, each in trained.items() if arch not in known}
        return models + [Model(name, "found", "trained", arch) for arch, name in others.items()]

    def _completed(self, model: Model, found: Sequence[_Found]) -> Model:
        """Return a model with what records, searches and formulas know of it besides."""
        if model.arch is None:
            return model
        values: dict[str, Any] = {}

        def learn(**more: Any) -> None:
            for name, value in more.items():
                if getattr(model, name) is None and value is not None:
                    values.setdefault(name, value)

        for search in self.report.searches:
            for scored in search.evaluations:
                if scored.arch == model.arch:
                    ms = {} if model.role == "found" else {"predicted_ms": scored.predicted_ms}
                    learn(inherited_loss=scored.loss, bound_ms=scored.bound_ms, **ms)
        curves = {training.name: training.valid for training in self.report.trainings}
        for each in found:
            valid = curves.get(each.name, {})
            if model.role != "found" and model.role in valid and "mean" in valid:
                best = min(valid["mean"], key=lambda point: point[1])[0]
                learn(inherited_loss=dict(valid[model.role]).get(best))
            elif each.arch == model.arch and "sub" in valid:
                learn(trained_loss=min(loss for _, loss in valid["sub"]))
                for product in (other for other in found if each.path in other.path.parents):
                    if product.kind == "average" and self._plain(product.path):
                        learn(size_bytes=product.path.stat().st_size)
                    elif product.kind == "score" and product.record.settings.get("gen-subset") == "test":
                        score = _figures(product.record.results)
                        learn(bleu=score["bleu"], signature=score["signature"])
            for row, arch in each.winners:
                if arch == model.arch:
                    learn(inherited_loss=number(row.get("loss")), bound_ms=number(row.get("bound_ms")))
        if space := self.report.space:
            settings = [each.record.settings for each in found]
            lengths = [_whole(each.get("profile-length")) or 0 for each in settings]
            families = (each["arch"] for each in settings if isinstance(each.get("arch"), str))
            lengths += map(profile_length, families)
            length = next((length for length in lengths if length > 0), None)
            learn(params=count_params(model.arch, space))
            learn(flops=2 * count_macs(model.arch, space, length) if length else None)
        return replace(model, **values)


def stage_costs(stages: Values) -> list[tuple[str, Cost]]:
    """Return the cost of each stage of a task that was started."""
    found = []
    for name, entry in stages.items():
        spent = _dict(_dict(entry).get("spent"))
        wall_s, cpu_s, gpu_s = (number(spent.get(key)) for key in ("wall_s", "cpu_s", "gpu_s"))
        if wall_s is not None:
            threads, sittings = (_whole(spent.get(key)) for key in ("threads", "sittings"))
            found.append((name, Cost(wall_s, cpu_s, gpu_s or 0.0, threads, 0, sittings or 1)))
    return found


def _training(of: _Found) -> Training:
    """Return the curves of a training; a resumed run repeats records, of which the last counts."""
    train: dict[float, float] = {}
    valid: dict[str, dict[float, float]] = {}
    for record in of.log:
        update = number(record.get("update"))
        for key, value in record.items():
            loss = number(value)
            if update is None or loss is None or not key.endswith("loss_base2"):
                continue
            if record.get("kind") == "train":
                train[update] = loss
            elif record.get("kind") == "valid":
                valid.setdefault(key.removesuffix("_loss_base2"), {})[update] = loss
    curves = {key: tuple(sorted(points.items())) for key, points in valid.items()}
    return Training(of.name, tuple(sorted(train.items())), curves)


def _figures(row: Values) -> dict[str, Any]:
    """Return the numbers of a row of a summary, by the fields of a Model."""
    floats, signature = "predicted_ms bound_ms measured_ms measured_interval_ms bleu", row.get("signature")
    found: dict[str, Any] = {name: _whole(row.get(name)) for name in ("params", "flops", "size_bytes")}
    found |= {name: number(row.get(name)) for name in floats.split()}
    found["limit_ms"] = number(row.get("constraint_ms"))
    return found | {"signature": signature if isinstance(signature, str) else None}


def _evaluation(values: Values) -> Evaluation | None:
    """Return an evaluation; `latency_ms` is the name of the prediction in a journal."""
    loss, ms = number(values.get("loss")), number(values.get("predicted_ms", values.get("latency_ms")))
    if loss is None or ms is None:
        return None
    bound, measured = (number(values.get(name)) for name in ("bound_ms", "measured_ms"))
    return Evaluation(loss, ms, bound, measured, _arch(values.get("arch")))


def _arch(values: object) -> Arch | None:
    """Return the architecture of a mapping with the ten keys, or None."""
    try:
        return Arch.from_yaml(_dict(values))
    except _DAMAGED:
        return None


def _dict(value: object) -> Values:
    return value if isinstance(value, dict) else {}


def _rows(value: object) -> list[Values]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _parsed(text: object) -> object:
    """Return what JSON text stands for; None if it is damaged."""
    try:
        return json.loads(str(text))
    except (ValueError, RecursionError):
        return None


def duration(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else None  # type: ignore[arg-type]


def _whole(value: object) -> int | None:
    found = number(value)
    return int(found) if found is not None and found.is_integer() else None
