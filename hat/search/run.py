"""One search as a function: score what a strategy asks for, choose and measure winners, write the results."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice, product
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from hat.config import to_yaml_values
from hat.data.pairs import Batch, PairDataset
from hat.errors import ConfigError, HatError, RankError
from hat.files.atomic import check_writable, file_digest, write_text_atomic
from hat.files.journal import Journal, read_journal
from hat.latency.predictor import COVERAGE, LatencyPredictor
from hat.log import RunLog, say
from hat.model.cpu import device_name, dtype_name
from hat.model.transformer import Transformer
from hat.rng import rng_for
from hat.run import Run
from hat.search.constraints import Constraints, Pool, Score, Scored
from hat.search.finalists import DeviceTimer, about, choose_finalists
from hat.search.front import Point, compare, front_numbers, growth, worst
from hat.search.record import (
    CachedFitness,
    SearchResult,
    known_ms,
    old_losses,
    search_header,
    under,
    write_front,
    write_table,
    write_winners,
)
from hat.search.strategies import (
    EvolutionConfig,
    ParetoConfig,
    Problem,
    SearchConfig,
    Strategy,
    objective_values,
    strategy_of,
)
from hat.space import SIDES, Arch, Dim, gene_choices, gene_of, sample
from hat.train.distributed import ALONE, ProcessGroup
from hat.train.loop import BatchConfig, validation_batches
from hat.train.trainer import evaluate

TIMED = 3  # scores that the forecast is made from, after one that warms up


class ValidationFitness:
    """Scores architectures on batches that stay on the device; one forward pass each, no gradient."""

    def __init__(
        self,
        model: Transformer,
        batches: Sequence[Batch],
        label_smoothing: float,
        device: torch.device,
        on_score: Callable[[], object] = lambda: None,
    ) -> None:
        self._model = model.eval()
        self._batches = [batch.to(device) for batch in batches]
        self._label_smoothing, self._device, self._on_score = label_smoothing, device, on_score

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        """Return the smoothed validation loss (base 2, per target token) of each architecture."""
        losses = []
        for arch in archs:
            found = evaluate(self._model, self._batches, arch, self._label_smoothing, self._device)
            losses.append(found.loss)
            self._on_score()
        return losses


class SharedFitness:
    """A fitness whose architectures are divided among processes: rank r of k scores the r-th of k.

    Rank 0 alone searches: it calls this, inside a `with` block, while the others `serve`. Each architecture
    is scored by one process as it would be alone, so the search is the same with any number of processes.
    """

    def __init__(self, fitness: Score, group: ProcessGroup) -> None:
        self._fitness, self._group = fitness, group
        self.result: Any = None  # what `serve` returns in the other processes

    @property
    def at_once(self) -> int:
        """Return how many architectures are scored at the same time."""
        return self._group.size

    def __call__(self, archs: list[Arch]) -> list[float]:
        """Return the loss of each architecture; the error of a process is raised here."""
        losses: list[float] = []
        for start in range(0, len(archs), self.at_once):
            part = archs[start : start + self.at_once]
            self._group.broadcast(("score", part))
            for result in self._score(part)[: len(part)]:
                if isinstance(result, HatError):
                    raise result
                losses.append(result)
        return losses

    def serve(self) -> Any:
        """Score what rank 0 hands out until it leaves its block; returns its `result`.

        Raises SystemExit with code 2 if rank 0 left with an error, which it reports itself.
        """
        while True:
            order, content = self._group.broadcast(("", None))
            if order == "score":
                self._score(content)
            elif order == "failed":
                raise SystemExit(2)
            else:
                return content

    def __enter__(self) -> "SharedFitness":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Let the other processes go; after anything but a user's error they find out by themselves."""
        if not self._group.first:
            return
        if value is None or (isinstance(value, HatError | OSError) and not isinstance(value, RankError)):
            with suppress(RankError):  # it would hide the error that ended the block
                self._group.broadcast(("done", self.result) if value is None else ("failed", None))

    def _score(self, archs: list[Arch]) -> list[float | HatError]:
        mine: float | HatError = 0.0
        if self._group.rank < len(archs):
            try:
                (mine,) = self._fitness([archs[self._group.rank]])
            except HatError as error:
                mine = error
        return self._group.gather_objects(mine)


