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
from typing import Any, NamedTuple

import torch
import yaml

from hat.cli import evo_search, latency_dataset, latency_predictor, train
from hat.cli.options import OutputOptions, command, parse
from hat.cli.settings import TaskData, parse_settings, space_and_arch
from hat.config import Options, flag_of, option, to_yaml_values
from hat.errors import ConfigError, HatError
from hat.files.atomic import file_digest, write_text_atomic
from hat.latency.collect import measure_fresh, reference_of
from hat.latency.measure import MeasureConfig
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import read_table
from hat.log import versions
from hat.model.count import count_macs, count_params
from hat.model.cpu import device_name
from hat.report.collect import Model, Report, duration, in_ms, kept, stage_costs
from hat.report.page import report
from hat.rng import rng_for
from hat.run import Run, cpu_seconds, identity_of, read_record
from hat.space import Arch, sample
from hat.train.checkpoint import average

Row = dict[str, Any]  # a model of the final table, by the keys of summary.json; None: not measured
_FIRST = (
    "prepare the data",
    "train the SuperTransformer",
    "measure the latency dataset",
    "train the latency predictor",
)
_OF_A_MODEL, _LAST = ("train", "average", "test"), "measure all the models side by side"
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
    no_baselines: bool = False
    """do not train what found ones are compared with: the largest, the smallest and hand-made ones"""
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
    print(f"\n{text_table(task.rows)}\n\n{summary['found']}\n{summary['price']}")
    print(f"written: {task.folder}/summary.json")
    print(f"written: {report(task.folder)}, the page to look at")
    if out.json:
        print(json.dumps(summary))
    return 0


class Stages:
    """Runs stages in order and keeps what came out in the record of the task.

    Raises HatError if a stage fails; running again goes on there.
    """

    def __init__(self, run: Run, plan: Sequence[str]) -> None:
        self._run, self.plan = run, list(plan)
        self.known: dict[str, dict[str, Any]] = run.results.setdefault("stages", {})
        self._seconds = {_like(name): entry["spent"].get("wall_s") for name, entry in self.known.items()}

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
        title = f"stage {self.plan.index(name) + 1} of {len(self.plan)}: {name}"
        digests = {path.name: file_digest(path) for path in inputs if path.is_file()}
        key, known = identity_of(name, settings, digests), self.known.get(name, {})
        same = known.get("key") == key
        whole = known.get("seconds") is not None and all(path.exists() for path in outputs)
        if same and whole and not always:
            print(f"{title}: up to date ({known['seconds']:.0f} s when it ran)", flush=True)
            return known["result"]
        print(title + self._left(name), flush=True)
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
        self._seconds[_like(name)] = wall_s
        self._run.write()
        return result

    def _left(self, name: str) -> str:
        """Return how long this stage and those after it take, if all of them, or their like, ran before."""
        times = [self._seconds.get(_like(each)) for each in self.plan[self.plan.index(name) :]]
        known = [seconds for seconds in times if seconds is not None]
        return f" (about {duration(sum(known))} left)" if len(known) == len(times) else ""


