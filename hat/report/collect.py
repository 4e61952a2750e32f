"""From a folder that a run left to what a report shows of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hat.errors import DataError, HatError
from hat.files.cost import read_cost
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import read_table
from hat.model.count import count_macs, count_params, profile_length
from hat.report.folders import (
    Folder,
    Note,
    arch_in,
    is_study,
    number,
    rankings_of,
    read_mapping,
    run_folders,
    searches_of,
    space_in,
    training_of,
    winners_of,
)
from hat.report.latencies import latencies_of
from hat.report.run import Model, Run, StageCost
from hat.space import Arch


@dataclass(frozen=True)
class _Found:
    """A folder with what it is about."""

    folder: Folder
    name: str
    summary: Mapping[str, Any]
    arch: Arch | None  # that was trained
    winners: tuple[tuple[Mapping[str, Any], Arch], ...]  # that were found


def collect(root: Path) -> Run:
    """Return what `root` holds: a folder of run_task.py, of one search or training, or one above several.

    Raises DataError where there is none of these. What is damaged or missing becomes a note.
    """
    if not root.is_dir():
        raise DataError(
            f"there is no folder {root}; give one that run_task.sh, evo_search.py or train.py wrote"
        )
    run = Run(root.resolve().name, "folder")
    note: Note = run.notes.append
    summary = read_mapping(root / "summary.json", note)
    stages = read_mapping(root / "stages.json", note)
    if is_study(root):
        return _study(root, run, summary)
    found = [_about(folder, root, note) for folder in run_folders(root, note)]
    listed = summary.get("models")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    if not found and not rows and not stages:
        raise DataError(
            f"{root} holds no run: neither summary.json or stages.json of run_task.sh, nor log.jsonl of "
            "train.py or evo_search.py up to two folders below; run one of these, or give another folder"
        )
    if "task" in summary:
        run.title, run.kind = f"{summary['task']} on {summary.get('hardware', 'an unnamed device')}", "task"
    run.space = next((space for each in found if (space := space_in(each.folder))), None)
    for each in found:
        if each.folder.is_search:
            run.searches += searches_of(each.folder, each.summary, each.name, note)
        if each.folder.is_training:
            run.trainings.append(training_of(each.folder, each.name))
    predictor = _predictor(root, found, run, note)
    run.models = _listed(root, rows, stages, note) if rows else _models(found, run, predictor)
    run.models = [_completed(model, found, run) for model in run.models]
    run.stages = _stages(root, stages, summary, note) if stages else _folder_costs(root, found)
    machine = summary.get("machine") or next((e.folder.version for e in found if e.folder.version), {})
    if isinstance(machine, dict):
        run.machine = {str(name): str(value) for name, value in machine.items()}
    return run


def _study(root: Path, run: Run, summary: Mapping[str, Any]) -> Run:
    """Return a rank study; its trainings are only means to it."""
    run.rankings, run.ceiling, run.ranked = rankings_of(summary)
    if not run.rankings:
        raise DataError(
            f"{root} holds a predictor study, which has its own table and picture, or a rank study that has "
            "not ended; RUN_DIR must hold what run_task.sh, evo_search.py or train.py wrote, or the "
            "summary.json that rank_study.py ends with"
        )
    version = read_mapping(root / "version.json", run.notes.append)
    run.title, run.machine = f"Rank study {run.title}", {name: str(value) for name, value in version.items()}
    return run


def _about(folder: Folder, root: Path, note: Note) -> _Found:
    relative = folder.path.relative_to(root)
    name = str(relative) if relative.parts else root.resolve().name
    own = read_mapping(folder.path / "summary.json", note) if folder.is_search else {}
    held = (
        (winner, arch_in(winner["arch"]))
        for winner in winners_of(own)
        if isinstance(winner.get("arch"), dict)
    )
    return _Found(
        folder,
        name,
        own,
        arch_in(folder.config) if folder.is_training else None,
        tuple((winner, arch) for winner, arch in held if arch),
    )


def _listed(root: Path, rows: list[dict[str, Any]], stages: Mapping[str, Any], note: Note) -> list[Model]:
    """Return the models of the summary of run_task.py."""
    models = []
    for row in rows:
        name = str(row.get("name"))
        signature = row.get("signature") or _tested(stages, name)
        plain = Path(name).name == name
        models.append(
            Model(
                name,
                name if name in ("largest", "smallest") else "found",
                str(row.get("weights", "")),
                arch=arch_in(read_mapping(root / f"{name}.yml", note)) if plain else None,
                params=_whole(row.get("params")),
                flops=_whole(row.get("flops")),
                size_bytes=_whole(row.get("size_bytes")) or (_size(root / name) if plain else None),
                limit_ms=number(row.get("constraint_ms")),
                predicted_ms=number(row.get("predicted_ms")),
                measured_ms=number(row.get("measured_ms")),
                bleu=number(row.get("bleu")),
                signature=signature if isinstance(signature, str) else None,
            )
        )
    return models


def _tested(stages: Mapping[str, Any], name: str) -> object:
    """Return the signature of a model's test, which summaries did not hold at first."""
    for title in (f"test {name}", f"test {name} (inherited weights)"):
        entry = stages.get(title)
        result = entry.get("result") if isinstance(entry, dict) else None
        if isinstance(result, dict):
            return result.get("signature")
    return None


