"""hat run: every stage of a task folder, from raw text to a table of measured models and a report.

A stage is a name, the settings and inputs that its result depends on, and a function. It is up to date if
these are what they were, by content, and what it made exists; a stage that was killed goes on.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from hat.cli.options import OutputOptions, command, parse
from hat.cli.profile import condition_flags
from hat.cli.settings import parse_settings
from hat.cli.task import space_and_arch
from hat.config import Options, option, to_yaml_values
from hat.errors import ConfigError, HatError
from hat.files.atomic import write_text_atomic
from hat.files.lock import FolderLock
from hat.latency.predictor import LatencyPredictor
from hat.log import versions
from hat.model.cpu import device_name
from hat.report.page import report
from hat.run import Run, cpu_seconds, digest_of, identity_of, read_record, record_path
from hat.space import Arch


@dataclass(frozen=True)
class TaskRunOptions(Options):
    """Task"""

    task: str | None = None
    """name of the folder in configs/"""
    hardware: str = "cpu"
    """name of the YAML files in its latency_dataset/ and latency_predictor/"""
    latency_constraints: tuple[float, ...] = option((), above=0)
    """limits in ms (default: two, at a third and two thirds between smallest and largest SubTransformer)"""
    run_dir: str | None = None
    """folder of everything made (default: runs/<task>/<hardware>)"""
    raw: str | None = None
    """folder with raw text, handed to the task's preprocess.sh"""
    super_updates: int | None = option(None, low=1)
    """updates of the SuperTransformer (default: as the task says)"""
    sub_updates: int | None = option(None, low=1)
    """updates of each SubTransformer (default: as the task says)"""
    dataset_rows: int | None = option(None, low=1)
    """rows of the latency dataset (default: as the task says)"""
    evo_iterations: int | None = option(None, low=1)
    """iterations of each search (default: as the task says)"""
    average: int = option(5, low=1)
    """epoch checkpoints averaged before testing"""
    seed: int = option(1, low=0)
    """seed of everything random"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages; see --help."""
    options, out = parse(
        argv,
        TaskRunOptions,
        OutputOptions,
        prog="hat run",
        description="Run every stage of a task: data, SuperTransformer, latency, search, training, test.",
    )
    if options.task is None:
        raise ConfigError(f"--task is needed: one of {', '.join(_tasks())}")
    task = Task(options, quiet=out.no_progress_bar)
    summary = task.run()
    print(f"\n{text_table(task.rows)}\n\nwritten: {task.folder}/summary.json")
    print(f"written: {report(task.folder)}, the page to look at")
    if out.json:
        print(json.dumps(summary))
    return 0


@dataclass(frozen=True)
class ModelRow:
    """One architecture of the table that ends a run; what was not measured is None."""

    name: str  # largest, smallest or found@<constraint>ms
    params: int  # of the layers, without embeddings and output matrix
    flops: int
    constraint_ms: float | None
    predicted_ms: float
    measured_ms: float
    bleu: float
    weights: str  # inherited: a slice of the SuperTransformer; trained: its own
    signature: str | None = None  # of SacreBLEU: how it was scored
    size_bytes: int | None = None  # of the file of a stand-alone model; None if there is no such file

    @property
    def within_limit(self) -> bool | None:
        """Return whether the measured latency keeps to the limit; None if there is no limit."""
        return None if self.constraint_ms is None else self.measured_ms <= self.constraint_ms

    def to_plain(self) -> dict[str, Any]:
        """Return the row for a JSON file."""
        return asdict(self) | {"within_limit": self.within_limit}


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
        subprocess.run(["rm", "-rf", str(old)], check=True)
        os.replace(path, old)
        print(f"the inputs changed: {path} was moved to {old}", flush=True)


