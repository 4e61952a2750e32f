"""hat run: every stage of a task folder, from raw text to a table of measured models and a report."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml

from hat.cli import evo_search, latency_dataset, latency_predictor, train
from hat.cli.options import OutputOptions, command, parse
from hat.cli.settings import TaskData, parse_settings, space_and_arch
from hat.cli.stages import Stage, Stages, shell
from hat.config import Options, flag_of, option, to_yaml_values
from hat.errors import ConfigError
from hat.files.atomic import write_text_atomic
from hat.files.lock import FolderLock
from hat.latency.collect import measure_fresh, profile
from hat.latency.measure import MeasureConfig
from hat.latency.predictor import LatencyPredictor
from hat.log import versions
from hat.model.cpu import device_name
from hat.report.page import report
from hat.run import Run, read_record, record_path
from hat.space import Arch
from hat.train.checkpoint import average

Row = dict[str, Any]  # a model of the final table, by the keys of summary.json; None: not measured
_SHOWN = ("json", "no-progress-bar", "configs", "sub-configs", "evo-configs")  # no result depends on these


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
        words, flags = [f"--configs={self.super_yml}"], ("--configs",)
        self.settings = parse_settings(words, prog="hat run", description="", config_flags=flags)[0]
        self.space, _ = space_and_arch(self.settings.space, self.settings.arch)
        self.data = Path(self.settings.task.data or "")
        self.gpu = bool(yaml.safe_load(self.dataset_yml.read_text("utf-8")).get("latgpu"))
        self.table, self.predictor = self.folder / "latency.csv", self.folder / "predictor.pt"
        self.super_best = self.folder / "super" / "checkpoint_best.pt"
        self.common = [f"--seed={options.seed}", *(["--no-progress-bar"] if quiet else [])]
        self.rows: list[Row] = []

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
        advice, cpu = "wait for it, stop it, or give another --run-dir", device_name(torch.device("cpu"))
        with FolderLock(self.folder, advice):
            held = read_record(self.folder, folder=True) if record_path(self.folder).exists() else None
            ymls = (self.super_yml, self.common_yml, self.dataset_yml, self.predictor_yml, self.evo_yml)
            run = Run(
                record_path(self.folder),
                "task",
                settings=to_yaml_values(self.options),
                inputs={str(path.relative_to(self.configs)): path for path in ymls if path.exists()},
                device={"device": cpu},
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
                    "models": self.rows,
                    "predictor": scores,
                    "stage_seconds": {name: each["seconds"] for name, each in done.items()},
                    "stage_cost": {name: each["spent"] for name, each in done.items()},
                    "machine": versions() | {"device": cpu, "cores": os.cpu_count()},
                }
                run.results |= summary
        write_text_atomic(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        return summary

    def _all_stages(self) -> Any:
        """Run the stages, fill `rows`, and return the scores of the predictor."""
        options = self.options
        script = self.configs / "preprocess.sh"
        raw = [options.raw] if options.raw else []
        work = partial(shell, ["bash", str(script), *raw])  # it knows by itself what is up to date
        given = {"raw": options.raw}
        self.stages.run(Stage("prepare the data", given, {"script": script}, [self.data], work, always=True))
        dictionaries = sorted(self.data.glob("dict.*.txt"))
        pairs = [path for split in ("train", "valid") for path in sorted(self.data.glob(f"{split}.*"))]
        super_dir, title = self.super_best.parent, "train the SuperTransformer"
        words = _words(configs=self.super_yml, save_dir=super_dir, max_update=options.super_updates)
        self._stage(title, train, words, [*pairs, *dictionaries], [self.super_best], [super_dir])
        rows, title = options.dataset_rows, "measure the latency dataset"
        words = _words(configs=self.dataset_yml, lat_dataset_path=self.table, lat_dataset_size=rows)
        self._stage(title, latency_dataset, words, dictionaries, [self.table], [self.table])
        words = _words(configs=self.predictor_yml, lat_dataset_path=self.table, ckpt_path=self.predictor)
        title = "train the latency predictor"
        scores = self._stage(title, latency_predictor, words, [self.table], [self.predictor])
        predictor = LatencyPredictor.load(self.predictor)
        self.archs = {"largest": self.space.largest(), "smallest": self.space.smallest()}
        for name, arch in self.archs.items():
            path = self.folder / f"{name}.yml"
            text = "".join(f"{key}: {value}\n" for key, value in arch.to_yaml().items())
            if not path.exists() or path.read_text("utf-8") != text:
                write_text_atomic(path, text)
            score = self._test(f"test {name} (inherited weights)", self.super_best, path)
            self.rows.append(self._row(name, None, predictor, score, None))
        limits_ms = options.latency_constraints or _default_limits(self.rows)
        for limit_ms, path in self._search(limits_ms).items():
            self.archs[path.stem] = Arch.from_yaml(path)
            self.rows.append(self._trained(limit_ms, path, predictor))
        return scores

    def _stage(
        self,
        title: str,
        module: ModuleType,
        words: list[str],
        inputs: Sequence[Path],
        outputs: Sequence[Path],
        state: Sequence[Path] = (),
    ) -> Any:
        """Run what a command does as a stage: its options are the settings, but for the files it is given."""
        options = module.parsed([*words, *self.common])
        files = {str(path) for path in (*inputs, *outputs, *state)}
        groups = [one for each in options for one in (each if isinstance(each, tuple) else (each,))]
        chosen = to_yaml_values(*groups)
        settings = {
            key: value for key, value in chosen.items() if str(value) not in files and key not in _SHOWN
        }

        def work() -> Any:
            done = module.run(options, [*words, *self.common])
            if isinstance(done, int) and done:
                raise SystemExit(done)  # a signal stopped it, or it failed and said why
            return done

        named = {path.name: path for path in inputs}
        record = (*state, *outputs)[0]
        return self.stages.run(Stage(title, settings, named, outputs, work, state, record))

    def _search(self, limits_ms: Sequence[float]) -> dict[float, Path]:
        """Return the YAML file of the architecture found under each limit; one search serves all of them."""
        found = {limit_ms: self.folder / f"found@{limit_ms:g}ms.yml" for limit_ms in limits_ms}
        search_dir = self.folder / "search"
        words = _words(configs=self.super_yml, evo_configs=self.evo_yml, restore_file=self.super_best)
        words += _words(ckpt_path=self.predictor, search_dir=search_dir, evo_iter=self.options.evo_iterations)
        words += [f"--write-config-path={next(iter(found.values()))}", "--latency-constraints"]
        words += [f"{limit_ms:g}" for limit_ms in found]
        title = f"search under {', '.join(f'{limit_ms:g}' for limit_ms in found)} ms"
        made, inputs = list(found.values()), [self.super_best, self.predictor]
        self._stage(title, evo_search, words, inputs, made, [search_dir])
        return found

    def _trained(self, limit_ms: float, arch_yml: Path, predictor: LatencyPredictor) -> Row:
        """Return the row of a found architecture, trained from its slice, averaged and tested."""
        name, save_dir = arch_yml.stem, self.folder / arch_yml.stem
        words = _words(configs=arch_yml, sub_configs=self.common_yml, restore_file=self.super_best)
        words += _words(save_dir=save_dir, max_update=self.options.sub_updates)
        made = [save_dir / "checkpoint_best.pt"]
        self._stage(f"train {name}", train, words, [self.super_best], made, [save_dir])
        count = self.options.average
        averaged, last = save_dir / f"average_model_{count}.pt", save_dir / "checkpoint_last.pt"

        def work() -> str:
            return str(average([save_dir], averaged, num_epoch_checkpoints=count))

        settings, inputs = {"num-epoch-checkpoints": count}, {"checkpoint": last}
        self.stages.run(Stage(f"average {name}", settings, inputs, [averaged], work, record=averaged))
        score = self._test(f"test {name}", averaged, arch_yml)
        return self._row(name, limit_ms, predictor, score, averaged.stat().st_size)

    def _test(self, title: str, checkpoint: Path, arch_yml: Path) -> Any:
        """Translate and score with the task's own test.sh, which knows its beam search; returns the score."""
        script = self.configs / "test.sh"
        words = ["bash", str(script), str(checkpoint), str(arch_yml), "sacre"]
        inputs = {"script": script, "checkpoint": checkpoint, "architecture": arch_yml}
        return self.stages.run(Stage(title, {}, inputs, [], lambda: shell(words, result=True)))

    def _row(
        self,
        name: str,
        limit_ms: float | None,
        predictor: LatencyPredictor,
        score: Mapping[str, Any],
        size: int | None,
    ) -> Row:
        """Measure an architecture and return its row; without a limit it has inherited weights."""
        arch, conditions, sizes = (
            self.archs[name],
            predictor.conditions,
            TaskData(self.settings.task).vocab_sizes,
        )
        model, length = self.settings.model, self.settings.task.sentence_length()

        def work() -> Any:
            """Measure in a fresh process, under the conditions of the table."""
            common: dict[str, Any] = {"vocab_sizes": sizes, "model_config": model, "seed": self.options.seed}
            common["config"] = MeasureConfig(length, length)
            found = profile(self.space, arch, flops=True, **common)
            device = "cuda" if self.gpu else "cpu"
            (timing,) = measure_fresh([arch], self.space, conditions, device=device, **common)
            print(f"{name}: {found['params'] / 1e6:.2f} M parameters, {timing.total_ms:.2f} ms")
            return found | {"latency_ms": timing.total_ms, "conditions": dict(timing.conditions)}

        chosen = arch.to_yaml() | {"conditions": conditions, "model": asdict(model), "length": length}
        found = self.stages.run(Stage(f"measure {name}", chosen, {"table": self.table}, [], work))
        row = {"name": name, "params": found["params"], "flops": found["flops"], "constraint_ms": limit_ms}
        row |= {"predicted_ms": predictor.predict_ms(arch), "measured_ms": found["latency_ms"]}
        weights = "inherited" if limit_ms is None else "trained"
        row |= {"bleu": float(score["bleu"]), "weights": weights, "signature": score.get("signature")}
        within = None if limit_ms is None else row["measured_ms"] <= limit_ms
        return row | {"size_bytes": size, "within_limit": within, "arch": arch.to_yaml()}