def _models(found: list[_Found], run: Run, predictor: LatencyPredictor | None) -> list[Model]:
    """Return largest and smallest, what searches found, and what was trained besides."""
    models: list[Model] = []
    if run.space:
        for role, arch in (("largest", run.space.largest()), ("smallest", run.space.smallest())):
            models.append(Model(role, role, "inherited", arch, predicted_ms=_predicted(predictor, arch)))
    trained = {each.arch: each for each in found if each.arch and each.folder.is_training}
    for each in found:
        for winner, arch in each.winners:
            name = Path(str(winner.get("write_config_path") or each.name)).stem
            models.append(
                Model(
                    name,
                    "found",
                    "trained" if arch in trained else "inherited",
                    arch,
                    _whole(winner.get("params")),
                    _whole(winner.get("flops")),
                    limit_ms=number(winner.get("constraint_ms")),
                    predicted_ms=number(winner.get("predicted_ms")),
                    measured_ms=number(winner.get("measured_ms")),
                )
            )
    known = {model.arch for model in models if model.role == "found"}
    for arch, each in trained.items():
        if arch not in known:
            name = each.folder.path.resolve().name
            models.append(Model(name, "found", "trained", arch, predicted_ms=_predicted(predictor, arch)))
    return models


def _completed(model: Model, found: list[_Found], run: Run) -> Model:
    """Return a model with what folders and formulas know of it besides."""
    if model.arch is None:
        return model
    curves = {training.name: training.valid for training in run.trainings}
    scored = run.scored(model.arch)
    if scored and model.role != "found":
        model = replace(
            model,
            inherited_loss=model.inherited_loss or scored.loss,
            predicted_ms=model.predicted_ms or scored.predicted_ms,
        )
    for each in found:
        valid = curves.get(each.name, {})
        if model.role != "found" and model.role in valid and "mean" in valid:
            best = min(valid["mean"], key=lambda point: point[1])[0]
            loss = dict(valid[model.role]).get(best)
            model = replace(model, inherited_loss=model.inherited_loss or loss)
        elif each.arch == model.arch and each.folder.is_training and "sub" in valid:
            score = _score(each.folder.path)
            model = replace(
                model,
                trained_loss=min(loss for _, loss in valid["sub"]),
                size_bytes=model.size_bytes or _size(each.folder.path),
                bleu=number(score.get("bleu")) if model.bleu is None else model.bleu,
                signature=model.signature or (str(score["signature"]) if score.get("signature") else None),
            )
        for winner, arch in each.winners:
            if arch == model.arch:
                model = replace(model, inherited_loss=model.inherited_loss or number(winner.get("loss")))
    if run.space:
        length = _profile_length([each.folder.config for each in found])
        flops = 2 * count_macs(model.arch, run.space, length) if length else None
        model = replace(
            model,
            params=model.params or count_params(model.arch, run.space),
            flops=model.flops or flops,
        )
    return model


