"""Do architectures that a search finds beat shapes that people make, at equal latency and total compute?"""

import json
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import hat
from benchmarks.process import info
from benchmarks.trainings import Recipe, TrainingOptions, content_of, identity_of, work_off

CPU = torch.device("cpu")
PROBE = 4, 24  # updates of two short trainings, whose difference is the time of an update
BATCH = 32  # sentences of the second latency
LONGEST_MIN = 25.0  # a longer training goes on in the next call
RUNTIME, PRECISION = "ctranslate2", "int8"


@dataclass(frozen=True)
class ComparisonOptions(TrainingOptions):
    """Comparison"""

    found: tuple[str, ...] = hat.option((), role="free")
    """YAML files of found architectures, with their records beside them"""
    by_hand: tuple[str, ...] = hat.option((), role="free")
    """YAML files of shapes that people made"""
    limits: tuple[float, ...] = hat.option((), above=0)
    """limits in ms that the found ones were searched under, in their order"""
    hand_super: str | None = hat.option(None, role="free")
    """SuperTransformer whose slices the shapes made by hand start from, too, trained as long as the found
    ones (default: from scratch, and as much longer as those owe)"""
    charged: tuple[str, ...] = hat.option((), role="free")
    """what else the found ones owe: the latency table, a search whose losses were taken over"""
    found_minutes: float = hat.option(4.0, above=0)
    """CPU minutes that each found architecture is trained for"""
    found_max_lr: float = hat.option(5e-4, above=0)
    """peak learning rate of what starts from a slice, which a higher one would harm first"""
    seeds: tuple[int, ...] = (1, 2)
    """trainings of each architecture"""
    alone: tuple[str, ...] = ()
    """shapes made by hand, by name, to train as long as one found architecture took with all of the search"""
    test: str = "../shared/data/multi30k/test_2016_flickr.en ../shared/data/multi30k/test_2016_flickr.de"
    """plain text to translate, and its translation by people"""
    predictor: str = "latency_dataset/predictors/multi30kende_ctranslate2_int8_space1.pt"
    """its conditions are those of the latencies"""
    out_dir: str = "runs/comparison"
    """folder of the trainings; an interrupted study goes on from it"""
    measure: bool = False
    """measure all shapes side by side once more"""
    report: bool = False
    """print the table of what is known, draw the pictures, and stop"""


class Shape(NamedTuple):
    """An architecture of the comparison."""

    name: str
    arch: hat.Arch
    limit_ms: float | None  # None: made by hand
    path: Path


class Cell(NamedTuple):
    """One training; `minutes` say how long, the identity what it depends on."""

    shape: Shape
    seed: int
    minutes: float
    updates: int
    identity: str
    alone: bool = False


class _Stop:
    """Asks a training to save and end: by a signal, or once it has used the minutes of one sitting."""

    def __init__(self, interrupt: Any) -> None:
        self.interrupt, self.until_s = interrupt, time.process_time() + 60 * LONGEST_MIN

    @property
    def asked(self) -> int | None:
        over = signal.SIGTERM if time.process_time() > self.until_s else None
        return over if self.interrupt.asked is None else int(self.interrupt.asked)