def _words(**options: object) -> list[str]:
    """Return the flags of options that are not None."""
    return [f"{flag_of(name)}={value}" for name, value in options.items() if value is not None]


def _tasks() -> list[str]:
    return sorted(path.parent.name for path in Path("configs").glob("*/supertransformer"))


def _default_limits(rows: Sequence[Row]) -> tuple[float, ...]:
    """Return two limits that every device can meet, from the measured largest and smallest SubTransformer."""
    largest_ms, smallest_ms = (row["measured_ms"] for row in rows[:2])
    return tuple(round(smallest_ms + share * (largest_ms - smallest_ms), 1) for share in (0.35, 0.7))


def text_table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text; if a measured latency is above its limit, a line says so."""
    header = ("model", "#Params", "FLOPs", "limit ms", "predicted ms", "measured ms", "BLEU", "weights")
    cells = [header]
    for row in rows:
        limit = "" if row["constraint_ms"] is None else f"{row['constraint_ms']:g}"
        times = (limit, f"{row['predicted_ms']:.2f}", f"{row['measured_ms']:.2f}", f"{row['bleu']:.2f}")
        sizes = (f"{row['params'] / 1e6:.2f} M", f"{row['flops'] / 1e9:.3f} G")
        mark = " !" if row["within_limit"] is False else ""
        cells.append((row["name"], *sizes, *times, row["weights"] + mark))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        name, *numbers, weights = (text.rjust(width) for text, width in zip(line, widths, strict=True))
        lines.append("  ".join((name.strip().ljust(widths[0]), *numbers, weights.strip())).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    for row in rows:
        if row["within_limit"] is False:
            limit_ms, measured_ms = row["constraint_ms"], row["measured_ms"]
            percent = 100 * (measured_ms / limit_ms - 1)
            lines.append(
                f"! {row['name']} measures {measured_ms:.2f} ms, {percent:.1f}% above its limit of "
                f"{limit_ms:g} ms; search under a lower limit, or measure a larger latency dataset"
            )
    return "\n".join(lines)