def _profile_length(configs: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the tokens of a sentence at which FLOPs are counted: those given, or of the models' family."""
    for config in configs:
        if (given := _whole(config.get("profile-length"))) and given > 0:
            return given
    families = (config.get("arch") for config in configs)
    return next((profile_length(family) for family in families if isinstance(family, str)), None)


def _predictor(root: Path, found: list[_Found], run: Run, note: Note) -> LatencyPredictor | None:
    """Read predictor and table: those of the run folder, else those that the searches name."""
    named = (each.folder.config.get("ckpt-path") for each in found if each.folder.is_search)
    paths = [root / "predictor.pt", *(Path(str(path)) for path in named if path)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    config = read_mapping(path.with_suffix(".config.yml"), note)
    table = root / "latency.csv"
    if not table.is_file():
        table = Path(str(config.get("lat-dataset-path", "")))
    try:
        predictor = LatencyPredictor.load(path)
    except HatError as error:
        note(str(error))
        return None
    if table == Path():
        note(f"predicted against measured is left out: nothing beside {path} names its latency table")
        return predictor
    try:
        rows = read_table(table)
        run.latencies = latencies_of(predictor, rows, config, table.name)
    except (HatError, ValueError) as error:
        note(str(error))
    return predictor


def _predicted(predictor: LatencyPredictor | None, arch: Arch) -> float | None:
    return predictor.predict_ms(arch) if predictor else None


def _stages(root: Path, record: dict[str, Any], summary: Mapping[str, Any], note: Note) -> list[StageCost]:
    """Return the costs of the stages of run_task.py; a stage that keeps its own record knows more."""
    costs = []
    for name, entry in record.items():
        if not isinstance(entry, dict):
            continue
        spent = entry.get("spent")
        spent = spent if isinstance(spent, dict) else {}
        wall_s = number(spent.get("wall_s")) or number(entry.get("seconds"))
        if wall_s is None:
            note(f"stage {name} has not ended; bash scripts/run_task.sh goes on with it")
            continue
        cost = StageCost(
            name,
            wall_s,
            number(spent.get("cpu_s")),
            0.0,
            None,
            _whole(spent.get("sittings")) or 1,
            str(entry.get("command", "")),
        )
        states = entry.get("state")
        for state in states if isinstance(states, list) else []:
            path = root / Path(str(state)).name
            own = read_cost(path if path.name.endswith(".cost.json") else path / "cost.json")
            if own:  # killed with run_task.py itself, it still has counted
                wall_s, cpu_s = max(wall_s, own.wall_s), max(cost.cpu_s or 0.0, own.cpu_s or 0.0)
                cost = cost._replace(wall_s=wall_s, cpu_s=cpu_s, gpu_s=own.gpu_s, threads=own.threads)
                cost = cost._replace(sittings=max(cost.sittings, own.sittings))
        costs.append(cost)
    return costs


def _folder_costs(root: Path, found: list[_Found]) -> list[StageCost]:
    """Return the costs of single folders; for those older than cost.json what their logs tell."""
    costs = []
    for each in found:
        name = f"{'search' if each.folder.is_search else 'train'} {each.name}"
        own = each.folder.cost
        if own:
            costs.append(StageCost(name, own.wall_s, own.cpu_s, own.gpu_s, own.threads, own.sittings))
            continue
        seconds = number(each.summary.get("seconds"))
        for record in each.folder.records:
            seconds = number(record.get("train_s")) or seconds
        try:
            threads = int(str(each.folder.version.get("threads")))
        except ValueError:
            threads = 0
        if seconds:
            cpu_s = seconds * threads if threads else None
            costs.append(StageCost(name, seconds, cpu_s, 0.0, threads or None, 1, "", True))
    for path in sorted(root.glob("*.cost.json")):
        own = read_cost(path)
        if own:
            name = path.name.removesuffix(".cost.json")
            costs.append(StageCost(name, own.wall_s, own.cpu_s, own.gpu_s, own.threads, own.sittings))
    return costs


def _size(folder: Path) -> int | None:
    """Return the size of the model that is tested: averaged weights, which hold no state of the optimiser."""
    files = sorted(folder.glob("average_model_*.pt"), key=lambda path: path.stat().st_mtime)
    return files[-1].stat().st_size if files else None


def _score(folder: Path) -> dict[str, Any]:
    """Return the newest score that scripts/score.py left below a training, SacreBLEU first."""
    for pattern in ("*.sacre.json", "*.normal.json"):
        files = sorted((folder / "exp").glob(pattern), key=lambda path: path.stat().st_mtime)
        if files:
            return read_mapping(files[-1], lambda text: None)
    return {}


def _whole(value: object) -> int | None:
    found = number(value)
    return int(found) if found is not None and math.isclose(found, int(found)) else None