class Study(Recipe):
    """The trainings, what they cost, and what comes out."""

    options: ComparisonOptions

    def __init__(self, settings: Any, options: ComparisonOptions, task: str) -> None:
        super().__init__(settings, options, f"comparison {task}", CPU)
        limits = [*options.limits, *[None] * len(options.by_hand)]
        self.shapes = [
            Shape(Path(path).stem, self.space.check(hat.Arch.from_yaml(path)), limit_ms, Path(path))
            for path, limit_ms in zip((*options.found, *options.by_hand), limits, strict=True)
        ]
        self.sources = {True: options.super, False: options.hand_super}  # by whether it was found
        self.scored = {"test": [content_of(path) for path in options.test.split()]}
        self.scored |= {"engine": [RUNTIME, PRECISION]}

    def shared_minutes(self) -> dict[str, float]:
        """Return the CPU minutes that the found ones owe together, by what was done."""
        paths = [Path(str(self.options.super)).parent, *map(Path, self.options.charged)]
        paths += [shape.path for shape in self.shapes if shape.limit_ms]
        costs, found = {}, set()
        for path in paths:
            record = hat.read_record(path, folder=path.is_dir())
            if record.cost is None or record.cost.cpu_s is None:
                raise hat.DataError(
                    f"{path} has no record of what it cost, which stands in run.json beside it"
                )
            if (made := json.dumps(record.cost)) not in found:  # one search writes several architectures
                costs[str(path)] = record.cost.cpu_s / 60
                found.add(made)
        return costs

    def speeds(self) -> dict[str, float]:
        """Return the CPU minutes of 1,000 updates of each shape, measured in turn the first time."""
        names = {s.name: self.identity_of(s.arch, 1000, 1, None, speed=1) for s in self.shapes}
        known = self.known()
        missing = [shape for shape in self.shapes if names[shape.name] not in known]
        found: dict[str, list[float]] = {shape.name: [] for shape in missing}
        for turn in range(2 if missing else 0):
            for shape in missing:
                seconds = []
                for updates in PROBE:
                    start = time.process_time()
                    config = hat.short_training(self.config, updates)
                    hat.fit(shape.arch, self.dataset, config, space=self.space, device=CPU, seed=turn + 1)
                    seconds.append(time.process_time() - start)
                found[shape.name].append((seconds[1] - seconds[0]) / (PROBE[1] - PROBE[0]) / 60 * 1000)
                info(f"{shape.name}: {found[shape.name][-1]:.2f} min for 1,000 updates")
        for name, minutes in found.items():
            row = {"shape": name, "updates": 1000, "minutes": f"{min(minutes):.3f}"}
            self.keep(names[name], **row, note="time of an update, faster of 2")
        known = self.known()
        return {name: float(known[identity]["minutes"]) for name, identity in names.items()}

    def cells(self) -> list[Cell]:
        """Return all trainings, those of the first seed first."""
        options, speeds, shared = self.options, self.speeds(), sum(self.shared_minutes().values())
        each = options.found_minutes + shared / max(len(options.found), 1)
        found = []
        for seed in options.seeds:
            for shape in self.shapes:
                minutes = options.found_minutes if self.sources[bool(shape.limit_ms)] else each
                found.append(self._cell(shape, seed, minutes, speeds[shape.name]))
        for name in options.alone:
            shape = next(each for each in self.shapes if each.name == name)
            cell = self._cell(shape, options.seeds[0], options.found_minutes + shared, speeds[name])
            found.append(cell._replace(alone=True))
        return found

    def _cell(self, shape: Shape, seed: int, minutes: float, minutes_of_1000: float) -> Cell:
        updates = 10 * max(1, round(100 * minutes / minutes_of_1000))
        source = self.sources[bool(shape.limit_ms)]
        facts = {"max_lr": self.options.found_max_lr if source else None, **self.scored}
        identity = self.identity_of(shape.arch, updates, seed, source, **facts)
        return Cell(shape, seed, minutes, updates, identity)

    def train(self, cell: Cell, interrupt: Any) -> None:
        """Train, translate and score, unless a signal or the end of its sitting comes first."""
        source = self.sources[bool(cell.shape.limit_ms)]
        max_lr = self.options.found_max_lr if source else None
        given = (cell.shape.arch, cell.updates, cell.seed, cell.identity, source, _Stop(interrupt), max_lr)
        result, row = self.fit(*given)
        if result.stopped is not None:
            if interrupt.asked is None:
                info(f"{cell.shape.name} has had its {LONGEST_MIN:g} minutes; the same command goes on")
            return
        texts = [Path(each).read_text("utf-8").splitlines() for each in self.options.test.split()]
        engine = hat.engine(result.model, RUNTIME, PRECISION, 1)
        lines = result.model.translate(texts[0], batch_size=BATCH, engine=engine)
        scores = hat.bleu(lines, texts[1], "sacre", self.dataset.split("valid").target_lang)
        self.trainings.keep_text(cell.identity, lines)
        row |= {"shape": cell.shape.name, "loss": f"{result.losses['mean']:.4f}"}
        self.keep(cell.identity, **row, bleu=f"{scores.bleu:.2f}", chrf=f"{scores.chrf:.2f}")
        info(f"{cell.shape.name}, seed {cell.seed}: loss {row['loss']}, BLEU {scores.bleu:.2f}")

    def latencies(self) -> dict[str, dict[str, float]]:
        """Return the latency of each shape in ms, of one sentence and of a batch, all measured in turns."""
        path = self.trainings.folder / f"latency_{self.study.split()[1]}.json"
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
        conditions = hat.LatencyPredictor.load(self.options.predictor).conditions
        archs_of = {shape.name: shape.arch.to_yaml() for shape in self.shapes}
        wanted = identity_of({"shapes": archs_of, "conditions": conditions})
        if known.get("identity") == wanted and not self.options.measure:
            return dict(known["shapes"])
        sizes = self.dataset.vocab_sizes
        cfg = hat.MeasureConfig(row_budget_s=3.0).under(conditions)
        archs = [shape.arch for shape in self.shapes]
        one = hat.measure_fresh(archs, hat.Subject(self.space, sizes, cfg), conditions)
        models = [hat.extract(hat.SuperTransformer(self.space, sizes, self.config.model), a) for a in archs]
        works = [hat.workload(model, cfg, BATCH) for model in models]
        many = hat.time_in_turn(works, replace(cfg, row_budget_s=6.0), {}, hat.sync_of(CPU))
        names = ("ms", "interval_ms", "batch_ms", "batch_interval_ms")
        taken = [
            (a.total_ms, a.interval_ms, b.total_ms, b.interval_ms) for a, b in zip(one, many, strict=True)
        ]
        every = zip(self.shapes, taken, strict=True)
        found = {shape.name: dict(zip(names, ms, strict=True)) for shape, ms in every}
        known = {"identity": wanted, "shapes": found}
        hat.write_text_atomic(path, json.dumps(known, indent=1) + "\n")
        return found

    def report(self, cells: Sequence[Cell]) -> str:
        """Return the tables in Markdown, and draw both pictures beside the committed table."""
        known, times = self.known(), self.latencies()
        done = [cell for cell in cells if cell.identity in known]
        by_shape = {s.name: [c for c in done if c.shape == s and not c.alone] for s in self.shapes}
        head = "shape | made | M parameters | ms | ms, batch 32 | updates | CPU min | loss | BLEU | chrF"
        rows = [f"| {head} |", "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
        for shape in sorted(self.shapes, key=lambda each: times[each.name]["ms"]):
            for alone in (False, True):
                chosen = [c for c in done if c.shape == shape and c.alone == alone]
                if not chosen:
                    continue
                lines = [known[cell.identity] for cell in chosen]
                mean = {
                    key: np.mean([float(line[key]) for line in lines]) for key in ("minutes", "loss", "chrf")
                }
                made = f"found under {shape.limit_ms:g} ms" if shape.limit_ms else "by hand"
                made += ", as long as one found with all of the search" if alone else ""
                time_ms, size = times[shape.name], hat.count_params(shape.arch, self.space) / 1e6
                rows.append(
                    f"| {shape.name} | {made} | {size:.2f} | {time_ms['ms']:.2f} +- "
                    f"{time_ms['interval_ms']:.2f} | {time_ms['batch_ms']:.0f} | {chosen[0].updates} | "
                    f"{mean['minutes']:.1f} | {mean['loss']:.3f} | "
                    f"{' / '.join(line['bleu'] for line in lines)} | {mean['chrf']:.2f} |"
                )
        rows += ["", "| limit ms | found | beside | faster | BLEU more | 95% interval | p |"]
        rows += ["|--:|---|---|--:|--:|--:|--:|"]
        rows += [
            f"| {limit:g} | {ours.name} | {theirs.name} | {ratio:.2f}x | {gain:+.2f} | "
            f"{low:+.2f} to {high:+.2f} | {p:.3f} |"
            for limit, ours, theirs, ratio, gain, low, high, p in self.pairs(by_shape, times)
        ]
        self.draw(done, known, times)
        return "\n".join(rows)

    def pairs(self, by_shape: dict[str, list[Cell]], times: dict[str, dict[str, float]]) -> Iterator[Any]:
        """Yield each found one beside each shape made by hand that keeps its limit, or beats it in BLEU. Gain
        and interval are those of BLEU over all seeds: paired bootstrap over sentences (Koehn 2004), each draw
        of sentences for the mean over the seeds.
        """
        target = Path(self.options.test.split()[1]).read_text("utf-8").splitlines()
        stats = {
            name: [statistics(self.trainings.text(cell.identity), target) for cell in cells]
            for name, cells in by_shape.items()
            if cells
        }
        for ours in (shape for shape in self.shapes if shape.limit_ms and shape.name in stats):
            limit_ms = float(ours.limit_ms or 0)
            for theirs in (shape for shape in self.shapes if not shape.limit_ms and shape.name in stats):
                ratio = times[theirs.name]["ms"] / times[ours.name]["ms"]
                gain, low, high, p = bootstrap(stats[ours.name], stats[theirs.name])
                if times[theirs.name]["ms"] <= 1.02 * limit_ms or (ratio >= 1.25 and low > -0.5):
                    yield limit_ms, ours, theirs, ratio, gain, low, high, p

    def draw(self, done: Sequence[Cell], known: dict[str, Any], times: dict[str, Any]) -> None:
        """Draw quality against latency, and compute against quality."""
        import matplotlib.pyplot as plt

        shared = sum(self.shared_minutes().values()) / max(len(self.options.found), 1)
        alike = "_from_slices" if self.options.hand_super else ""
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
        for name, mark, wanted in (("found", "D", True), ("made by hand", "o", False)):
            chosen = [cell for cell in done if bool(cell.shape.limit_ms) == wanted]
            bleu = [float(known[cell.identity]["bleu"]) for cell in chosen]
            owed = shared if self.sources[wanted] else 0.0
            used = [float(known[cell.identity]["minutes"]) + owed for cell in chosen]
            left.plot([times[c.shape.name]["ms"] for c in chosen], bleu, mark, label=name, alpha=0.8)
            right.plot(used, bleu, mark, label=name, alpha=0.8)
            for cell, each in zip(chosen, bleu, strict=True):
                if cell.seed == self.options.seeds[0] and not cell.alone:
                    place = (times[cell.shape.name]["ms"], each)
                    words = (
                        cell.shape.name.removeprefix("by_hand_").removesuffix("_space1").rpartition("@")[2]
                    )
                    left.annotate(words, place, (4, 3), textcoords="offset points", fontsize=7)
        left.set(xlabel=f"latency in ms, one sentence, one core, {RUNTIME} {PRECISION}", ylabel="SacreBLEU")
        right.set(xlabel="CPU minutes of one core, share of the search included")
        left.legend(frameon=False)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.3)
        figure.savefig(self.trainings.folder / f"{self.study.replace(' ', '_')}{alike}.png", dpi=130)
        plt.close(figure)