class Task:
    """The stages of one task on one device.

    Attributes:
        folder: of everything that is made.
        rows: of the final table; empty until `run` has ended.
    """

    def __init__(self, options: TaskRunOptions, *, quiet: bool) -> None:
        self.options = options
        self.configs = Path("configs") / str(options.task)
        if not self.configs.is_dir():
            raise ConfigError(
                f"there is no task {options.task!r}; there are {', '.join(_tasks())} in configs/"
            )
        self.super_yml = self._one("supertransformer", "*.yml")
        self.common_yml = self.configs / "subtransformer" / "common.yml"
        self.dataset_yml = self._one("latency_dataset", f"{options.hardware}.yml")
        self.predictor_yml = self._one("latency_predictor", f"{options.hardware}.yml")
        device = options.hardware.partition("_")[2]  # the release names searches without cpu_ and gpu_
        self.evo_yml = self._one("evo_search", f"*_{options.hardware}.yml", f"*_{device}.yml")
        self.folder = Path(options.run_dir or f"runs/{options.task}/{options.hardware}")
        settings = parse_settings(
            [f"--configs={self.super_yml}"], prog="hat run", description="", config_flags=("--configs",)
        )[0]
        self.space, _ = space_and_arch(settings.space, settings.arch)
        self.data = Path(settings.task.data or "")
        self.gpu = bool(yaml.safe_load(self.dataset_yml.read_text("utf-8")).get("latgpu"))
        self.table, self.predictor = self.folder / "latency.csv", self.folder / "predictor.pt"
        self.super_best = self.folder / "super" / "checkpoint_best.pt"
        self.common = [f"--seed={options.seed}", *(["--no-progress-bar"] if quiet else [])]
        self.rows: list[ModelRow] = []

    def _one(self, folder: str, pattern: str, otherwise: str = "") -> Path:
        found = sorted((self.configs / folder).glob(pattern))
        if not found and otherwise:
            found = sorted((self.configs / folder).glob(otherwise))
        if len(found) != 1:
            held = ", ".join(path.name for path in sorted((self.configs / folder).glob("*.yml"))) or "nothing"
            raise ConfigError(
                f"{self.configs / folder} must hold exactly one file {pattern}, found {len(found)} (it holds "
                f"{held}); see the README on adding a device or a task"
            )
        return found[0]

    def run(self) -> dict[str, Any]:
        """Run everything and return the summary, which is written to summary.json and the record, too."""
        self.folder.mkdir(parents=True, exist_ok=True)
        advice = "wait for it, stop it, or give another --run-dir"
        with FolderLock(self.folder, advice):
            held = read_record(self.folder, folder=True) if record_path(self.folder).exists() else None
            ymls = (self.super_yml, self.common_yml, self.dataset_yml, self.predictor_yml, self.evo_yml)
            run = Run(
                record_path(self.folder),
                "task",
                settings=to_yaml_values(self.options),
                inputs={str(path.relative_to(self.configs)): path for path in ymls if path.exists()},
                device={"device": device_name(torch.device("cpu"))},
                threads=torch.get_num_threads(),
            )
            run.results |= held.results if held else {}
            with run:
                limits = len(self.options.latency_constraints) or 2
                self.stages = Stages(run, total=4 + 4 + 1 + 4 * limits)
                scores = self._all_stages()
                done = {name: each for name, each in self.stages.known.items() if each["seconds"] is not None}
                summary = {
                    "task": self.options.task,
                    "hardware": self.options.hardware,
                    "models": [
                        row.to_plain() | {"arch": self.archs[row.name].to_yaml()} for row in self.rows
                    ],
                    "predictor": scores,
                    "stage_seconds": {name: each["seconds"] for name, each in done.items()},
                    "stage_cost": {name: each["spent"] for name, each in done.items()},
                    "machine": versions()
                    | {"device": device_name(torch.device("cpu")), "cores": os.cpu_count()},
                }
                run.results |= summary
        write_text_atomic(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        return summary

    def _all_stages(self) -> Any:
        """Run the stages, fill `rows`, and return the scores of the predictor."""
        options = self.options
        script = self.configs / "preprocess.sh"
        raw = [options.raw] if options.raw else []
        self.stages.run(  # the script knows by itself what is up to date
            Stage(
                "prepare the data",
                {"raw": options.raw},
                {"script": script},
                [self.data],
                lambda: _shell(["bash", str(script), *raw]),
                always=True,
            )
        )
        pairs = [path for split in ("train", "valid") for path in sorted(self.data.glob(f"{split}.*"))]
        dictionaries = sorted(self.data.glob("dict.*.txt"))
        self._python(
            "train the SuperTransformer",
            "train.py",
            [f"--configs={self.super_yml}", f"--save-dir={self.super_best.parent}"]
            + _optional("--max-update", options.super_updates),
            [self.super_yml, *pairs, *dictionaries],
            [self.super_best],
            state=[self.super_best.parent],
        )
        self._python(
            "measure the latency dataset",
            "latency_dataset.py",
            [f"--configs={self.dataset_yml}", f"--lat-dataset-path={self.table}"]
            + _optional("--lat-dataset-size", options.dataset_rows),
            [self.dataset_yml, *dictionaries],
            [self.table],
            state=[self.table],
        )
        scores = self._python(
            "train the latency predictor",
            "latency_predictor.py",
            [
                f"--configs={self.predictor_yml}",
                f"--lat-dataset-path={self.table}",
                f"--ckpt-path={self.predictor}",
            ],
            [self.predictor_yml, self.table],
            [self.predictor],
        )
        predictor = LatencyPredictor.load(self.predictor)
        self.archs = {"largest": self.space.largest(), "smallest": self.space.smallest()}
        for name, arch in self.archs.items():
            path = self.folder / f"{name}.yml"
            text = "".join(f"{key}: {value}\n" for key, value in arch.to_yaml().items())
            if not path.exists() or path.read_text("utf-8") != text:
                write_text_atomic(path, text)
            score = self._test(f"test {name} (inherited weights)", self.super_best, path)
            self.rows.append(self._row(name, path, None, predictor, score, "inherited", None))
        limits_ms = options.latency_constraints or _default_limits(self.rows)
        for limit_ms, path in self._search(limits_ms).items():
            self.archs[path.stem] = Arch.from_yaml(path)
            self.rows.append(self._trained(limit_ms, path, predictor))
        return scores

    def _search(self, limits_ms: Sequence[float]) -> dict[float, Path]:
        """Return the YAML file of the architecture found under each limit; one search serves all of them."""
        found = {limit_ms: self.folder / f"found@{limit_ms:g}ms.yml" for limit_ms in limits_ms}
        search_dir = self.folder / "search"
        self._python(
            f"search under {', '.join(f'{limit_ms:g}' for limit_ms in found)} ms",
            "evo_search.py",
            [
                f"--configs={self.super_yml}",
                f"--evo-configs={self.evo_yml}",
                f"--restore-file={self.super_best}",
                f"--ckpt-path={self.predictor}",
                "--latency-constraints",
                *(f"{limit_ms:g}" for limit_ms in found),
                f"--write-config-path={next(iter(found.values()))}",
                f"--search-dir={search_dir}",
            ]
            + _optional("--evo-iter", self.options.evo_iterations),
            [self.super_yml, self.evo_yml, self.super_best, self.predictor],
            list(found.values()),
            state=[search_dir],
        )
        return found

    def _trained(self, limit_ms: float, arch_yml: Path, predictor: LatencyPredictor) -> ModelRow:
        """Return the row of a found architecture, trained from its slice, averaged and tested."""
        name, save_dir = arch_yml.stem, self.folder / arch_yml.stem
        self._python(
            f"train {name}",
            "train.py",
            [
                f"--configs={arch_yml}",
                f"--sub-configs={self.common_yml}",
                f"--restore-file={self.super_best}",
                f"--save-dir={save_dir}",
            ]
            + _optional("--max-update", self.options.sub_updates),
            [arch_yml, self.common_yml, self.super_best],
            [save_dir / "checkpoint_best.pt"],
            state=[save_dir],
        )
        averaged = save_dir / f"average_model_{self.options.average}.pt"
        self._python(
            f"average {name}",
            "scripts/average_checkpoints.py",
            [f"--inputs={save_dir}", f"--num-epoch-checkpoints={self.options.average}"],
            [save_dir / "checkpoint_last.pt"],
            [averaged],
        )
        score = self._test(f"test {name}", averaged, arch_yml)
        return self._row(name, arch_yml, limit_ms, predictor, score, "trained", averaged.stat().st_size)

    def _test(self, title: str, checkpoint: Path, arch_yml: Path) -> Any:
        """Translate and score with the task's own test.sh, which knows its beam search; returns the score."""
        script = self.configs / "test.sh"
        words = ["bash", str(script), str(checkpoint), str(arch_yml), "sacre"]
        inputs = {"script": script, "checkpoint": checkpoint, "architecture": arch_yml}
        return self.stages.run(Stage(title, {}, inputs, [], lambda: _shell(words, result=True)))

    def _row(
        self,
        name: str,
        arch_yml: Path,
        limit_ms: float | None,
        predictor: LatencyPredictor,
        score: Mapping[str, Any],
        weights: str,
        size: int | None,
    ) -> ModelRow:
        profile = self._python(
            f"measure {name}",
            "train.py",
            [
                f"--configs={arch_yml}",
                f"--sub-configs={self.super_yml}",
                "--profile-flops",
                "--latgpu" if self.gpu else "--latcpu",
                *condition_flags(predictor.conditions),
            ],
            [arch_yml, self.super_yml, self.table],
            [],
        )
        return ModelRow(
            name,
            profile["params"],
            profile["flops"],
            limit_ms,
            predictor.predict_ms(self.archs[name]),
            profile["latency_ms"]["total"],
            float(score["bleu"]),
            weights,
            score.get("signature"),
            size,
        )

    def _python(
        self,
        title: str,
        script: str,
        flags: list[str],
        inputs: list[Path],
        outputs: list[Path],
        *,
        state: Sequence[Path] = (),
    ) -> Any:
        common = [] if "average" in script else self.common
        words = [sys.executable, script, *flags, *common, "--json"]
        named = {str(path): path for path in inputs}
        stage = Stage(
            title,
            {"flags": flags},
            named,
            outputs,
            lambda: _shell(words, result=True),
            state,
            state[0] if state else None,
        )
        return self.stages.run(stage)


def _shell(words: Sequence[str], *, result: bool = False) -> Any:
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
            f"{Path(words[1]).name} failed with exit code {process.returncode}; its message stands above. The "
            "same command goes on from there"
        )
    if not result:
        return None
    try:
        return json.loads(last)
    except ValueError as error:
        raise HatError(f"{words[1]} printed no JSON line last but {last[:80]!r}") from error


