"""hat run: every stage of a task folder, from raw text to a table of measured models and a report."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import yaml

from hat.cli import distill, evo_search, latency_dataset, latency_predictor, train, translate
from hat.cli.interrupt import run_group
from hat.cli.latency_dataset import measure_config
from hat.cli.options import OutputOptions, takes
from hat.cli.settings import dataset_of, find_checkpoint, parse_settings, space_and_arch
from hat.cli.stages import Stages
from hat.config import Options, flag_of, option, read_config, to_yaml_values
from hat.data.folder import SUMS
from hat.decode.score import check_tokenizer
from hat.errors import ArchError, ConfigError, HatError
from hat.files.atomic import check_writable, digest_path, new_folders, write_text_atomic
from hat.latency.measure import MeasureConfig, Subject, measure_fresh
from hat.latency.predictor import MIN_ROWS, LatencyPredictor
from hat.latency.table import read_table
from hat.log import versions
from hat.model.cpu import device_name
from hat.model.layers import count_macs, count_params
from hat.report.collect import Model, Report, stage_costs
from hat.report.page import report
from hat.rng import rng_for
from hat.run import VERSIONS, Identity, Run, claim, read_record, record_path
from hat.search.constraints import in_ms, kept
from hat.space import Arch, sample
from hat.train.checkpoint import average, leave_bundle, load

Row = dict[str, Any]  # a model of the final table, by the keys of summary.json; None: not measured
_DATA, _SUPER = "prepare the data", "train the SuperTransformer"
_TABLE, _PREDICTOR = "measure the latency dataset", "train the latency predictor"
_SEARCH, _DISTIL, _LAST = "search", "translate by the teacher", "measure all the models side by side"
# Keys of common.yml, which test.sh reads, that a translation depends on besides its checkpoint.
_OF_A_TRANSLATION = ("amp", "max-source-positions", "max-target-positions", "runtime", "precision")
_PATHS = ("--configs=", "--sub-configs=", "--path=", "--results-path=")  # what they hold counts by itself
_OF_A_ROW = ("measured_ms", "measured_interval_ms", "bleu", "signature", "size_bytes")  # kept as it came out


@dataclass(frozen=True)
class TaskRunOptions(Options):
    """Task"""

    task: str | None = option(None, "name of the folder in configs/")
    hardware: str = option("cpu", "name of the YAML files in its latency_dataset/ and latency_predictor/")
    space: str | None = None
    """name of the file in its supertransformer/ (default: the first one; the other files of another one end
    with _<its name>)"""
    latency_constraints: tuple[float, ...] = option((), above=0)
    """limits in ms (default: two, at a third and two thirds between smallest and largest SubTransformer)"""
    run_dir: str | None = option(None, "folder of everything made (default: runs/<task>/<hardware>)")
    raw: str | None = option(None, "folder with raw text, handed to the task's preprocess.sh")
    super_updates: int | None = option(None, "updates of the SuperTransformer (default: of the task)", low=1)
    sub_updates: int | None = option(None, "updates of each SubTransformer (default: of the task)", low=1)
    dataset_rows: int | None = option(None, "rows of the latency dataset (default: as the task says)", low=1)
    evo_iterations: int | None = option(None, "iterations of each search (default: as the task says)", low=1)
    distill: str | None = option(None, const="largest", role="free", metavar="MODEL")
    """train on translations by the largest, which is trained first, or by this checkpoint or bundle; if a
    checkpoint is of the space, the SuperTransformer starts from it"""
    no_baselines: bool = False
    """do not train what found ones are compared with: the largest, the smallest and hand-made ones"""
    average: int = option(5, "epoch checkpoints averaged before testing", low=1)
    seed: int = option(1, "seed of everything random", low=0)


@takes("hat run", TaskRunOptions, OutputOptions)
def main(options: TaskRunOptions, out: OutputOptions) -> dict[str, Any]:
    """Run every stage of a task: data, SuperTransformer, latency, search, training, test."""
    task = Task(options, quiet=out.no_progress_bar)
    summary = task.run()
    print(f"\n{text_table(task.rows)}\n\n{summary['found']}\n{summary['price']}")
    print(f"written: {task.folder}/summary.json")
    print(f"written: {report(task.folder)}, the page to look at")
    if bundles := [row["bundle"] for row in task.rows if "bundle" in row]:
        print(f"to translate plain text: python -m hat translate --model={bundles[-1]}")
    return summary


def shell(*words: str, asked: bool = False) -> list[str]:
    """Run a bash script; with `asked` return the words of the hat command that it would run at its end."""
    env = os.environ | {"PYTHON": sys.executable, "HAT_ASKED": "1" if asked else ""}
    code, said = run_group(["bash", *words], env=env, stdout=subprocess.PIPE if asked else None)
    if code:
        message = "its message stands above. The same command goes on from there"
        raise HatError(f"{Path(words[0]).name} failed with exit code {code}; {message}")
    if asked and "\0" not in said:
        raise HatError(f"{words[0]} does not end by calling scripts/test.sh of this version; change it so")
    return said.split("\0")[:-1]


class Task:
    """The stages of one task on one device; `rows` are those of the final table once `run` has ended."""

    def __init__(self, options: TaskRunOptions, *, quiet: bool) -> None:
        tasks = ", ".join(sorted(path.parent.name for path in Path("configs").glob("*/supertransformer")))
        if options.task is None:
            raise ConfigError(f"--task is needed: one of {tasks}")
        self.options, self.configs = options, Path("configs") / options.task
        if not self.configs.is_dir():
            raise ConfigError(f"there is no task {options.task!r}; there are {tasks} in configs/")
        spaces = sorted(path.stem for path in self.configs.glob("supertransformer/*.yml")) or ["*"]
        space = options.space or spaces[0]
        end = "" if space == spaces[0] else f"_{space}"
        hardware = f"{options.hardware}{end}"
        device = hardware.partition("_")[2]  # the release names searches without cpu_ and gpu_
        self.super_yml = self._one(f"supertransformer/{space}.yml")
        self.dataset_yml = self._one(f"latency_dataset/{hardware}.yml")
        self.predictor_yml = self._one(f"latency_predictor/{hardware}.yml")
        self.evo_yml = self._one(f"evo_search/*_{hardware}.yml", f"evo_search/*_{device}.yml")
        self.common_yml = self.configs / "subtransformer" / f"common{end}.yml"
        made = sorted(self.configs.glob(f"subtransformer/baseline*{end}.yml"))  # by hand
        others = () if end else tuple(f"_{each}" for each in spaces[1:])
        self.baselines = [path for path in made if not path.stem.endswith(others)]
        self.folder = Path(options.run_dir or f"runs/{options.task}/{hardware}")
        words, flags = [f"--configs={self.super_yml}"], ("--configs",)
        self.settings = parse_settings(words, prog="hat run", description="", config_flags=flags)[0]
        self.space, _ = space_and_arch(self.settings.space, self.settings.arch)
        how = yaml.safe_load(self.dataset_yml.read_text("utf-8"))
        self.gpu, self.command = bool(how.get("latgpu")), how.get("lat-command")
        self.device = torch.device("cuda" if self.gpu else "cpu")
        self.super_best = self.folder / "super" / "checkpoint_best.pt"
        self.table, self.predictor_pt = self.folder / "latency.csv", self.folder / "predictor.pt"
        self.common = [f"--seed={options.seed}", *(["--no-progress-bar"] if quiet else [])]
        self.rows: list[Row] = []
        self.teacher = ["largest"] if options.distill == "largest" else []
        self.distilled: Path | None = None  # data of the teacher's translations, once they are made

    def _one(self, *patterns: str) -> Path:
        found = next(filter(None, (sorted(self.configs.glob(pattern)) for pattern in patterns)), [])
        if len(found) == 1:
            return found[0]
        wanted = self.configs / patterns[0]
        held = ", ".join(path.name for path in sorted(wanted.parent.glob("*.yml"))) or "nothing"
        one = f"{wanted.parent} must hold exactly one file {wanted.name}, found {len(found)}"
        raise ConfigError(f"{one} (it holds {held}); see docs/your_own.md on a device or a task")

    def run(self) -> dict[str, Any]:
        """Run everything and return what is written to summary.json; no folder is left if nothing is made."""
        self.check()
        new = not self.folder.exists()
        with new_folders(self.folder.parent):
            try:
                return self._run()
            except HatError:
                if new and {path.name for path in self.folder.glob("*")} <= {"run.json", "run.lock"}:
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise

    def _run(self) -> dict[str, Any]:
        ymls = (self.super_yml, self.common_yml, self.dataset_yml, self.predictor_yml, self.evo_yml)
        facts: dict[str, Any] = {"device": device_name(torch.device("cpu"))}
        held = read_record(self.folder, folder=True).results
        advice = "wait for it, stop it, or give another --run-dir"
        inputs = {str(path.relative_to(self.configs)): path for path in ymls if path.exists()}
        how = {"settings": to_yaml_values(self.options), "inputs": inputs, "device": facts}
        run = Run(record_path(self.folder, folder=True), "task", threads=torch.get_num_threads(), **how)
        with claim(self.folder, None, advice), run:
            run.results |= held
            self.stages = Stages(run, self.folder)
            scores = self._all_stages()
            self._bundles()
            known = {name: self.stages.known[name] for name in self.stages.plan}
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

    def check(self) -> None:
        """See whether a stage lacks something or has wrong options. Nothing is written. Raises HatError."""
        for script in ("preprocess.sh", "test.sh"):
            if not (self.configs / script).is_file():
                raise ConfigError(f"{self.configs / script} does not exist; see docs/your_own.md on a task")
        limits = [f"{limit_ms:g}" for limit_ms in self.options.latency_constraints]
        if twice := [limit for limit in limits if limits.count(limit) > 1]:
            raise ConfigError(f"--latency-constraints: {twice[0]} is given twice; keep one of them")
        full, trained = (train.parsed(self._words_of(*of)) for of in (("super",), ("model", self.common_yml)))
        self.sub_share = trained.optim.max_update / full.optim.max_update
        if trained.task.data != self.settings.task.data:
            both = f"data {trained.task.data}, but {self.super_yml} {self.settings.task.data}"
            raise ConfigError(f"{self.common_yml} names {both}; a task has one data folder")
        how, data = latency_dataset.parsed(self._words_of("table"))
        most_s = min(data.lat_dataset_size * how.profile.lat_row_budget, data.lat_budget)
        self.table_s = most_s if most_s < math.inf else 0.0
        if (rows := data.lat_dataset_size) < MIN_ROWS:
            raise ConfigError(f"--dataset-rows {rows}: the latency predictor needs at least {MIN_ROWS} rows")
        latency_predictor.parsed(self._words_of("predictor"))
        evo_search.parsed([*self._words_of("search", self.folder / "found.yml"), "--latency-constraint=1"])
        if self.gpu and not torch.cuda.is_available():
            raise ConfigError(f"{self.dataset_yml} measures on a GPU, and PyTorch can use none here")
        measure_config(how).check(self.space.largest(), self.device)
        check_tokenizer(self.settings.task.target_lang or self.configs.name.rpartition("-")[2])
        if self.options.distill and not self.teacher:
            find_checkpoint(self.options.distill)
        if self.options.raw and not Path(self.options.raw).exists():
            raise ConfigError(f"--raw {self.options.raw} does not exist; check the path")
        place, data = check_writable(self.folder / "run.json"), Path(self.settings.task.data)
        if not data.exists():  # data that are there may be finished
            check_writable(data)
        count = len(limits or "ab") + (0 if self.options.no_baselines else 2 + len(self.baselines))
        epochs = [max(loop.keep_last_epochs, 0) for loop in (self.settings.loop, *[trained.loop] * count)]
        files = sum(epochs) + 3 * len(epochs)  # 3: best, last, average
        need = 12 * files * count_params(self.space.largest(), self.space)  # weight, two moments: float32
        if (free := shutil.disk_usage(place).free) < need:
            gib = f"{need / 2**30:.1f} GiB of checkpoints, {free / 2**30:.1f} GiB are free"
            raise HatError(f"{self.folder} needs {gib}; free space, lower keep-last-epochs or give --run-dir")

    def _words_of(self, stage: str, path: Path | None = None) -> list[str]:
        """Return the flags of the command of a stage; `path` is the architecture that it trains or finds."""
        options, best = self.options, self.super_best
        table, predictor = {"lat_dataset_path": self.table}, {"ckpt_path": self.predictor_pt}
        words: dict[str, Any] = {"configs": self.super_yml}
        if stage == "super":
            words |= {"save_dir": best.parent, "max_update": options.super_updates}
            words |= {"data": self.distilled, "restore_file": self._seed()}
        elif stage == "table":
            words = {"configs": self.dataset_yml, "lat_dataset_size": options.dataset_rows} | table
        elif stage == "predictor":
            words = {"configs": self.predictor_yml} | table | predictor
        elif stage == "search":
            words |= {"evo_configs": self.evo_yml, "restore_file": best, "write_config_path": path}
            words |= {"search_dir": self.folder / "search", "evo_iter": options.evo_iterations} | predictor
            words |= {"lat_command": self.command}
        elif path:
            words = {"configs": path, "restore_file": best, "max_update": options.sub_updates}
            words |= {"sub_configs": self.common_yml} if path != self.common_yml else {}
            words |= {"save_dir": self.folder / path.stem, "data": self.distilled}
        flags = (f"{flag_of(name)}={value}" for name, value in words.items() if value is not None)
        return [*flags, *self.common]

    def _all_stages(self) -> Any:
        options, folder, best = self.options, self.folder, self.super_best
        ends = {"largest": self.space.largest(), "smallest": self.space.smallest()}
        ends |= {path.stem: self.space.check(Arch.from_yaml(path)) for path in self.baselines}
        own = set() if options.no_baselines else set(ends)  # the ends that are trained
        models = [_Model(name, arch, name in own | set(self.teacher)) for name, arch in ends.items()]
        count = len(options.latency_constraints) or 2
        self._plan([*models, *(_Model(f"limit {n + 1}") for n in range(count))])
        words = [str(self.configs / "preprocess.sh"), *([options.raw] if options.raw else [])]
        self.stages.run(_DATA, partial(shell, *words), None)  # it knows what is up to date
        expected_s = self.stages.expected_s
        if options.distill and not self.teacher:
            self._distil(Path(options.distill))
        self._stage(_SUPER, train, self._words_of("super"), best)
        expected_s.setdefault("train", self.sub_share * expected_s.get(_SUPER, 0.0))
        expected_s.setdefault(_TABLE, self.table_s)
        self._stage(_TABLE, latency_dataset, self._words_of("table"), self.table)
        predictor = self.predictor_pt
        scores = self._stage(_PREDICTOR, latency_predictor, self._words_of("predictor"), predictor)
        self.predictor = LatencyPredictor.load(predictor)
        limits = {f"{limit_ms:g}": limit_ms for limit_ms in options.latency_constraints or self._limits_ms()}
        found = {limit_ms: folder / f"found@{limit}ms.yml" for limit, limit_ms in limits.items()}
        words = [*self._words_of("search", next(iter(found.values()))), "--latency-constraints", *limits]
        self._plan([*models, *(_Model(path.stem) for path in found.values())])
        title = f"search under {', '.join(limits)} ms"
        self._stage(_SEARCH, evo_search, words, *found.values(), title=title)
        models += [_Model(path.stem, Arch.from_yaml(path), limit_ms=ms) for ms, path in found.items()]
        once: dict[Any, _Model] = {}
        for model in models:
            once.setdefault((model.arch, model.trained), model)
        self._plan(list(once.values()))
        tested = {}
        for key, model in once.items():
            tested[key] = self._trained_and_tested(model)
            if model.name in self.teacher:
                self._distil(folder / model.name / f"average_model_{options.average}.pt")
        archs = list(dict.fromkeys(model.arch for model in models))
        expected_s.setdefault(_LAST, len(archs) * MeasureConfig.row_budget_s)
        timings = dict(zip(archs, self._measured(archs), strict=True))
        for model in models:
            same = once[model.arch, model.trained].name
            known = tested[model.arch, model.trained] | timings[model.arch]
            self.rows.append(self._row(model, None if same == model.name else same, known))
        return scores

    def _plan(self, models: "Sequence[_Model]") -> None:
        verbs = {True: ("train", "average", "test"), False: ("test",)}
        of_models = [f"{verb} {model.name}" for model in models for verb in verbs[model.trained]]
        plan = [_DATA, _SUPER, _TABLE, _PREDICTOR, _SEARCH, *of_models, _LAST]
        if self.options.distill:
            plan.insert(plan.index("test largest") + 1 if self.teacher else 1, _DISTIL)
        self.stages.plan[:] = plan

    def _stage(self, name: str, module: ModuleType, words: list[str], *made: Path, title: str = "") -> Any:
        """Run a command as a stage that makes these files; what lies beside them belongs to the result."""
        options, places = module.parsed(words), [self.folder / "search"] * (module is evo_search)
        for path in made:
            beside = record_path(path, folder=False), digest_path(path), path.with_suffix(".png")
            places += [path, *beside] if path.parent == self.folder else [path.parent]

        def work() -> Any:
            done = module.run(options, words)
            if isinstance(done, int) and done:
                raise SystemExit(done)  # a signal stopped it, or it failed and said why
            return done

        wanted = module.identity(options)
        if module is latency_dataset:  # a table of more rows is the same table; here it is another result
            wanted = replace(wanted, lengths=to_yaml_values(options[1], role="lengthens"))
        return self.stages.run(name, work, wanted, outputs=made, places=places, title=title)

    def _limits_ms(self) -> tuple[float, ...]:
        """Return two limits in ms between the upper bounds of the space; some architectures keep each."""
        rng = rng_for(self.options.seed, "limits")
        archs = [self.space.smallest(), self.space.largest(), *(sample(self.space, rng) for _ in range(200))]
        bounds_ms = [self.predictor.upper_ms(arch) for arch in archs]
        low_ms, high_ms = min(bounds_ms), max(bounds_ms)
        limits = (float(f"{low_ms + share * (high_ms - low_ms):.3g}") for share in (0.35, 0.7))
        return tuple(dict.fromkeys(limit for limit in limits if limit >= low_ms)) or (low_ms,)

    def _trained_and_tested(self, model: "_Model") -> Row:
        path, name, count = self.folder / f"{model.name}.yml", model.name, self.options.average
        if model.limit_ms is None:  # the search has written the others
            lines = (f"{key}: {value}\n" for key, value in model.arch.to_yaml().items())
            write_text_atomic(path, "".join(lines))
        if not model.trained:
            return self._test(f"test {name}", self.super_best, path) | {"size_bytes": None}
        folder = self.folder / name
        best, averaged = folder / "checkpoint_best.pt", folder / f"average_model_{count}.pt"
        self._stage(f"train {name}", train, self._words_of("model", path), best)
        settings, inputs = {"num-epoch-checkpoints": count}, {"checkpoint": folder / "checkpoint_last.pt"}
        self.stages.run(
            f"average {name}",
            lambda: str(average([folder], averaged, num_epoch_checkpoints=count)[0]),
            Identity.of("average", settings=settings, inputs=inputs),
            outputs=[averaged],
        )
        return self._test(f"test {name}", averaged, path) | {"size_bytes": averaged.stat().st_size}

    def _distil(self, teacher: Path) -> None:
        out = self.folder / "distilled"
        words = [f"--teacher={teacher}", f"--data={self.settings.task.data}", f"--output={out}"]
        words += self.common[1:]
        self._stage(_DISTIL, distill, words, out / SUMS)
        self.distilled = out

    def _seed(self) -> Path | None:
        """Return the teacher if the SuperTransformer, which learns from it, can start from its weights."""
        path = find_checkpoint(str(self.options.distill)) if self.distilled and not self.teacher else None
        if path is None or path.is_dir():  # a bundle
            return None
        source, own = load(path), (self.space.sizes, self.settings.model.structure)
        with suppress(ArchError):
            if source.arch and (source.space.sizes, source.model_config.structure) == own:
                return path if self.space.check(source.arch) else None
        return None

    def _test(self, name: str, checkpoint: Path, arch_yml: Path) -> Row:
        """Translate and score with the task's own test.sh, which knows its beam search; returns the score."""
        script, data = self.configs / "test.sh", dataset_of(self.settings.task)
        split, given = data.split("test"), read_config(self.common_yml)  # test.sh reads it, too
        _, *words = shell(str(script), str(checkpoint), str(arch_yml), "sacre", asked=True)
        inputs: dict[str, Path | str] = {"checkpoint": checkpoint}
        for lang, dictionary, ids in zip(data.languages, data.digests, split.content(), strict=True):
            inputs |= {f"dict.{lang}": dictionary, f"test.{lang}": ids}
        if (raw := Path(f"{split.target.prefix}.txt")).exists():
            inputs["test references"] = raw
        settings = {"arch": Arch.from_yaml(arch_yml).to_yaml(), "translation": VERSIONS["translation"]}
        settings |= {key: given[key] for key in _OF_A_TRANSLATION if key in given}
        settings["flags"] = [word for word in words if not word.startswith(_PATHS)]
        settings["sacrebleu"] = version("sacrebleu")

        def work() -> Row:
            return dict(translate.run(translate.parsed([*words, *self.common[1:]])))

        return dict(self.stages.run(name, work, Identity.of("score", settings=settings, inputs=inputs)))

    def _measured(self, archs: Sequence[Arch]) -> list[Row]:
        conditions, model, table = self.predictor.conditions, self.settings.model, self.table
        length, device = self.settings.task.sentence_length(), self.device

        def work() -> list[Row]:
            sizes = dataset_of(self.settings.task).vocab_sizes
            config = MeasureConfig(length, length, command=self.command or "")
            subject = Subject(self.space, sizes, config, model, device, self.options.seed)
            at_ms = float(read_table(table)[0].conditions["reference_ms"])
            timings = measure_fresh(archs, subject, conditions, reference_ms=at_ms)
            return [{"measured_ms": t.total_ms, "measured_interval_ms": t.interval_ms} for t in timings]

        how = {**conditions, "architectures": [arch.to_yaml() for arch in archs], "length": length}
        how |= {"model": asdict(model), "device": device_name(device), "torch": torch.__version__}
        wanted = Identity.of("latency", settings=how, inputs={"table": table})
        return list(self.stages.run(_LAST, work, wanted))

    def _bundles(self) -> None:
        for row in self.rows:
            if row["weights"] != "trained" or row["same_as"]:
                continue
            known, model = self.predictor.conditions, f"{row['name']}/average_model_{self.options.average}.pt"
            # what the model card tells of the conditions
            told = "device", "threads", "dtype", "runtime", "beam", "source_len", "target_len"
            how = ", ".join(f"{name} {known[name]}" for name in told if name in known)
            latency = f"{in_ms(row['measured_ms'], row['measured_interval_ms'])} ({how})"
            facts = {name: row[name] for name in ("bleu", "signature")} | {"latency": latency}
            made = leave_bundle(self.folder / model, facts | {"task": self.options.task})
            row |= {"bundle": str(made)} if made else {}

    def _row(self, model: "_Model", same_as: str | None, known: Row) -> Row:
        length, arch = self.settings.task.sentence_length(), model.arch
        return {
            "name": model.name,
            "params": count_params(arch, self.space),
            "flops": 2 * count_macs(arch, self.space, length),
            "constraint_ms": model.limit_ms,
            "predicted_ms": self.predictor.predict_ms(arch),
            **{key: known.get(key) for key in _OF_A_ROW},
            "weights": "trained" if model.trained else "inherited",
            "limit_kept": kept(model.limit_ms, known["measured_ms"], known["measured_interval_ms"]),
            "same_as": same_as,
            "arch": arch.to_yaml(),
        }


