"""After how many evaluations does a search for the front overtake 1,000 random architectures?"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import hat
from benchmarks.data import scoring_batches
from benchmarks.process import info
from benchmarks.trainings import RESULTS, identity_of

SHARE = 0.99  # of the hypervolume of the random architectures
AXES = ("latency",)  # beside the loss


@dataclass(frozen=True)
class StudyOptions(hat.Options):
    """Study"""

    super: str | None = hat.option(None, role="free")
    """SuperTransformer whose slices are scored; not needed if --losses holds all losses"""
    ckpt_path: str | None = None
    """latency predictor"""
    losses: str = str(RESULTS / "front.jsonl")
    """journal of the losses of one SuperTransformer; an architecture in it is not scored again"""
    num_archs: int = hat.option(1000, low=2)
    """random architectures that are to be overtaken"""
    evaluations: int = hat.option(150, low=2)
    """evaluations after which a search gives up"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """searches of each kind"""
    valid_pairs: int = hat.option(300, low=1)
    """validation pairs that a loss is computed on"""


class RandomOrder(hat.Strategy):
    """Takes the random architectures in another order for each seed."""

    archs: ClassVar[Sequence[Any]] = ()

    def ask(self) -> list[Any]:
        """Return the next one."""
        order = self.rng.sample(self.archs, len(self.archs)) if not self.told else self.order
        self.order, self.told = order, self.told + 1
        return list(order[self.told - 1 : self.told])

    def tell(self, scored: Sequence[Any]) -> dict[str, Any]:
        """Do nothing."""
        return {}


class Optuna(hat.Strategy):
    """A sampler of optuna, which chooses each position of a gene by the number of its choice."""

    sampler: ClassVar[str]

    def ask(self) -> list[Any]:
        """Return what the sampler suggests, even if it was asked for before."""
        import optuna

        if not self.told:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            sampler = getattr(optuna.samplers, self.sampler)(seed=self.rng.randrange(2**31))
            self.study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        self.trial, self.told = self.study.ask(), self.told + 1
        places = enumerate(self.choices)
        gene = tuple(few[self.trial.suggest_int(str(at), 0, len(few) - 1)] for at, few in places)
        return self.pool.offer(lambda: gene, 1)

    def tell(self, scored: Sequence[Any]) -> dict[str, Any]:
        """Tell the sampler loss and latency."""
        self.study.tell(self.trial, scored[0].point(AXES))
        return {}


class Losses:
    """Losses of slices by architecture, kept in a journal, which belongs to one SuperTransformer."""

    def __init__(self, settings: Any, options: StudyOptions, journal: hat.Journal) -> None:
        self.options, self.journal = options, journal
        if options.super:
            data = hat.Dataset.load(settings.task.data or "data").split("valid")
            weights = hashlib.sha256(Path(options.super).read_bytes()).hexdigest()
            facts = {"weights": weights, "data": [*data.content()], "pairs": options.valid_pairs}
            source = {"source": identity_of(facts), "pairs": options.valid_pairs}
            if not self.journal.records:
                self.journal.append(source)
            if self.journal.records[0] != source:
                raise hat.ConfigError(
                    f"--losses {options.losses} holds losses of {self.journal.records[0]}, this "
                    f"SuperTransformer with this data is {source}; give another file, or leave --super out"
                )
            model, device = hat.load(options.super), hat.device_of(settings.device)
            model.network.to(device, hat.fast_dtype(device))
            batches = scoring_batches(data, options.valid_pairs)
            self.score = hat.ValidationFitness(model.network, batches, 0.1, device)
        self.known = {name: loss for record in self.journal.records[1:] for name, loss in record.items()}

    def of(self, archs: Sequence[hat.Arch]) -> list[float]:
        """Return the loss of each architecture; those that are not known are scored, in parts of 20."""
        names = [identity_of(arch.to_yaml())[:12] for arch in archs]
        left = {name: arch for name, arch in zip(names, archs, strict=True) if name not in self.known}
        if left and not self.options.super:
            raise hat.ConfigError(
                f"{len(left)} losses are not in --losses {self.options.losses}; give --super and --data"
            )
        for start in range(0, len(left), 20):
            few = list(left)[start : start + 20]
            began = time.perf_counter()
            found = [round(loss, 5) for loss in self.score([left[name] for name in few])]
            if not start and len(left) > 20:
                minutes = (time.perf_counter() - began) * len(left) / len(few) / 60
                info(f"{len(left)} architectures to score, about {minutes:.0f} min here")
            self.journal.append(dict(zip(few, found, strict=True)))
            self.known |= self.journal.records[-1]
        return [self.known[name] for name in names]


def run(
    strategy: hat.Strategy, losses: Losses, reference: tuple[float, ...], goal: float, most: int
) -> tuple[int | None, float]:
    """Return after how many evaluations a search has the hypervolume `goal`, and its seconds but scoring."""
    points, spent, after = list[tuple[float, ...]](), 0.0, None
    while len(points) < most and after is None:
        began = time.perf_counter()
        asked = strategy.ask()
        spent += time.perf_counter() - began
        found = losses.of([each.arch for each in asked])
        scored = [replace(each, loss=loss) for each, loss in zip(asked, found, strict=True)]
        points += [each.point(AXES) for each in scored]
        began = time.perf_counter()
        strategy.tell(scored)
        spent += time.perf_counter() - began
        volumes = enumerate(hat.growth(points[:most], reference), 1)
        after = next((number for number, volume in volumes if volume >= goal), None)
        if not asked:
            break
    return after, spent


def compare(settings: Any, options: StudyOptions, journal: hat.Journal) -> dict[str, Any]:
    """Score random architectures, then print how soon each search has 99% of their hypervolume."""
    space, predictor = hat.space_of(settings.space), hat.LatencyPredictor.load(options.ckpt_path)
    config = hat.SearchConfig(pareto=True, pareto_evaluations=options.evaluations)

    def start(kind: type[hat.Strategy], seed: int) -> hat.Strategy:
        return kind(hat.Pool(space, predictor.predict_many, config), config, seed)

    first = start(RandomOrder, 0)
    losses = Losses(settings, options, journal)
    drawn = first.pool.collect(first.random_gene, options.num_archs)
    found = losses.of([each.arch for each in drawn])
    scored = [replace(each, loss=loss) for each, loss in zip(drawn, found, strict=True)]
    points = [each.point(AXES) for each in scored]
    reference = tuple(map(max, zip(*points, strict=True)))
    goal = SHARE * hat.growth(points, reference)[-1]
    kinds: dict[str, type[hat.Strategy]] = {
        "NSGA2 (ours)": hat.NSGA2,
        "optuna NSGAIISampler": type("_", (Optuna,), {"sampler": "NSGAIISampler"}),
        "optuna TPESampler": type("_", (Optuna,), {"sampler": "TPESampler"}),
        "random": type("_", (RandomOrder,), {"archs": scored}),
    }
    print(f"{'search':22}{'99% after, by seed':>24}{'mean':>8}{'s without scoring':>19}")
    rows = dict[str, Any]()
    for name, kind in kinds.items():
        most = len(scored) if name == "random" else options.evaluations
        after, spent = zip(
            *(run(start(kind, s), losses, reference, goal, most) for s in options.seeds), strict=True
        )
        each = " ".join(str(number or f">{most}") for number in after)
        mean = f"{'' if all(after) else '>'}{fmean(number or most for number in after):.1f}"
        print(f"{name:22}{each:>24}{mean:>8}{fmean(spent):>19.2f}", flush=True)
        rows[name] = {"after": after, "search_s": spent}
    print(f"99% of the hypervolume of {len(scored)} random architectures, reference {reference}")
    return rows


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Make the study, see --help."""
    about = {"prog": "python -m benchmarks front-study", "description": __doc__}
    settings, options = hat.parse_settings(argv, StudyOptions, config_flags=("--configs",), **about)
    if not options.ckpt_path or not options.seeds:
        raise hat.ConfigError("--ckpt-path and --seeds are needed: a latency predictor, and a search or more")
    if find_spec("optuna") is None:
        raise hat.ConfigError("optuna, whose samplers are compared, is missing; pip install '.[studies]'")
    with hat.Journal(Path(options.losses)) as journal:
        rows = compare(settings, options, journal)
    if settings.output.json:
        print(json.dumps(rows))
    return 0