def _optional(flag: str, value: int | None) -> list[str]:
    return [] if value is None else [f"{flag}={value}"]


def _tasks() -> list[str]:
    return sorted(path.parent.name for path in Path("configs").glob("*/supertransformer"))


def _default_limits(rows: Sequence[ModelRow]) -> tuple[float, ...]:
    """Return two limits that every device can meet, from the measured largest and smallest SubTransformer."""
    largest_ms, smallest_ms = rows[0].measured_ms, rows[1].measured_ms
    return tuple(round(smallest_ms + share * (largest_ms - smallest_ms), 1) for share in (0.35, 0.7))


def text_table(rows: Sequence[ModelRow]) -> str:
    """Return the rows as aligned text; if a measured latency is above its limit, a line says so."""
    header = ("model", "#Params", "FLOPs", "limit ms", "predicted ms", "measured ms", "BLEU", "weights")
    cells = [header] + [
        (
            row.name,
            f"{row.params / 1e6:.2f} M",
            f"{row.flops / 1e9:.3f} G",
            "" if row.constraint_ms is None else f"{row.constraint_ms:g}",
            f"{row.predicted_ms:.2f}",
            f"{row.measured_ms:.2f}",
            f"{row.bleu:.2f}",
            row.weights + (" !" if row.within_limit is False else ""),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        name, *numbers, weights = (text.rjust(width) for text, width in zip(line, widths, strict=True))
        lines.append("  ".join((name.strip().ljust(widths[0]), *numbers, weights.strip())).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    for row in rows:
        if row.constraint_ms and row.within_limit is False:
            percent = 100 * (row.measured_ms / row.constraint_ms - 1)
            lines.append(
                f"! {row.name} measures {row.measured_ms:.2f} ms, {percent:.1f}% above its limit of "
                f"{row.constraint_ms:g} ms; search under a lower limit, or measure a larger latency dataset"
            )
    return "\n".join(lines)