class _Model(NamedTuple):
    name: str
    arch: Any = None  # known once it is found
    trained: bool = True
    limit_ms: float | None = None


def text_table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text, and a line for each that misses its limit or equals another."""
    cells = [("model", "#Params", "FLOPs", "limit ms", "predicted ms", "measured ms", "BLEU", "weights")]
    notes = []
    for row in rows:
        name, limit_ms, mark = row["name"], row["constraint_ms"], ""
        measured = in_ms(row["measured_ms"], row["measured_interval_ms"])
        if limit_ms is not None and row["limit_kept"] is not True:
            above = f"{100 * (row['measured_ms'] / limit_ms - 1):.1f}% above its limit of {limit_ms:g} ms"
            mark, note = " !", f"{above}; search under a lower limit, or measure a larger latency dataset"
            if row["limit_kept"] is None:
                mark, note = " ?", f"which may be above or below its limit of {limit_ms:g} ms"
            notes.append(f"{mark.strip()} {name} measures {measured}, {note}")
        if row["same_as"]:
            notes.append(f"= {name} and {row['same_as']} are one architecture, trained and measured once")
            mark = f" ={mark}"
        sizes = (f"{row['params'] / 1e6:.2f} M", f"{row['flops'] / 1e9:.3f} G")
        times = ("" if limit_ms is None else f"{limit_ms:g}", in_ms(row["predicted_ms"])[:-3], measured[:-3])
        cells.append((name, *sizes, *times, f"{row['bleu']:.2f}", row["weights"] + mark))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths = [-widths[0], *widths[1:-1], 0]  # the first column stands at the left
    lines = ["  ".join(f"%{width}s" for width in widths) % row for row in cells]
    lines.insert(1, "-" * max(map(len, lines)))
    told = "Measured in turns in one process and brought to the speed of the latency table; "
    return "\n".join([*lines, f"{told}+- is how far off.", *notes])