DRAWS = 1000


def statistics(lines: Sequence[str], target: Sequence[str]) -> np.ndarray:
    """Return what BLEU counts in each sentence, [sentences, 10]: lengths, matches, and n-grams of 1 to 4."""
    from sacrebleu.metrics import BLEU

    return np.array(BLEU()._extract_corpus_statistics(list(lines), [list(target)]), dtype=np.int64)


def bootstrap(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> tuple[float, float, float, float]:
    """Return the gain in BLEU, the ends of its 95% interval, and the share of draws without a gain."""
    from sacrebleu.metrics import BLEU

    def gain(chosen: np.ndarray) -> float:
        totals = [[each[chosen].sum(axis=0).tolist() for each in side] for side in (ours, theirs)]
        bleu = [[BLEU()._compute_score_from_stats(each).score for each in side] for side in totals]
        return float(np.mean(bleu[0]) - np.mean(bleu[1]))

    rng, count = hat.rng_for(1, "bootstrap"), len(ours[0])
    draws = [gain(np.array(rng.choices(range(count), k=count))) for _ in range(DRAWS)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return gain(np.arange(count)), float(low), float(high), float(np.mean(np.array(draws) <= 0))


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Train what has no line in the table yet, and print what came out; see --help."""
    settings, options = hat.parse_settings(
        argv,
        ComparisonOptions,
        prog="python -m benchmarks comparison",
        description=__doc__,
        config_flags=("--configs", "--sub-configs"),
    )
    if len(options.found) != len(options.limits) or not options.found or not options.super:
        raise hat.ConfigError("--found and --limits, one for each, and --super are needed; see --help")
    if unknown := set(options.alone) - {Path(path).stem for path in options.by_hand}:
        raise hat.ConfigError(f"--alone {min(unknown)}: give names of --by-hand, without folder and .yml")
    paths = [str(options.super), *options.test.split()]
    if missing := [path for path in paths if not Path(path).is_file()]:
        raise hat.ConfigError(f"{missing[0]} of --super or --test does not exist; check the path")
    if len(paths) != 3:
        raise hat.ConfigError(f"--test {options.test!r}: give the source text and its translation")
    torch.set_num_threads(1)
    work = Study(settings, options, Path(settings.task.data or "data").name)
    cells = work.cells()
    if options.report:
        print(work.report(cells))
        return 0
    for name, minutes in work.shared_minutes().items():
        info(f"charged to the found ones together: {name}, {minutes:.1f} CPU min")
    known = work.known()
    left = [c for c in cells[options.part - 1 :: options.parts] if c.identity not in known]
    for cell in left:
        info(f"{cell.shape.name}, seed {cell.seed}: {cell.updates} updates, about {cell.minutes:.1f} CPU min")
    info(f"{len(left)} of {len(cells)} trainings are left, about {sum(c.minutes for c in left):.0f} CPU min")
    if options.budget:
        return 0
    if stopped := work_off(left, work.train):
        return stopped
    if all(cell.identity in work.known() for cell in cells):
        print(work.report(cells))
    return 0
