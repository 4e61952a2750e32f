"""scripts/run_task.sh: every stage of a task folder, from raw text to a table of measured models."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from hat.cli.options import OutputOptions, command, parse
from hat.cli.profile import condition_flags
from hat.cli.settings import parse_settings
from hat.cli.stages import Stage, StageRunner
from hat.cli.task import space_and_arch
from hat.errors import ConfigError
from hat.files.atomic import write_text_atomic
from hat.latency.predictor import LatencyPredictor
from hat.log import say, versions
from hat.model.cpu import device_name
from hat.report.page import report as write_report
from hat.report.summary import ModelRow, text_table
from hat.run import record_path
from hat.space import Arch


@dataclass(frozen=True)
class TaskRunOptions:
    """Task"""

    task: str | None = None
    """name of the folder in configs/"""
    hardware: str = "cpu"
    """name of the YAML files in its latency_dataset/ and latency_predictor/"""
    latency_constraints: tuple[float, ...] = ()
    """limits in ms (default: two, at a third and two thirds between smallest and largest SubTransformer)"""
    run_dir: str | None = None
    """folder of everything made (default: runs/<task>/<hardware>)"""
    raw: str | None = None
    """folder with raw text, handed to the task's preprocess.sh"""
    super_updates: int | None = None
    """updates of the SuperTransformer (default: as the task says)"""
    sub_updates: int | None = None
    """updates of each SubTransformer (default: as the task says)"""
    dataset_rows: int | None = None
    """rows of the latency dataset (default: as the task says)"""
    evo_iterations: int | None = None
    """iterations of each search (default: as the task says)"""
    average: int = 5
    """epoch checkpoints averaged before testing"""
    seed: int = 1
    """seed of everything random"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages; see --help."""
    options, out = parse(
        argv,
        TaskRunOptions,
        OutputOptions,
        prog="run_task.py",
        description="Run every stage of a task: data, SuperTransformer, latency, search, training, test.",
    )
    if options.task is None:
        raise ConfigError(f"--task is needed: one of {', '.join(_tasks())}")
    run = _TaskRun(options, out)
    rows = run.all_stages()
    print("\n" + text_table(rows))
    summary = {
        "task": options.task,
        "hardware": options.hardware,
        "models": [row.to_plain() for row in rows],
        "predictor": run.predictor_report,
        "stage_seconds": run.stages.seconds(),
        "stage_cost": run.stages.spent(),
        "machine": versions() | {"device": device_name(torch.device("cpu")), "cores": os.cpu_count()},
    }
    write_text_atomic(run.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    print(f"\nwritten: {run.folder}/summary.json")
    try:
        print(f"written: {write_report(run.folder)}, the page to look at")
    except ConfigError as error:  # without matplotlib; all else is done
        say(f"no report: {error}")
    if out.json:
        print(json.dumps(summary))
    return 0


def _tasks() -> list[str]:
    return sorted(path.parent.name for path in Path("configs").glob("*/supertransformer"))


def _default_limits(rows: Sequence[ModelRow]) -> tuple[float, ...]:
    """Return two limits that every device can meet, from the measured largest and smallest SubTransformer."""
    largest_ms, smallest_ms = rows[0].measured_ms, rows[1].measured_ms
    return tuple(round(smallest_ms + share * (largest_ms - smallest_ms), 1) for share in (0.35, 0.7))


class _TaskRun:
    """The stages of one task on one device, each a command that a user could type."""

    def __init__(self, options: TaskRunOptions, out: OutputOptions) -> None:
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
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = parse_settings(
            [f"--configs={self.super_yml}"], prog="run_task.py", description="", config_flags=("--configs",)
        )[0]
        self.space, _ = space_and_arch(settings.space, settings.arch)
        self.data = Path(settings.task.data or "")
        self.bar = ["--no-progress-bar"] if out.no_progress_bar else []
        count = len(options.latency_constraints) or 2
        self.stages = StageRunner(self.folder, total=4 + 4 + 1 + 4 * count)
        self.gpu = bool(yaml.safe_load(self.dataset_yml.read_text("utf-8")).get("latgpu"))
        self.table = self.folder / "latency.csv"
        self.predictor_path = self.folder / "predictor.pt"
        self.super_best = self.folder / "super" / "checkpoint_best.pt"
        self.predictor_report: dict[str, Any] = {}

    def _one(self, folder: str, pattern: str, otherwise: str = "") -> Path:
        found = sorted((self.configs / folder).glob(pattern))
        if not found and otherwise:
            found = sorted((self.configs / folder).glob(otherwise))
        if len(found) != 1:
            names = (
                ", ".join(path.name for path in sorted((self.configs / folder).glob("*.yml"))) or "nothing"
            )
            raise ConfigError(
                f"{self.configs / folder} must hold exactly one file {pattern}, found {len(found)} (it holds "
                f"{names}); see the README on adding a device or a task"
            )
        return found[0]

    def all_stages(self) -> list[ModelRow]:
        """Run everything and return the table's rows."""
        options = self.options
        self._preprocess()
        self._python(
            "train the SuperTransformer",
            "train.py",
            [f"--configs={self.super_yml}", f"--save-dir={self.super_best.parent}"]
            + self._optional("--max-update", options.super_updates),
            [self.super_yml, *self._data_files("train"), *self._data_files("valid")],
            [self.super_best],
            state=[self.super_best.parent],
        )
        self._python(
            "measure the latency dataset",
            "latency_dataset.py",
            [f"--configs={self.dataset_yml}", f"--lat-dataset-path={self.table}"]
            + self._optional("--lat-dataset-size", options.dataset_rows),
            [self.dataset_yml, *sorted(self.data.glob("dict.*.txt"))],
            [self.table],
            state=[self.table, record_path(self.table, folder=False)],
        )
        self.predictor_report = self._python(
            "train the latency predictor",
            "latency_predictor.py",
            [
                f"--configs={self.predictor_yml}",
                f"--lat-dataset-path={self.table}",
                f"--ckpt-path={self.predictor_path}",
            ],
            [self.predictor_yml, self.table],
            [self.predictor_path],
        )
        predictor = LatencyPredictor.load(self.predictor_path)
        rows = [
            self._inherited(name, arch, predictor)
            for name, arch in (("largest", self.space.largest()), ("smallest", self.space.smallest()))
        ]
        found = self._search(options.latency_constraints or _default_limits(rows))
        return rows + [self._trained(limit_ms, path, predictor) for limit_ms, path in found.items()]

    def _preprocess(self) -> None:
        raw = [self.options.raw] if self.options.raw else []
        script = self.configs / "preprocess.sh"
        self.stages.run(
            Stage(
                "prepare the data",
                ["bash", str(script), *raw],
                [script],
                [self.data],
                json=False,
                quick=True,  # the script knows by itself what is up to date
            )
        )

    def _inherited(self, name: str, arch: Arch, predictor: LatencyPredictor) -> ModelRow:
        arch_yml = self.folder / f"{name}.yml"
        text = "".join(f"{key}: {value}\n" for key, value in arch.to_yaml().items())
        if not arch_yml.exists() or arch_yml.read_text("utf-8") != text:
            write_text_atomic(arch_yml, text)
        score = self._test(f"test {name} (inherited weights)", self.super_best, arch_yml)
        return self._row(name, arch, arch_yml, None, predictor, score, "inherited", None)

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
                f"--ckpt-path={self.predictor_path}",
                "--latency-constraints",
                *(f"{limit_ms:g}" for limit_ms in found),
                f"--write-config-path={next(iter(found.values()))}",
                f"--search-dir={search_dir}",
            ]
            + self._optional("--evo-iter", self.options.evo_iterations),
            [self.super_yml, self.evo_yml, self.super_best, self.predictor_path],
            list(found.values()),
            state=[search_dir],
        )
        return found

    def _trained(self, limit_ms: float, arch_yml: Path, predictor: LatencyPredictor) -> ModelRow:
        """Return the row of a found architecture, trained from its slice, averaged and tested."""
        name = arch_yml.stem
        save_dir = self.folder / name
        self._python(
            f"train {name}",
            "train.py",
            [
                f"--configs={arch_yml}",
                f"--sub-configs={self.common_yml}",
                f"--restore-file={self.super_best}",
                f"--save-dir={save_dir}",
            ]
            + self._optional("--max-update", self.options.sub_updates),
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
            shared=False,
        )
        score = self._test(f"test {name}", averaged, arch_yml)
        arch = Arch.from_yaml(yaml.safe_load(arch_yml.read_text("utf-8")))
        size = averaged.stat().st_size
        return self._row(name, arch, arch_yml, limit_ms, predictor, score, "trained", size)

    def _test(self, title: str, checkpoint: Path, arch_yml: Path) -> Any:
        script = self.configs / "test.sh"
        return self.stages.run(
            Stage(
                title,
                ["bash", str(script), str(checkpoint), str(arch_yml), "sacre"],
                [script, checkpoint, arch_yml],
                [],
            )
        )

    def _row(
        self,
        name: str,
        arch: Arch,
        arch_yml: Path,
        limit_ms: float | None,
        predictor: LatencyPredictor,
        score: dict[str, Any],
        weights: str,
        size: int | None,
    ) -> ModelRow:
        conditions = predictor.conditions
        profile = self._python(
            f"measure {name}",
            "train.py",
            [
                f"--configs={arch_yml}",
                f"--sub-configs={self.super_yml}",
                "--profile-flops",
                "--latgpu" if self.gpu else "--latcpu",
                *condition_flags(conditions),
            ],
            [arch_yml, self.super_yml, self.table],
            [],
        )
        return ModelRow(
            name,
            profile["params"],
            profile["flops"],
            limit_ms,
            predictor.predict_ms(arch),
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
        shared: bool = True,
    ) -> Any:
        """Run one of the scripts; `shared` ones take --seed and know progress bars."""
        common = [f"--seed={self.options.seed}"] if shared else []
        line = [sys.executable, script, *flags, *common, *self.bar, "--json"]
        return self.stages.run(Stage(title, line, inputs, outputs, state))

    def _data_files(self, split: str) -> list[Path]:
        return sorted([*self.data.glob(f"{split}.*"), *self.data.glob("dict.*.txt")])

    @staticmethod
    def _optional(flag: str, value: int | None) -> list[str]:
        return [] if value is None else [f"{flag}={value}"]