class Progress:
    """Counts scores: moves the bar, and says once, after the first ones, how long each stage takes.

    At most `total` architectures are scored, `at_once` at the same time.
    """

    def __init__(
        self,
        total: int,
        at_once: int = 1,
        *,
        bar: bool = False,
        tell: Callable[[str], object] = say,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._at_once, self._tell, self._clock = at_once, tell, clock
        self.bar = tqdm(total=total, desc="search", unit=" scored", disable=not bar, dynamic_ncols=True)
        self.stages: Mapping[str, int] = {}  # architectures that each stage is still to score
        self.tick: Callable[[], object] = lambda: None  # called after each score
        self._count, self._start = 0, 0.0

    def __call__(self) -> None:
        """Count one score of this process."""
        self.bar.update(self._at_once)
        self.tick()
        self._count += 1
        if self._count == 1:
            self._start = self._clock()
        elif self._count == 1 + TIMED:
            each_s = (self._clock() - self._start) / TIMED / self._at_once
            left = {name: count for name, count in self.stages.items() if count}
            self._tell("; ".join(f"{n}: {k} evaluations, {about(k * each_s)}" for n, k in left.items()))


def search(
    model: Any,
    dataset: Any,
    predictor: LatencyPredictor,
    limits_ms: Sequence[float] = (),
    *,
    config: SearchConfig | None = None,
    strategy: type[Strategy] | None = None,
    measure: bool = True,
    seed: int = 1,
    out: str | Path | None = None,
    write_to: str | Path | None = None,
    warm_start: str | Path | None = None,
    inputs: Mapping[str, Path] | None = None,
    settings: Mapping[str, Any] | None = None,
    measuring: Mapping[str, Any] | None = None,
    group: ProcessGroup | AbstractContextManager[ProcessGroup] = ALONE,
    progress: bool = False,
) -> SearchResult:
    """Return the best architectures under latency limits, or the whole front of loss against latency.

    Args:
        model: a SuperTransformer, or what holds one as `network`; it is scored on its device, in its type.
        dataset: a `Dataset`, or the pairs of its validation split.
        predictor: predicts latencies. Its upper bound must keep a limit; its prediction, if
            config.limit_by is "mean" or if it has no bound, as predictors of the 2020 release.
        limits_ms: highest latencies in ms; a search for the front can do without.
        config: options of the search.
        strategy: class that is asked for architectures (default: NSGA2 if config.pareto, else Evolution).
        measure: measure the finalists in fresh processes if this is the device of the predictor.
        seed: seed of everything random; the same seed gives the same search.
        out: folder of journal, log, table and summary; a search that was stopped goes on from there.
        write_to: YAML file for the winner; with several limits, each name ends in @<limit>ms.
        warm_start: journal of an older search, whose losses are taken and whose architectures start this one.
        inputs: files that `model` ("checkpoint") and `predictor` ("predictor") came from.
        settings: options that the record of the run holds (default: `config`).
        measuring: fields of `hat.latency.measure.MeasureConfig`, for what the predictor's table does not say.
        group: processes that share the scoring, or a context that connects them for as long as it lasts. All
            but rank 0 return what was scored, nothing measured.
        progress: show a progress bar.

    Raises ConfigError for limits that cannot be, Infeasible if no architecture keeps one, and TrainingError
    for a loss that is not finite.
    """
    config, inputs = config or SearchConfig(), inputs or {}
    strategy = strategy or strategy_of(config)
    limits_ms = limits_of(limits_ms, config, strategy)
    data = dataset if isinstance(dataset, PairDataset) else dataset.split(config.valid_subset)
    network = getattr(model, "network", model)
    task = _Task(network, data, predictor, limits_ms, config, strategy, seed)
    out, paths = Path(out) if out else None, paths_of(write_to, limits_ms)
    for path in paths.values():
        check_writable(path)
    start, run = time.perf_counter(), Run(None, "search", settings={})
    with ExitStack() as files:
        with nullcontext(group) if isinstance(group, ProcessGroup) else group as ranks:
            counter = Progress(task.budget, ranks.size, bar=progress and ranks.first)
            with SharedFitness(task.fitness(counter), ranks) as shared, counter.bar:
                if not ranks.first:
                    found, out, paths, measure = shared.serve(), None, {}, False
                else:
                    header, old = task.header(inputs, Path(warm_start) if warm_start else None)
                    anchors = task.within_reach()
                    journal = files.enter_context(Journal(out / "journal.jsonl")) if out else None
                    cached = CachedFitness(journal, shared, task.predict_ms, header, ranks.size, old)
                    run = files.enter_context(task.record(out, inputs, settings, ranks))
                    counter.tick = run.tick
                    found = shared.result = task.score(cached, shared, anchors, out, counter)
        result = task.result(found, paths, time.perf_counter() - start)
        sources = ", ".join(f"{_SOURCES[use]} {path}" for use, path in inputs.items() if use in _SOURCES)
        write_table(out, result)  # this and the front need no measurement
        if result.whole_front:
            write_front(out, result, sources)
        timer = task.timer(out, measuring or {}) if measure and limits_ms else None
        ranked = {limit_ms: task.ranked(result.scored, limit_ms) for limit_ms in limits_ms}
        winners = choose_finalists(ranked, config.finalists, timer)
        conditions, seconds = timer.conditions if timer else {}, time.perf_counter() - start
        result = replace(result, winners=winners, conditions=conditions, seconds=seconds)
        write_winners(result, sources, run)
        write_table(out, result)
        if out:
            summary = result.summary()
            write_text_atomic(out / "summary.json", json.dumps(summary, indent=1) + "\n")
            told = ("evaluations", "hypervolume", "coverage", "conditions", "winners")
            run.results |= {name: summary[name] for name in told if name in summary}
            run.vouch(out / "summary.json", out / "evaluations.csv")
    return result


_SOURCES = {"checkpoint": "weights", "predictor": "predictor"}  # as files of architectures name them


class _Found(NamedTuple):
    """What was scored, by the search and by each ablation."""

    losses: dict[str, dict[Arch, float]]
    histories: dict[float | None, list[dict[str, Any]]]
    reference: Point


@dataclass
class _Task:
    """What the steps of one search share."""

    network: Transformer
    data: PairDataset
    predictor: LatencyPredictor
    limits_ms: tuple[float, ...]
    config: SearchConfig
    strategy: type[Strategy]
    seed: int

    def __post_init__(self) -> None:
        self.space, self.predict_ms = self.network.space, self.predictor.predict_many
        best = min(COVERAGE, self.predictor.max_coverage)
        self.coverage = best if self.config.limit_by == "bound" else 0.0
        self.margin = self.predictor.margin(self.coverage) if self.coverage else 1.0
        self.pairs = min(len(self.data), self.config.valid_cnt_max or len(self.data))
        self.weight = next(self.network.parameters())
        runs = 1 if self.strategy.whole_front else len(self.limits_ms)
        self.budget = self.strategy.budget(self.config) * runs

    def constraints(self, limit_ms: float | None = None) -> Constraints:
        """Return the constraints of one latency limit; None stands for the highest one."""
        highest, length = limit_ms or max(self.limits_ms, default=math.inf), self.config.profile_length
        return Constraints(
            self.space, self.predict_ms, self.config, highest, margin=self.margin, length=length
        )

    def within_reach(self) -> list[Arch]:
        """Return one architecture for each limit; raises Infeasible if there is none."""
        if not self.coverage and self.config.limit_by == "bound":
            say(
                "this predictor has no bound: latency constraints are kept by its mean; train it again "
                "with latency_predictor.py for a bound"
            )
        rng, choices = rng_for(self.seed, "within reach"), gene_choices(self.space)
        found = []
        for limit_ms in self.limits_ms or (None,):
            pool = Pool(self.constraints(limit_ms), self.config.max_tries)
            found.append(pool.initial(lambda: tuple(map(rng.choice, choices)), 1)[0].arch)
        return found

    def fitness(self, on_score: Callable[[], object]) -> ValidationFitness:
        """Return the loss on the validation pairs."""
        cfg = self.config
        sizes = BatchConfig(
            max_tokens=cfg.max_tokens, required_batch_size_multiple=cfg.required_batch_size_multiple
        )
        plan = validation_batches(self.data, sizes, self.network.cfg)
        kept = (numbers[numbers < self.pairs] for numbers in plan.slots if numbers is not None)
        batches = [self.data.batch(numbers) for numbers in kept if len(numbers)]
        return ValidationFitness(self.network, batches, cfg.label_smoothing, self.weight.device, on_score)

    def header(
        self, inputs: Mapping[str, Path], warm_start: Path | None
    ) -> tuple[dict[str, Any], dict[Arch, float]]:
        """Return the first record of the journal, and the losses that an older journal holds."""
        facts: dict[str, str | float] = {
            **{use: file_digest(inputs[use]) if use in inputs else self._digest(use) for use in _SOURCES},
            "label_smoothing": self.config.label_smoothing,
            "validation": f"{self.pairs} pairs, SHA-256 {self.data.digest(self.pairs)}",
            "dtype": str(self.weight.dtype),
        }
        if self.coverage:
            facts["coverage"] = self.coverage
        if self.config.max_flops or self.config.min_flops or "flops" in self.config.objectives:
            facts["profile_length"] = self.config.profile_length
        limits = [limit_ms for limit_ms in self.limits_ms if limit_ms < math.inf]
        header = search_header(self.space, self.config, limits, self.seed, **facts)
        if warm_start is None:
            return header, {}
        losses = old_losses(warm_start, header)
        return header | {"warm_start": file_digest(warm_start)}, losses

    def _digest(self, use: str) -> str:
        """Return what tells the model or the predictor from others if no file is known that it came from."""
        digest = hashlib.sha256()
        if use == "predictor":
            archs = [sample(self.space, rng_for(0, "digest", number)) for number in range(32)]
            digest.update(repr(self.predict_ms(archs)).encode())
        else:
            for tensor in self.network.state_dict().values():
                digest.update(tensor.cpu().float().numpy().tobytes())
        return digest.hexdigest()

    def record(
        self,
        out: Path | None,
        inputs: Mapping[str, Path],
        settings: Mapping[str, Any] | None,
        group: ProcessGroup,
    ) -> AbstractContextManager[Run]:
        """Return the record of this run, kept in `out`."""
        device = self.weight.device
        limits = {"latency-constraints": list(self.limits_ms), "seed": self.seed}
        validation = {"validation": self.data.digest(self.pairs)} if out else {}
        return Run.folder(
            out,
            "search",
            advice="wait for it or stop it",
            settings=settings if settings is not None else to_yaml_values(self.config) | limits,
            inputs={**inputs, **validation},
            device={"device": device_name(device), "dtype": dtype_name(self.weight.dtype)},
            threads=torch.get_num_threads(),
            processes=group.size,
            gpus=group.size if device.type == "cuda" else 0,
        )

    def score(
        self,
        cached: CachedFitness,
        fitness: SharedFitness,
        anchors: Sequence[Arch],
        out: Path | None,
        counter: Progress,
    ) -> _Found:
        """Score what the strategy asks for, and the ablations."""
        old, count = cached.known, self.config.ablations
        if cached.resumed:
            say(f"resumed {out}/journal.jsonl: {cached.resumed} architectures are scored already")
            counter.bar.update(cached.resumed)
        draws: dict[str, list[Arch]] = {}
        if count:
            draws["random"] = list(islice(random_archs(self.constraints(), self.seed), count))
            draws["depth"] = depth_grid(self.constraints())
        paths = {name: out / f"{name}.jsonl" if out else None for name in draws}
        held = {n: len(read_journal(p)) - 1 for n, p in paths.items() if p is not None and p.exists()}
        left = {name: len(archs) - max(0, held.get(name, 0)) for name, archs in draws.items()}
        counter.stages = {"search": self.budget - sum(a not in old for a in cached.losses), **left}
        first = sorted(old, key=lambda arch: (old[arch], gene_of(arch, self.space)))
        histories, reference = self._run(cached, first, anchors, out)
        losses = {"search": cached.losses}
        header = {name: value for name, value in cached.header.items() if name not in _HOW}
        header["highest_ms"] = known_ms(max(self.limits_ms, default=math.inf))
        for name, archs in draws.items():
            with ExitStack() as stack:
                path = paths[name]
                journal = stack.enter_context(Journal(path)) if path else None
                own = CachedFitness(journal, fitness, self.predict_ms, header, fitness.at_once)
                new = sum(arch not in own.losses for arch in archs)
                say(f"{name} architectures: {len(archs)}, of which {new} are not in {path} yet")
                losses[name] = dict(zip(archs, own(archs), strict=True))
        return _Found(losses, histories, reference or worst(self.points(self.scored(losses["search"]))))

    def _run(
        self, fitness: Score, first: Sequence[Arch], anchors: Sequence[Arch], out: Path | None
    ) -> tuple[dict[float | None, list[dict[str, Any]]], Point]:
        """Let the strategy search once for each limit, or once for all of them."""
        log = RunLog(out, total=self.budget, unit="evaluations", bar=False)
        histories: dict[float | None, list[dict[str, Any]]] = {}
        reference: Point = ()
        for limit_ms in (None,) if self.strategy.whole_front else self.limits_ms:
            problem = Problem(self.constraints(limit_ms), self.config, self.seed, first, anchors)
            strategy = self.strategy(problem)
            which = f"{under(limit_ms)}: " if limit_ms and len(self.limits_ms) > 1 else ""
            histories[limit_ms] = []
            for state in states_of(strategy, fitness):
                values = state._asdict()
                histories[limit_ms].append(dict(values))
                step = values.pop(state._fields[0])
                if limit_ms is not None:
                    values["constraint_ms"] = known_ms(limit_ms)
                log.metrics(strategy.record, step, which + state.line, **values)
            reference = strategy.reference
        log.close()
        return histories, reference

    def points(self, scored: Sequence[Scored]) -> list[Point]:
        """Return where each lies: its loss, then the objectives."""
        return [(each.loss, *objective_values(each.cost, self.config.objectives)) for each in scored]

    def scored(self, losses: Mapping[Arch, float]) -> tuple[Scored, ...]:
        """Return architectures with their losses and costs."""
        costs = self.constraints().costs(list(losses))
        return tuple(
            Scored(arch, loss, cost) for (arch, loss), cost in zip(losses.items(), costs, strict=True)
        )

    def ranked(self, scored: Sequence[Scored], limit_ms: float) -> list[Scored]:
        """Return those that keep one limit, lowest loss first."""
        keeps = self.constraints(limit_ms).keeps
        kept = (each for each in scored if keeps(each.cost))
        return sorted(kept, key=lambda c: (c.loss, c.cost.predicted_ms, gene_of(c.arch, self.space)))

    def result(self, found: _Found, paths: dict[float, Path], scoring_s: float) -> SearchResult:
        """Return the result of a search without winners."""
        scored = {name: self.scored(losses) for name, losses in found.losses.items()}
        points = {name: self.points(each) for name, each in scored.items()}
        own = scored.pop("search")
        return SearchResult(
            winners={},
            front=tuple(own[i] for i in front_numbers(points["search"])),
            scored=own,
            hypervolumes=growth(points["search"], found.reference),
            histories=found.histories,
            reference=found.reference,
            ablations=scored,
            comparison=compare(points) if scored else None,
            coverage=self.coverage,
            conditions={},
            paths=paths,
            whole_front=self.strategy.whole_front,
            objectives=self.config.objectives,
            scoring_s=scoring_s,
            seconds=scoring_s,
        )

    def timer(self, out: Path | None, measuring: Mapping[str, Any]) -> DeviceTimer | None:
        """Return what measures on the device of the predictor, or None, saying so, if this is another one."""
        conditions, network = self.predictor.conditions, self.network
        there = conditions.get("device", "an unnamed device")
        gpu = torch.cuda.is_available() and there == torch.cuda.get_device_name()
        here = torch.cuda.get_device_name() if gpu else device_name(torch.device("cpu"))
        if there != here:
            say(f"not measured: the predictor is of {there}, this is {here}")
            return None
        from hat.latency import collect, measure  # late: most of a search measures nothing

        def timings(archs: Sequence[Arch]) -> Iterator[Any]:
            return collect.measure_fresh(
                archs,
                self.space,
                conditions,
                vocab_sizes=(network.source_embed.weight.size(0), network.output.weight.size(0)),
                config=config,
                model_config=network.cfg,
                device="cuda" if gpu else "cpu",
                seed=self.seed,
            )

        config = measure.MeasureConfig(**measuring)
        asked = {"device": here, "torch": torch.__version__, **asdict(config.under(conditions))}
        asked["threads"] = conditions.get("threads", torch.get_num_threads())
        journal = out / "measured.jsonl" if out else None
        return DeviceTimer(timings, {name: str(value) for name, value in asked.items()}, journal)


# entries of a header that tell how a search draws, not what it may find
_HOW = {each.name for kind in (EvolutionConfig, ParetoConfig) for each in fields(kind)} | {
    "latency_constraint",
    "warm_start",
}


def states_of(strategy: Strategy, fitness: Score) -> Iterator[Any]:
    """Yield the states of a strategy while it searches: ask, score, tell."""
    while archs := strategy.ask():
        yield strategy.tell(fitness(archs))


def random_archs(constraints: Constraints, seed: int, *, max_tries: int = 1000) -> Iterator[Arch]:
    """Yield distinct random architectures that keep the limits, until `max_tries` draws in a row fail."""
    seen: set[Arch] = set()
    draw = failures = 0
    while failures < max_tries:
        arch = sample(constraints.space, rng_for(seed, "random search", draw))
        draw, failures = draw + 1, failures + 1
        if arch not in seen and constraints.within([arch]):
            seen.add(arch)
            failures = 0
            yield arch


def depth_grid(constraints: Constraints) -> list[Arch]:
    """Return the architectures within the limits that differ from the largest in their depths only."""
    space, archs = constraints.space, []
    for depths in product(*(sorted(set(getattr(space, side).layers_choice), reverse=True) for side in SIDES)):

        def pick(dim: Dim, allowed: tuple[int, ...], layer: int, of: tuple[int, ...] = depths) -> int:
            return of[SIDES.index(dim.side)] if dim.attr == "num_layers" else max(allowed)

        archs.append(space.build(pick))
    return constraints.within(archs)


def paths_of(write_to: str | Path | None, limits_ms: Sequence[float]) -> dict[float, Path]:
    """Return the YAML file of each limit; of several, each name ends in @<limit>ms."""
    if write_to is None:
        return {}
    found = Path(write_to)
    if len(limits_ms) < 2:
        return {limit_ms: found for limit_ms in limits_ms}
    stem = found.stem.partition("@")[0]
    named = {limit_ms: found.with_name(f"{stem}@{limit_ms:g}ms{found.suffix}") for limit_ms in limits_ms}
    if len(set(named.values())) < len(named):
        raise ConfigError(
            f"--latency-constraints {tuple(limits_ms)}: files named by six digits cannot tell them apart; "
            "leave out those that hardly differ"
        )
    return named


def limits_of(
    limits_ms: Sequence[float], config: SearchConfig, strategy: type[Strategy]
) -> tuple[float, ...]:
    """Return the latency limits of a search: infinity if only other things are limited.

    Raises ConfigError for limits that the strategy cannot search under.
    """
    for limit in limits_ms:
        if not limit > 0:
            raise ConfigError(f"a latency limit must be above 0 ms, got {limit}")
    if len(set(limits_ms)) < len(limits_ms):
        raise ConfigError(f"--latency-constraints names a limit twice: {tuple(limits_ms)}")
    limits_ms = tuple(limits_ms) or ((math.inf,) if config.beside_latency() else ())
    if not limits_ms and not strategy.whole_front:
        raise ConfigError("no limit; give --latency-constraint in ms, --max-params or --max-flops")
    most, several = config.pareto_evaluations, len(limits_ms)
    if strategy.whole_front and most < several:
        raise ConfigError(
            f"--pareto-evaluations {most} is too few for {several} limits of --latency-constraints, each of "
            f"which needs an architecture that keeps it; give at least {several}"
        )
    return limits_ms
