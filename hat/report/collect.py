"""From the records that runs left in a folder to what a report shows of them. A report starts from `run.json`
(see docs/records.md). That of a task names the folders and records of its stages; other folders are searched
for run.json up to three levels below. Of a run its log, its table and the head of its journal are read, and
the records of files whose content they vouch for. Nothing in them is trusted: what is damaged becomes a note,
and no path leads out of the folder.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from hat.errors import DataError, HatError
from hat.files.atomic import file_digest
from hat.model.layers import count_params
from hat.run import Cost, Record, read_record
from hat.search.constraints import in_ms, kept
from hat.space import Arch, SearchSpace, space_from_plain

Values = Mapping[str, Any]
Points = tuple[tuple[float, float], ...]
_DEPTH = 3
_ENDS = ("largest", "smallest")
_OF_SCORED = ("inherited_loss", "predicted_ms", "bound_ms")  # what a model has from its evaluation
_DAMAGED = (HatError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Model:
    """One architecture with what is known of it; None: not known."""

    name: str
    role: str  # largest, smallest, baseline (made by hand), found, or scored by a search
    weights: str  # inherited, trained, or "" if unknown
    arch: Arch | None = None
    params: float | None = None  # of the layers, without embeddings and output matrix
    flops: float | None = None
    size_bytes: float | None = None  # of the stand-alone file
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
        name = str(row.get("name"))
        role = next((each for each in (*_ENDS, "baseline") if name.startswith(each)), "found")
        return cls(name, role, str(row.get("weights", "")), _arch(row.get("arch")), **_figures(row))


@dataclass(frozen=True)
class Search:
    """One search; steps are its iterations, oldest first."""

    name: str
    limits_ms: tuple[float, ...]
    steps: tuple[Mapping[str, float], ...] = ()
    evaluations: tuple[Model, ...] = ()
    front: tuple[Model, ...] = ()  # lowest loss first; of a search for the whole front only


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
    notes: list[str] = field(default_factory=list)

    @property
    def winner(self) -> Model | None:
        """Return the found model with the best BLEU, or with the lowest loss if none was translated with."""
        found = [model for model in self.models if model.role == "found"]
        within = [model for model in found if model.within_limit is not False] or found
        return max(within, key=lambda m: (m.bleu or 0.0, -(m.inherited_loss or math.inf)), default=None)

    @property
    def found(self) -> str:
        """Return one sentence on what was found."""
        best, largest = self.winner, next((model for model in self.models if model.role == "largest"), None)
        if best is None:
            return ""
        ms = best.measured_ms
        parts = [f"translates at {best.bleu:.2f} BLEU"] if best.bleu is not None else []
        parts += [f"takes {in_ms(ms, best.measured_interval_ms)} for a sentence"] if ms is not None else []
        text = f"{best.name} {' and '.join(parts) or 'was found'}"
        if best.limit_ms is not None and ms is not None:
            side, percent = "below" if ms <= best.limit_ms else "above", 100 * (ms / best.limit_ms - 1)
            text += f", {abs(percent):.1f}% {side} its limit of {best.limit_ms:g} ms"
            text += ", as far as that can be measured" if best.within_limit is None else ""
        if largest is None:
            return f"{text}."
        sizes = ("parameters", best.params, largest.params), ("latency", ms, largest.measured_ms)
        than = [f"{100 * own / whole:.0f}% of its {what}" for what, own, whole in sizes if own and whole]
        if largest.bleu is not None and best.bleu is not None:
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
        return "Lowest loss of the front", min(ends, key=_loss_and_ms).arch if ends else None


@dataclass(frozen=True)
class _Found:
    path: Path  # the folder, or the product
    name: str
    record: Record
    log: Sequence[Values] = ()

    @property
    def arch(self) -> Arch | None:
        """Return the architecture that was trained."""
        return _arch(self.record.settings) if self.record.kind == "train" else None


def collect(root: Path) -> Report:
    """Return what `root` holds: a task, search or training, or a folder above several. Raises DataError if
    there is none of these. What is damaged or missing becomes a note.
    """
    return _Collector(root).collect()


class _Collector:
    def __init__(self, root: Path) -> None:
        self.root, self.inside = root, root.resolve()
        self.report = Report(self.inside.name)
        self.note = self.report.notes.append

    def collect(self) -> Report:
        report, own = self.report, next(iter(self._runs(self.root)), None)
        summary = own.record.results if own and own.record.kind == "task" else {}
        stages, rows = _dict(summary.get("stages")), _rows(summary.get("models"))
        if isinstance(plan := summary.get("plan"), list):  # the others are of earlier limits
            stages = {name: stages[name] for name in map(str, plan) if name in stages}
        paths = [self.root / str(place) for e in stages.values() for place in _dict(e).get("places", ())]
        for depth in range(0 if summary else _DEPTH + 1):
            records = sorted(self.root.glob(f"{'*/' * depth}*run.json"))
            paths += [path.parent if path.name == "run.json" else path for path in records]
        found = [one for path in paths for one in (self._runs if path.is_dir() else self._product)(path)]
        every = [each.record for each in (*([own] if own else ()), *found)]
        facts = [_dict(summary.get("machine")), *({**each.device, **each.versions} for each in every)]
        report.machine = {str(name): str(value) for name, value in next(filter(None, facts), {}).items()}
        trainings, searches = ([e for e in found if e.record.kind == kind] for kind in ("train", "search"))
        if not (trainings or searches or rows or stages):
            what = "holds no run" if self.root.is_dir() else "is no folder"
            none = "no run.json of train.py, evo_search.py or run_task.sh is here or three folders below"
            raise DataError(f"{self.root} {what}: {none}; run one of these, or give another folder")
        if "task" in summary:
            report.title = f"{summary['task']} on {summary.get('hardware', 'an unnamed device')}"
        report.space = next(filter(None, map(self._space, (*trainings, *searches))), None)
        report.searches = [one for each in searches for one in self._searches(each)]
        report.trainings = [_training(each) for each in trainings]
        report.predictor = self._predictor(found)
        models = [Model.of_row(row) for row in rows] or self._models(trainings, searches)
        report.models = [self._completed(model, found) for model in models]
        costs = [(f"{each.record.kind} {each.name}", each.record.cost) for each in found]
        report.stages = stage_costs(stages) or [(name, cost) for name, cost in costs if cost]
        for name in (name for name, entry in stages.items() if _dict(entry).get("seconds") is None):
            self.note(f"stage {name} has not ended; bash scripts/run_task.sh goes on with it")
        return report

    # --- files: regular ones inside the folder only

    def _text(self, path: Path) -> str:
        """Return the text of a regular file of this folder; none of a pipe, a device or a link out of it."""
        plain = path.is_file() and path.resolve().is_relative_to(self.inside)
        return path.read_text("utf-8", "replace") if plain else ""

    def _lines(self, path: Path) -> list[Values]:
        """Return the JSON objects of a file, one a line; an unfinished last line is left by a kill."""
        *lines, _ = self._text(path).split("\n")
        found = [record for line in lines if isinstance(record := _parsed(line), dict)]
        if bad := len(lines) - len(found):
            self.note(f"{path}: {bad} lines are damaged and left out")
        return found

    def _runs(self, folder: Path) -> list[_Found]:
        if not self._text(folder / "run.json"):
            return []
        record = read_record(folder, folder=True, note=self.note)
        if record.kind == "search":
            summary = _dict(_parsed(self._text(folder / "summary.json")))
            record = replace(record, results={**summary, **record.results})
        name = str(folder.relative_to(self.root)) if folder != self.root else self.inside.name
        return [_Found(folder, name, record, self._lines(folder / "log.jsonl"))]

    def _product(self, file: Path) -> list[_Found]:
        """Return a file by its record F.run.json; a small one only if that vouches for its content."""
        product = file.with_name(file.name.removesuffix(".run.json"))
        if product == file or not self._text(file) or not product.resolve().is_relative_to(self.inside):
            return []
        record = read_record(product, folder=False, note=self.note) if product.is_file() else Record("")
        small = record.kind in ("predictor", "score")
        if small and record.outputs.get(product.name) != file_digest(product):
            self.note(f"{product} is left out: its record does not vouch for its content")
            return []
        known = record.kind not in ("", "train", "search")
        return [_Found(product, str(product.relative_to(self.root)), record)] if known else []

    # --- what runs hold

    def _predictor(self, found: Sequence[_Found]) -> Values:
        """Return the results of the predictor that the searches used; of any, if there is no search."""
        used = {each.record.inputs.get("predictor", "") for each in found if each.record.kind == "search"}
        used, own = used - {""}, [each for each in found if each.record.kind == "predictor"]
        fitting = [each for each in own if not used or used & {*each.record.outputs.values()}]
        if own and not fitting:
            self.note(f"{own[0].path} is left out: the searches here used another predictor")
        return fitting[0].record.results if fitting else {}

    def _space(self, of: _Found) -> SearchSpace | None:
        try:
            if "encoder-embed-choice" in of.record.settings:
                return SearchSpace.from_yaml(of.record.settings)
            return space_from_plain(self._lines(of.path / "journal.jsonl")[0]["record"]["space"])
        except (*_DAMAGED, IndexError):
            return None

    def _searches(self, of: _Found) -> list[Search]:
        """Return the searches of a folder, one for each limit or front; the first has all that was scored."""
        steps: dict[tuple[str, float | None], dict[float, dict[str, float]]] = {}
        for record in of.log:
            if record.get("kind") in ("search", "front") and (update := number(record.get("update"))):
                values = {key: held for key, v in record.items() if (held := number(v)) is not None}
                which = (str(record["kind"]), values.get("constraint_ms"))
                steps.setdefault(which, {})[update] = values  # a resumed search repeats records
        results, given = of.record.results, of.record.settings.get("latency-constraint")
        limits = [winner.get("constraint_ms") for winner in _rows(results.get("winners"))]
        limits = limits or (given if isinstance(given, list) else [])
        known = tuple(dict.fromkeys(ms for ms in map(number, limits) if ms is not None))
        table = csv.DictReader(self._text(of.path / "evaluations.csv").replace("\0", "").splitlines())
        scored = _scored([{str(name): _parsed(row[name]) for name in row} for row in table])  # lists are JSON
        front = _rows(results.get("front")) if results.get("mode") == "pareto" else []
        first, *later = [
            Search(of.name, known if ms is None else (ms,), tuple(own[at] for at in sorted(own)))
            for (_, ms), own in steps.items()
        ] or [Search(of.name, known)]
        front = tuple(sorted(_scored(front), key=_loss_and_ms))
        return [replace(first, evaluations=scored, front=front), *later]

    def _models(self, trainings: Sequence[_Found], searches: Sequence[_Found]) -> list[Model]:
        space, trained = self.report.space, {arch: each for each in trainings if (arch := each.arch)}
        models = [Model(role, role, "inherited", getattr(space, role)()) for role in _ENDS if space]
        for each in searches:
            for row in _rows(each.record.results.get("winners")):
                name, arch = str(row.get("write_config_path") or each.name), _arch(row.get("arch"))
                weights = "trained" if arch in trained else "inherited"
                models.append(Model(Path(name).stem, "found", weights, arch, **_figures(row)))
        known = {model.arch for model in models if model.role == "found"}
        others = {arch: each.path.resolve().name for arch, each in trained.items() if arch not in known}
        return models + [Model(name, "found", "trained", arch) for arch, name in others.items()]

    def _completed(self, model: Model, found: Sequence[_Found]) -> Model:
        arch, searches = model.arch, self.report.searches
        every = (each for search in searches for each in search.evaluations if arch and each.arch == arch)
        told = [{name: getattr(each, name) for name in _OF_SCORED} for each in every]  # the first one counts
        curves = {training.name: training.valid for training in self.report.trainings}
        for each in found if arch else ():
            valid = curves.get(each.name, {})
            if model.role != "found" and model.role in valid and "mean" in valid:
                best = min(valid["mean"], key=lambda point: point[1])[0]
                told.append({"inherited_loss": dict(valid[model.role]).get(best)})
            elif each.arch == arch and "sub" in valid:
                told.append({"trained_loss": min(loss for _, loss in valid["sub"])})
                for product in (other for other in found if each.path in other.path.parents):
                    kind, results = product.record.kind, product.record.results
                    if kind == "average" and product.path.is_file():
                        told.append({"size_bytes": product.path.stat().st_size})
                    elif kind == "score" and product.record.settings.get("gen-subset") == "test":
                        told.append({name: _figures(results)[name] for name in ("bleu", "signature")})
        if arch and self.report.space:
            told.append({"params": count_params(arch, self.report.space)})
        values = {name: value for more in reversed(told) for name, value in more.items() if value is not None}
        return replace(model, **{name: v for name, v in values.items() if getattr(model, name) is None})


def stage_costs(stages: Values) -> list[tuple[str, Cost]]:
    """Return the cost of each stage of a task that was started."""
    found = []
    for name, entry in stages.items():
        spent = {key: number(value) for key, value in _dict(_dict(entry).get("spent")).items()}
        if (wall_s := spent.get("wall_s")) is not None:
            counts = int(spent.get("threads") or 0) or None, 0, int(spent.get("sittings") or 1)
            found.append((name, Cost(wall_s, spent.get("cpu_s"), spent.get("gpu_s") or 0.0, *counts)))
    return found


def _training(of: _Found) -> Training:
    """Return the curves of a training; a resumed run repeats records, of which the last counts."""
    curves: dict[str, dict[float, float]] = {}
    for record in of.log:
        update, kind = number(record.get("update")), record.get("kind")
        for key, value in record.items() if kind in ("train", "valid") and update is not None else ():
            if key.endswith("loss_base2") and (loss := number(value)) is not None:
                name = "" if kind == "train" else key.removesuffix("_loss_base2")
                curves.setdefault(name, {})[update] = loss
    points = {name: tuple(sorted(curve.items())) for name, curve in curves.items()}
    return Training(of.name, points.pop("", ()), points)


def _figures(row: Values) -> dict[str, Any]:
    names = "params flops size_bytes predicted_ms bound_ms measured_ms measured_interval_ms bleu"
    found: dict[str, Any] = {name: number(row.get(name)) for name in names.split()}
    found |= {"limit_ms": number(row.get("constraint_ms")), "inherited_loss": number(row.get("loss"))}
    signature = row.get("signature")
    return found | {"signature": signature if isinstance(signature, str) else None}


def _scored(rows: Sequence[Values]) -> tuple[Model, ...]:
    """Return the rows of a front, or of a table, whose rows hold the keys of the architecture themselves."""
    every = (Model("", "scored", "", _arch(row.get("arch", row)), **_figures(row)) for row in rows)
    return tuple(each for each in every if each.inherited_loss is not None and each.predicted_ms is not None)


def _loss_and_ms(model: Model) -> tuple[float, float]:
    return model.inherited_loss or 0.0, model.predicted_ms or 0.0


def _arch(values: object) -> Arch | None:
    try:
        return Arch.from_yaml(_dict(values))
    except _DAMAGED:
        return None


def _dict(value: object) -> Values:
    return value if isinstance(value, dict) else {}


def _rows(value: object) -> list[Values]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _parsed(text: object) -> object:
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
