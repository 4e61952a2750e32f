"""hat run: every stage of a task folder, from raw text to a table of measured models and a report."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from hat.config import Options, flag_of, option, to_yaml_values
from hat.errors import ConfigError, HatError
from hat.files.atomic import file_digest, write_text_atomic
from hat.latency.collect import measure_fresh, profile
from hat.latency.measure import MeasureConfig
from hat.latency.predictor import LatencyPredictor
from hat.log import versions
from hat.model.cpu import device_name
from hat.report.page import report
from hat.run import Run, cpu_seconds, identity_of, read_record
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
    task = Task(options, quiet=out.no_progress_bar)
    summary = task.run()
    print(f"\n{text_table(task.rows)}\n\nwritten: {task.folder}/summary.json")
    print(f"written: {report(task.folder)}, the page to look at")
    if out.json:
        print(json.dumps(summary))
    return 0


class Stages:
    """Runs stages in order and keeps what came out in the record of the task.

    Raises HatError if a stage fails; running again goes on there.
    """

    def __init__(self, run: Run, total: int) -> None:
        self._run, self._total, self._count = run, total, 0
        self.known: dict[str, dict[str, Any]] = run.results.setdefault("stages", {})

    def run(
        self,
        name: str,
        function: Callable[[], Any],
        *,
        settings: Mapping[str, Any],
        inputs: Sequence[Path],
        outputs: Sequence[Path] = (),
        state: Path | None = None,
        always: bool = False,
    ) -> Any:
        """Run one stage, unless settings and the content of inputs are what they were and outputs exist.

        `function` does the work and returns plain values, which are returned; with `always` it decides for
        itself whether there is anything to do. `state` is what it goes on from when it is started again; if
        settings or inputs changed, that is moved out of its way.
        """
        self._count += 1
        title = f"stage {self._count} of {self._total}: {name}"
        digests = {path.name: file_digest(path) for path in inputs if path.is_file()}
        key, known = identity_of(name, settings, digests), self.known.get(name, {})
        same = known.get("key") == key
        whole = known.get("seconds") is not None and all(path.exists() for path in outputs)
        if same and whole and not always:
            print(f"{title}: up to date ({known['seconds']:.0f} s when it ran)", flush=True)
            return known["result"]
        print(title, flush=True)
        if state and state.exists() and not same:
            old = state.with_name(state.name + ".old")
            shutil.rmtree(old, ignore_errors=True)  # a file is replaced below
            os.replace(state, old)
            print(f"the inputs changed: {state} was moved to {old}", flush=True)
        spent = Counter(known["spent"] if same else {})
        entry = self.known[name] = {"key": key, "seconds": None, "result": None, "spent": dict(spent)}
        self._run.write()
        start, cpu_s, threads = time.perf_counter(), cpu_seconds(), torch.get_num_threads()
        try:
            result = function()
        finally:  # what failed or was interrupted counts: the next try goes on from there
            torch.set_num_threads(threads)  # a stage may have set its own
            wall_s = time.perf_counter() - start
            spent.update({"wall_s": wall_s, "cpu_s": cpu_seconds() - cpu_s, "sittings": 1})
            record = state or next(iter(outputs), None)
            own = read_record(record, note=lambda text: None).cost if record else None
            for part, value in own._asdict().items() if own else ():  # it knows those that were killed, too
                spent[part] = max(spent[part], value or 0)
            entry["spent"] = {part: round(value, 2) for part, value in spent.items()}
            self._run.write()
        if missing := [str(path) for path in outputs if not path.exists()]:
            raise HatError(f"stage {name} ended without making {', '.join(missing)}; see its output above")
        entry |= {"seconds": round(wall_s, 2), "result": result}
        self._run.write()
        return result


def shell(*words: str, result: bool = False) -> Any:
    """Run a bash script; with `result` return the last line that it prints, which is JSON."""
    env = os.environ | {"PYTHON": sys.executable, "HAT_JSON": "1" if result else ""}
    done = subprocess.run(["bash", *words], stdout=subprocess.PIPE if result else None, text=True, env=env)
    lines = (done.stdout or "").splitlines()
    print("".join(f"{line}\n" for line in (lines if done.returncode else lines[:-1])), end="", flush=True)
    if done.returncode:
        raise HatError(
            f"{Path(words[0]).name} failed with exit code {done.returncode}; its message stands above. The "
            "same command goes on from there"
        )
    return json.loads(lines[-1]) if result else None


class Task:
    """The stages of one task on one device; `rows` are those of the final table once `run` has ended."""

    def __init__(self, options: TaskRunOptions, *, quiet: bool) -> None:
        tasks = ", ".join(sorted(path.parent.name for path in Path("configs").glob("*/supertransformer")))
        if options.task is None:
            raise ConfigError(f"--task is needed: one of {tasks}")
        self.options, self.configs = options, Path("configs") / options.task
        if not self.configs.is_dir():
            raise ConfigError(f"there is no task {options.task!r}; there are {tasks} in configs/")
        device = options.hardware.partition("_")[2]  # the release names searches without cpu_ and gpu_
        self.super_yml = self._one("supertransformer/*.yml")
        self.dataset_yml = self._one(f"latency_dataset/{options.hardware}.yml")
        self.predictor_yml = self._one(f"latency_predictor/{options.hardware}.yml")
        self.evo_yml = self._one(f"evo_search/*_{options.hardware}.yml", f"evo_search/*_{device}.yml")
        self.common_yml = self.configs / "subtransformer" / "common.yml"
        self.folder = Path(options.run_dir or f"runs/{options.task}/{options.hardware}")
        words, flags = [f"--configs={self.super_yml}"], ("--configs",)
        self.settings = parse_settings(words, prog="hat run", description="", config_flags=flags)[0]
        self.space, _ = space_and_arch(self.settings.space, self.settings.arch)
        self.gpu = bool(yaml.safe_load(self.dataset_yml.read_text("utf-8")).get("latgpu"))
        self.super_best = self.folder / "super" / "checkpoint_best.pt"
        self.common = [f"--seed={options.seed}", *(["--no-progress-bar"] if quiet else [])]
        self.rows: list[Row] = []

    def _one(self, *patterns: str) -> Path:
        """Return the file of the first pattern that has any."""
        found = next(filter(None, (sorted(self.configs.glob(pattern)) for pattern in patterns)), [])
        if len(found) == 1:
            return found[0]
        folder, _, name = patterns[0].partition("/")
        held = ", ".join(path.name for path in sorted((self.configs / folder).glob("*.yml"))) or "nothing"
        raise ConfigError(
            f"{self.configs / folder} must hold exactly one file {name}, found {len(found)} (it holds "
            f"{held}); see the README on adding a device or a task"
        )

    def run(self) -> dict[str, Any]:
        """Run everything and return the summary, which is written to summary.json and the record, too."""
        ymls = (self.super_yml, self.common_yml, self.dataset_yml, self.predictor_yml, self.evo_yml)
        facts: dict[str, Any] = {"device": device_name(torch.device("cpu"))}
        held = read_record(self.folder, folder=True).results
        with Run.folder(
            self.folder,
            "task",
            advice="wait for it, stop it, or give another --run-dir",
            settings=to_yaml_values(self.options),
            inputs={str(path.relative_to(self.configs)): path for path in ymls if path.exists()},
            device=facts,
            threads=torch.get_num_threads(),
        ) as run:
            run.results |= held
            limits = len(self.options.latency_constraints) or 2
            self.stages = Stages(run, total=9 + 4 * limits)
            scores = self._all_stages()
            known = self.stages.known
            summary = {
                "task": self.options.task,
                "hardware": self.options.hardware,
                "models": self.rows,
                "predictor": scores,
                "stage_seconds": {name: entry["seconds"] for name, entry in known.items()},
                "stage_cost": {name: entry["spent"] for name, entry in known.items()},
                "machine": versions() | facts | {"cores": os.cpu_count()},
            }
            run.results |= summary
        write_text_atomic(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        return summary

    def _all_stages(self) -> Any:
        """Run the stages, fill `rows`, and return the scores of the predictor."""
        options, data = self.options, Path(self.settings.task.data or "")
        script, raw = self.configs / "preprocess.sh", [options.raw] if options.raw else []
        work = partial(shell, str(script), *raw)  # the script knows by itself what is up to date
        how: dict[str, Any] = {"settings": {"raw": options.raw}, "inputs": [script], "outputs": [data]}
        self.stages.run("prepare the data", work, always=True, **how)
        dictionaries = sorted(data.glob("dict.*.txt"))
        pairs = [path for split in ("train", "valid") for path in sorted(data.glob(f"{split}.*"))]
        best, table, predictor = self.super_best, self.folder / "latency.csv", self.folder / "predictor.pt"
        words = _words(configs=self.super_yml, save_dir=best.parent, max_update=options.super_updates)
        self._stage("train the SuperTransformer", train, words, pairs + dictionaries, [best], best.parent)
        rows = options.dataset_rows
        words = _words(configs=self.dataset_yml, lat_dataset_path=table, lat_dataset_size=rows)
        self._stage("measure the latency dataset", latency_dataset, words, dictionaries, [table], table)
        words = _words(configs=self.predictor_yml, lat_dataset_path=table, ckpt_path=predictor)
        scores = self._stage("train the latency predictor", latency_predictor, words, [table], [predictor])
        self.predictor = LatencyPredictor.load(predictor)
        for arch, name in ((self.space.largest(), "largest"), (self.space.smallest(), "smallest")):
            path = self.folder / f"{name}.yml"
            write_text_atomic(path, "".join(f"{key}: {value}\n" for key, value in arch.to_yaml().items()))
            score = self._test(f"test {name} (inherited weights)", best, path)
            self.rows.append(self._row(path, score))
        limits = {f"{limit_ms:g}": limit_ms for limit_ms in options.latency_constraints or self._limits_ms()}
        found, folder = [self.folder / f"found@{limit}ms.yml" for limit in limits], self.folder / "search"
        words = _words(configs=self.super_yml, evo_configs=self.evo_yml, restore_file=best, search_dir=folder)
        words += _words(ckpt_path=predictor, write_config_path=found[0], evo_iter=options.evo_iterations)
        words += ["--latency-constraints", *limits]
        title = f"search under {', '.join(limits)} ms"
        self._stage(title, evo_search, words, [best, predictor], found, folder)
        for limit_ms, path in zip(limits.values(), found, strict=True):
            self.rows.append(self._trained(limit_ms, path))
        return scores

    def _stage(
        self,
        name: str,
        module: ModuleType,
        words: list[str],
        inputs: Sequence[Path],
        outputs: Sequence[Path],
        state: Path | None = None,
    ) -> Any:
        """Run a command as a stage; its options, but for files, are what the result depends on."""
        words = [*words, *self.common]
        options = module.parsed(words)
        files = {str(path) for path in (*inputs, *outputs, state)}
        groups = [one for each in options for one in (each if isinstance(each, tuple) else (each,))]
        chosen = to_yaml_values(*groups)
        settings = {key: chosen[key] for key in chosen if str(chosen[key]) not in files and key not in _SHOWN}

        def work() -> Any:
            done = module.run(options, words)
            if isinstance(done, int) and done:
                raise SystemExit(done)  # a signal stopped it, or it failed and said why
            return done

        return self.stages.run(name, work, settings=settings, inputs=inputs, outputs=outputs, state=state)

    def _limits_ms(self) -> tuple[float, ...]:
        """Return two limits between the upper bounds of smallest and largest: an architecture keeps each."""
        small_ms, large_ms = map(self.predictor.upper_ms, (self.space.smallest(), self.space.largest()))
        return tuple(round(small_ms + share * (large_ms - small_ms), 1) for share in (0.35, 0.7))

    def _trained(self, limit_ms: float, arch_yml: Path) -> Row:
        """Return the row of a found architecture, trained from its slice, averaged and tested."""
        name, folder, count = arch_yml.stem, self.folder / arch_yml.stem, self.options.average
        words = _words(configs=arch_yml, sub_configs=self.common_yml, restore_file=self.super_best)
        words += _words(save_dir=folder, max_update=self.options.sub_updates)
        best = folder / "checkpoint_best.pt"
        self._stage(f"train {name}", train, words, [self.super_best], [best], folder)
        averaged = folder / f"average_model_{count}.pt"
        self.stages.run(
            f"average {name}",
            lambda: str(average([folder], averaged, num_epoch_checkpoints=count)[0]),
            settings={"num-epoch-checkpoints": count},
            inputs=[folder / "checkpoint_last.pt"],
            outputs=[averaged],
        )
        score = self._test(f"test {name}", averaged, arch_yml)
        return self._row(arch_yml, score, limit_ms, averaged.stat().st_size)

    def _test(self, name: str, checkpoint: Path, arch_yml: Path) -> Any:
        """Translate and score with the task's own test.sh, which knows its beam search; returns the score."""
        inputs = [self.configs / "test.sh", checkpoint, arch_yml]
        work = partial(shell, *map(str, inputs), "sacre", result=True)
        return self.stages.run(name, work, settings={}, inputs=inputs)

    def _row(
        self, arch_yml: Path, score: Mapping[str, Any], limit_ms: float | None = None, size: int | None = None
    ) -> Row:
        """Measure an architecture and return its row; without a limit it has inherited weights."""
        name, arch, conditions = arch_yml.stem, Arch.from_yaml(arch_yml), self.predictor.conditions
        model, length = self.settings.model, self.settings.task.sentence_length()

        def work() -> Any:
            """Measure in a fresh process, under the conditions of the table."""
            common: dict[str, Any] = {
                "vocab_sizes": TaskData(self.settings.task).vocab_sizes,
                "config": MeasureConfig(length, length),
                "model_config": model,
                "seed": self.options.seed,
            }
            found = profile(self.space, arch, flops=True, **common)
            device = "cuda" if self.gpu else "cpu"
            (timing,) = measure_fresh([arch], self.space, conditions, device=device, **common)
            print(f"{name}: {found['params'] / 1e6:.2f} M parameters, {timing.total_ms:.2f} ms")
            return found | {"latency_ms": timing.total_ms, "conditions": dict(timing.conditions)}

        chosen = arch.to_yaml() | {"conditions": conditions, "model": asdict(model), "length": length}
        found = self.stages.run(
            f"measure {name}", work, settings=chosen, inputs=[self.folder / "latency.csv"]
        )
        return {
            "name": name,
            "params": found["params"],
            "flops": found["flops"],
            "constraint_ms": limit_ms,
            "predicted_ms": self.predictor.predict_ms(arch),
            "measured_ms": found["latency_ms"],
            "bleu": float(score["bleu"]),
            "weights": "inherited" if limit_ms is None else "trained",
            "signature": score.get("signature"),
            "size_bytes": size,
            "within_limit": None if limit_ms is None else found["latency_ms"] <= limit_ms,
            "arch": arch.to_yaml(),
        }