def _like(stage: str) -> str:
    """Return what a stage has in common with those of other models, or with a search under other limits."""
    return stage if " the " in stage else stage.split()[0]


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
        self.baselines = sorted(self.configs.glob("subtransformer/baseline*.yml"))  # made by hand
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
            self.stages = Stages(run, ())
            scores = self._all_stages()
            known = self.stages.known
            told = Report("", [Model.of_row(row) for row in self.rows], stages=stage_costs(known))
            summary = {
                "task": self.options.task,
                "hardware": self.options.hardware,
                "found": told.found,
                "price": told.price,
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
        options, data, folder = self.options, Path(self.settings.task.data or ""), self.folder
        ends = {"largest": self.space.largest(), "smallest": self.space.smallest()}
        ends |= {path.stem: self.space.check(Arch.from_yaml(path)) for path in self.baselines}
        self._plan([*ends, *(f"limit {n + 1}" for n in range(len(options.latency_constraints) or 2))])
        script, raw = self.configs / "preprocess.sh", [options.raw] if options.raw else []
        work = partial(shell, str(script), *raw)  # the script knows by itself what is up to date
        how: dict[str, Any] = {"settings": {"raw": options.raw}, "inputs": [script], "outputs": [data]}
        self.stages.run("prepare the data", work, always=True, **how)
        dictionaries = sorted(data.glob("dict.*.txt"))
        pairs = [path for split in ("train", "valid") for path in sorted(data.glob(f"{split}.*"))]
        best, table, predictor = self.super_best, folder / "latency.csv", folder / "predictor.pt"
        words = _words(configs=self.super_yml, save_dir=best.parent, max_update=options.super_updates)
        self._stage("train the SuperTransformer", train, words, pairs + dictionaries, [best], best.parent)
        rows = options.dataset_rows
        words = _words(configs=self.dataset_yml, lat_dataset_path=table, lat_dataset_size=rows)
        self._stage("measure the latency dataset", latency_dataset, words, dictionaries, [table], table)
        words = _words(configs=self.predictor_yml, lat_dataset_path=table, ckpt_path=predictor)
        scores = self._stage("train the latency predictor", latency_predictor, words, [table], [predictor])
        self.predictor = LatencyPredictor.load(predictor)
        limits = {f"{limit_ms:g}": limit_ms for limit_ms in options.latency_constraints or self._limits_ms()}
        found = {limit_ms: folder / f"found@{limit}ms.yml" for limit, limit_ms in limits.items()}
        words = _words(configs=self.super_yml, evo_configs=self.evo_yml, restore_file=best)
        words += _words(ckpt_path=predictor, search_dir=folder / "search", evo_iter=options.evo_iterations)
        words += _words(write_config_path=next(iter(found.values())))
        words += ["--latency-constraints", *limits]
        self._plan(
            [*ends, *(path.stem for path in found.values())], search := f"search under {', '.join(limits)} ms"
        )
        self._stage(search, evo_search, words, [best, predictor], [*found.values()], folder / "search")
        models = [_Model(name, arch, not options.no_baselines) for name, arch in ends.items()]
        for limit_ms, path in found.items():
            models.append(_Model(path.stem, Arch.from_yaml(path), True, limit_ms))
        once = {(model.arch, model.trained): model for model in reversed(models)}  # the first of equal ones
        self._plan([model.name for model in reversed(once.values())], search)
        tested = {key: self._trained_and_tested(once[key]) for key in reversed(once)}
        archs = list(dict.fromkeys(model.arch for model in models))
        timings = dict(zip(archs, self._measured(archs), strict=True))
        for model in models:
            same = once[model.arch, model.trained].name
            known = tested[model.arch, model.trained] | timings[model.arch]
            self.rows.append(self._row(model, None if same == model.name else same, known))
        return scores

    def _plan(self, models: Sequence[str], search: str = "search") -> None:
        """Say which stages there are, as far as it is known."""
        inherited = (
            ()
            if not self.options.no_baselines
            else ("largest", "smallest", *(p.stem for p in self.baselines))
        )
        self.stages.plan[:] = [*_FIRST, search]
        for name in models:
            self.stages.plan += (
                [f"test {name}"] if name in inherited else [f"{verb} {name}" for verb in _OF_A_MODEL]
            )
        self.stages.plan.append(_LAST)

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
        """Return two limits in ms between the upper bounds of the space; some architectures keep each."""
        rng = rng_for(self.options.seed, "limits")
        archs = [self.space.smallest(), self.space.largest(), *(sample(self.space, rng) for _ in range(200))]
        bounds_ms = [self.predictor.upper_ms(arch) for arch in archs]
        low_ms, high_ms = min(bounds_ms), max(bounds_ms)
        limits = (float(f"{low_ms + share * (high_ms - low_ms):.3g}") for share in (0.35, 0.7))
        return tuple(dict.fromkeys(limit for limit in limits if limit >= low_ms)) or (low_ms,)

    def _trained_and_tested(self, model: "_Model") -> Row:
        """Return the score of a model: with inherited weights, or trained from its slice and averaged."""
        path, name, count = self.folder / f"{model.name}.yml", model.name, self.options.average
        if model.limit_ms is None:  # the search has written the others
            write_text_atomic(
                path, "".join(f"{key}: {value}\n" for key, value in model.arch.to_yaml().items())
            )
        if not model.trained:
            return self._test(f"test {name}", self.super_best, path) | {"size_bytes": None}
        folder, best = self.folder / name, self.folder / name / "checkpoint_best.pt"
        words = _words(configs=path, sub_configs=self.common_yml, restore_file=self.super_best)
        words += _words(save_dir=folder, max_update=self.options.sub_updates)
        self._stage(f"train {name}", train, words, [self.super_best], [best], folder)
        averaged = folder / f"average_model_{count}.pt"
        self.stages.run(
            f"average {name}",
            lambda: str(average([folder], averaged, num_epoch_checkpoints=count)[0]),
            settings={"num-epoch-checkpoints": count},
            inputs=[folder / "checkpoint_last.pt"],
            outputs=[averaged],
        )
        return self._test(f"test {name}", averaged, path) | {"size_bytes": averaged.stat().st_size}

    def _test(self, name: str, checkpoint: Path, arch_yml: Path) -> Row:
        """Translate and score with the task's own test.sh, which knows its beam search; returns the score."""
        inputs = [self.configs / "test.sh", checkpoint, arch_yml]
        work = partial(shell, *map(str, inputs), "sacre", result=True)
        return dict(self.stages.run(name, work, settings={}, inputs=inputs))

    def _measured(self, archs: Sequence[Arch]) -> list[Row]:
        """Return the latency of each: all take turns in one process, scaled to the speed of the table."""
        conditions, model = self.predictor.conditions, self.settings.model
        length, table = self.settings.task.sentence_length(), self.folder / "latency.csv"

        def work() -> list[Row]:
            timings = measure_fresh(
                archs,
                self.space,
                conditions,
                vocab_sizes=TaskData(self.settings.task).vocab_sizes,
                config=MeasureConfig(length, length),
                model_config=model,
                device="cuda" if self.gpu else "cpu",
                seed=self.options.seed,
                reference_ms=reference_of(read_table(table)[0]),
            )
            return [
                {"measured_ms": each.total_ms, "measured_interval_ms": each.interval_ms} for each in timings
            ]

        how = {"archs": [arch.to_yaml() for arch in archs], "conditions": conditions}
        how |= {"model": asdict(model), "length": length}
        return list(self.stages.run(_LAST, work, settings=how, inputs=[table]))

    def _row(self, model: "_Model", same_as: str | None, known: Row) -> Row:
        """Return the row of a model with its score and latency."""
        limit_ms, measured_ms = model.limit_ms, known["measured_ms"]
        length = self.settings.task.sentence_length()
        return {
            "name": model.name,
            "params": count_params(model.arch, self.space),
            "flops": 2 * count_macs(model.arch, self.space, length),
            "constraint_ms": limit_ms,
            "predicted_ms": self.predictor.predict_ms(model.arch),
            "measured_ms": measured_ms,
            "measured_interval_ms": known["measured_interval_ms"],
            "bleu": float(known["bleu"]),
            "weights": "trained" if model.trained else "inherited",
            "signature": known.get("signature"),
            "size_bytes": known["size_bytes"],
            "within_limit": None if limit_ms is None else measured_ms <= limit_ms,
            "limit_kept": kept(limit_ms, measured_ms, known["measured_interval_ms"]),
            "same_as": same_as,
            "arch": model.arch.to_yaml(),
        }


class _Model(NamedTuple):
    """A row of the table before it is known what comes out."""

    name: str
    arch: Arch
    trained: bool
    limit_ms: float | None = None


def _words(**options: object) -> list[str]:
    """Return the flags of options that are not None."""
    return [f"{flag_of(name)}={value}" for name, value in options.items() if value is not None]


def text_table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text, and a line for each that misses its limit or equals another."""
    cells = [("model", "#Params", "FLOPs", "limit ms", "predicted ms", "measured ms", "BLEU", "weights")]
    notes = []
    for row in rows:
        name, limit_ms, mark = row["name"], row["constraint_ms"], ""
        measured = in_ms(row["measured_ms"], row["measured_interval_ms"])
        if limit_ms is not None and row["limit_kept"] is not True:
            mark, percent = " ?", 100 * (row["measured_ms"] / limit_ms - 1)
            note = f"measures {measured}, which may be above or below its limit of {limit_ms:g} ms"
            if row["limit_kept"] is False:
                mark, note = " !", f"measures {measured}, {percent:.1f}% above its limit of {limit_ms:g} ms"
                note += "; search under a lower limit, or measure a larger latency dataset"
            notes.append(f"{mark.strip()} {name} {note}")
        if row["same_as"]:
            notes.append(f"= {name} and {row['same_as']} are one architecture, trained and measured once")
            mark = f" ={mark}"
        sizes = (f"{row['params'] / 1e6:.2f} M", f"{row['flops'] / 1e9:.3f} G")
        times = (
            "" if limit_ms is None else f"{limit_ms:g}",
            *(text[:-3] for text in (in_ms(row["predicted_ms"]), measured)),
        )
        cells.append((name, *sizes, *times, f"{row['bleu']:.2f}", row["weights"] + mark))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *numbers, weights in cells:
        texts = [text.rjust(width) for text, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join((name.ljust(widths[0]), *texts, weights)))
    lines.insert(1, "-" * max(map(len, lines)))
    told = "Measured in turns in one process and brought to the speed of the latency table; +-: 95% interval."
    return "\n".join([*lines, told, *notes])