def _words(**options: object) -> list[str]:
    """Return the flags of options that are not None."""
    return [f"{flag_of(name)}={value}" for name, value in options.items() if value is not None]


def text_table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text; if a measured latency is above its limit, a line says so."""
    cells = [("model", "#Params", "FLOPs", "limit ms", "predicted ms", "measured ms", "BLEU", "weights")]
    notes = []
    for row in rows:
        name, limit_ms, measured_ms, mark = row["name"], row["constraint_ms"], row["measured_ms"], ""
        if row["within_limit"] is False:
            mark, percent = " !", 100 * (measured_ms / limit_ms - 1)
            notes.append(
                f"! {name} measures {measured_ms:.2f} ms, {percent:.1f}% above its limit of {limit_ms:g} ms; "
                "search under a lower limit, or measure a larger latency dataset"
            )
        sizes = (f"{row['params'] / 1e6:.2f} M", f"{row['flops'] / 1e9:.3f} G")
        times = ("" if limit_ms is None else f"{limit_ms:g}", f"{row['predicted_ms']:.2f}")
        cells.append(
            (name, *sizes, *times, f"{measured_ms:.2f}", f"{row['bleu']:.2f}", row["weights"] + mark)
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *numbers, weights in cells:
        texts = [text.rjust(width) for text, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join((name.ljust(widths[0]), *texts, weights)))
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines + notes)
