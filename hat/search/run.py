"""One search as a function: score what a strategy asks for, choose and measure winners, write the results."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from hat.config import to_yaml_values
from hat.data.pairs import Batch, PairDataset
from hat.errors import ConfigError, HatError
from hat.files.atomic import check_writable
from hat.files.journal import Journal
from hat.latency.predictor import COVERAGE, LatencyPredictor, check_valid, conditions_of_space
from hat.log import RunLog, info
from hat.model.cpu import device_name, dtype_name
from hat.model.layers import count_params
from hat.model.transformer import Transformer
from hat.rng import rng_for
from hat.run import Identity, Run, claim, digest_of, record_path
from hat.runtimes import Precision
from hat.search import strategies
from hat.search.constraints import Candidate, DeviceTimer, Point, Pool, Score, choose_finalists
from hat.search.kriging import Points
from hat.search.record import SearchResult, known_ms, under
from hat.search.strategies import ScoringOptions, SearchConfig, Strategy
from hat.space import Arch, SearchSpace, gene_choices, gene_of, layer_columns, sample
from hat.train.checkpoint import content_of
from hat.train.distributed import ALONE, ProcessGroup
from hat.train.loop import BatchConfig, FitResult, LoopConfig, TrainConfig, fit, validation_batches
from hat.train.trainer import evaluate

CPU = torch.device("cpu")
Train = Callable[[Sequence[Arch], int], list[float]]  # validation losses after so many updates from the slice


class ValidationFitness:
    """Scores architectures on batches that stay on the device, rounded to 8 bits as runtime `int8_of` rounds,
    if given. Processes share them, which changes no result: rank 0 calls this, the others `part`.
    """

    def __init__(
        self,
        model: Transformer,
        batches: Sequence[Batch],
        label_smoothing: float,
        device: torch.device,
        group: ProcessGroup = ALONE,
        train: Callable[[Arch, int], FitResult] | None = None,
        int8_of: str | None = None,
    ) -> None:
        self._train = train
        self._model, self._batches = model.eval(), [batch.to(device) for batch in batches]
        self._label_smoothing, self.group = label_smoothing, group
        self._rounded: Callable[[Transformer, Arch], Transformer] | None = None
        if int8_of:
            from hat.model.rounding import ROUNDINGS, rounded  # late: most searches score in float

            self._rounded = partial(rounded, how=ROUNDINGS[int8_of])

    def __call__(self, archs: Sequence[Arch], updates: int = 0) -> list[float]:
        """Return smoothed losses (base 2, per target token), after short trainings of `updates`, if any."""
        parts = self.part(self.group.broadcast([(arch, updates) for arch in archs]))
        for part in parts:
            if isinstance(part, HatError):
                raise part
        return [parts[n % len(parts)][n // len(parts)] for n in range(len(archs))]

    def part(self, asked: Sequence[tuple[Arch, int]]) -> list[Any]:
        """Score every size-th of `asked`; returns what each process found: losses or an error."""
        try:
            mine: Any = [self.loss(*each) for each in asked[self.group.rank :: self.group.size]]
        except HatError as error:
            mine = error
        return self.group.gather_objects(mine)

    def loss(self, arch: Arch, updates: int = 0) -> float:
        """Return the loss of one architecture, after a short training of it if `updates` are given."""
        model = self._model
        if updates:
            assert self._train is not None
            trained = self._train(arch, updates)
            if not self._rounded:
                return trained.losses["mean"]
            model = trained.model.network
        model = self._rounded(model, arch) if self._rounded else model
        return evaluate(model, self._batches, arch, self._label_smoothing).loss


class CachedFitness:
    """Computes each loss once and keeps it in a journal: a repeated search ends as if it had never stopped.
    `at_once` architectures are on disk before `on_score` and the next. ConfigError for another header.
    """

    def __init__(
        self,
        journal: Journal | None,
        fitness: Score,
        predict_ms: Score,
        at_once: int,
        header: Mapping[str, Any],
        on_score: Callable[[], object] = lambda: None,
    ) -> None:
        self._journal, self._fitness, self._predict_ms, self._at_once = journal, fitness, predict_ms, at_once
        self._header, self._on_score = dict(header), on_score
        self.losses: dict[Arch, float] = {}  # in the order of scoring
        if not journal or not journal.records:
            return
        if any(journal.records[0].get(name) != value for name, value in header.items()):
            what = f"{journal.path} belongs to another search, or to one of an older version"
            raise ConfigError(f"{what}; use another folder (--search-dir)")
        self.losses = {Arch.from_yaml(each["arch"]): float(each["loss"]) for each in journal.records[1:]}

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        """Return the loss of each architecture."""
        new = list(dict.fromkeys(arch for arch in archs if arch not in self.losses))
        for start in range(0, len(new), self._at_once):
            part = new[start : start + self._at_once]
            for arch, loss in zip(part, self._fitness(part), strict=True):
                if self._journal:
                    if not self._journal.records:  # nothing is written for a search that finds nothing
                        self._journal.append(self._header)
                    (ms,) = self._predict_ms([arch])
                    self._journal.append({"arch": arch.to_yaml(), "loss": loss, "latency_ms": ms})
                self.losses[arch] = loss
            self._on_score()
        return [self.losses[arch] for arch in archs]


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
    inputs: Mapping[str, Path] | None = None,
    settings: Mapping[str, Any] | None = None,
    measuring: Mapping[str, Any] | None = None,
    training: TrainConfig | None = None,
    runtime: str | None = None,
    precision: str = "auto",
    group: ProcessGroup | AbstractContextManager[ProcessGroup] = ALONE,
    progress: bool = False,
    new_run: bool = False,
) -> SearchResult:
    """Return the best architectures under latency limits, or the whole front of loss against latency.

    Args:
        model: a SuperTransformer, or what holds one as `network`; it is scored on its device, in its type.
        dataset: a `Dataset`, or the pairs of its validation split.
        predictor: predicts latencies. Its upper bound must keep a limit; its prediction, if
            config.limit_by is "mean" or if it has no bound, as predictors of the 2020 release.
        strategy: class that is asked for architectures (default: NSGA2 if config.pareto, else Evolution).
        measure: measure the finalists in fresh processes if this is the device of the predictor.
        out: folder of journal, log, table and summary; a search that was stopped goes on from there.
        write_to: YAML file for the winner; with several limits, each name ends in @<limit>ms.
        inputs: files that `model` ("checkpoint") and `predictor` ("predictor") came from.
        settings: options that the record of the run holds (default: `config`).
        measuring: fields of `hat.latency.measure.MeasureConfig`, for what the predictor's table does not say.
        training: options of the short trainings of config.rerank, which need a `Dataset`.
        runtime: engine that the architectures are for (default: that of the predictor).
        precision: "int8" scores slices with weights and inputs rounded as `runtime` does; any other format in
            the type of `model`. "auto" is that of the predictor.
        group: processes that share the scoring, or a context that connects them; all but rank 0 return what
            was scored, nothing measured.
        new_run: move another search that is in `out` to `<out>.<its identity>`, instead of refusing it.

    Raises ConfigError for limits that cannot be, Infeasible if no architecture keeps one, TrainingError for a
    loss that is not finite, and HatError if `out` holds a search of another identity.
    """
    config, inputs = config or SearchConfig(), inputs or {}
    network, folder = getattr(model, "network", model), Path(out) if out else None
    with ExitStack() as files:
        given = (network, dataset, predictor, tuple(limits_ms), config, seed, inputs)
        task = SearchTask(*given, training, runtime, precision, strategy, folder, files)
        paths = paths_of(write_to, task.limits_ms)
        timer_of = task.timer(measuring or {}) if measure and task.limits_ms else None
        with nullcontext(group) if isinstance(group, ProcessGroup) else group as ranks:
            fitness = task.fitness(ranks)
            score = partial(task.score, fitness, settings, progress, new_run)
            result = ranks.on_rank0(score, fitness.part)
            if not ranks.first:
                return result
        if folder:  # the table and the front need no measurement
            result.write_scores(folder)
        timer = timer_of(task.journal("measured")) if timer_of else None
        winners = choose_finalists(result.ranked, config.finalists, timer)
        conditions, seconds = timer.conditions if timer else {}, time.perf_counter() - task.began
        result = replace(result, winners=winners, paths=paths, conditions=conditions, seconds=seconds)
        result.write(folder, task.run)
    return result


@dataclass
class SearchTask:
    """What the steps of a search share; nothing is written. A network on "meta" needs its checkpoint."""

    network: Transformer
    dataset: Any
    predictor: LatencyPredictor
    limits_ms: tuple[float, ...]
    config: SearchConfig
    seed: int
    inputs: Mapping[str, Path]
    training: TrainConfig | None = None  # of short trainings
    runtime: str | None = None
    precision: str = "auto"
    chosen: type[Strategy] | None = None
    out: Path | None = None
    files: ExitStack = field(default_factory=ExitStack)  # closes what is opened for the whole search
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        cfg, predictor, pairs = self.config, self.predictor, isinstance(self.dataset, PairDataset)
        self.strategy = self.chosen or strategies.strategy_of(cfg)
        self.limits_ms = limits_of(self.limits_ms, cfg, self.strategy)
        if cfg.rerank and (pairs or self.training is None or not self.limits_ms):
            what = f"--rerank {cfg.rerank} needs a latency limit, options of training and a Dataset"
            raise ConfigError(f"{what}; give --latency-constraint, training and dataset, or --rerank 0")
        self.data = self.dataset if pairs else self.dataset.split(cfg.valid_subset)
        self.pairs = min(len(self.data), cfg.valid_cnt_max or len(self.data))
        self.space, self.weight = self.network.space, next(self.network.parameters())
        best = min(COVERAGE, predictor.max_coverage)
        self.coverage = best if cfg.limit_by == "bound" else 0.0
        self.margin = predictor.margin(self.coverage) if self.coverage else 1.0
        if self.precision not in (allowed := get_args(Precision)):
            raise ConfigError(f"precision must be one of {', '.join(allowed)}, got {self.precision!r}")
        asked = {"runtime": self.runtime or "", "dtype": self.precision.replace("auto", "")}
        asked = {name: value for name, value in asked.items() if value}
        if "predictor" not in self.inputs:  # of a file the command has checked it
            asked |= conditions_of_space(self.space, self.network.output.weight.size(0))
        check_valid("the predictor", predictor.conditions, asked)
        runtime = self.runtime or predictor.conditions.get("runtime", "torch")
        self.int8_of: str | None = None  # runtime that losses are rounded as
        if "int8" in (self.precision, self.precision == "auto" and predictor.conditions.get("dtype")):
            from hat.model.rounding import ROUNDINGS  # late, as above

            self.int8_of = runtime if runtime in ROUNDINGS else None
            if not self.int8_of:
                info(f"slices are scored in {self.dtype}: it is not known how {runtime} rounds to 8 bits")

    @property
    def dtype(self) -> str:
        """Return the number format of the losses."""
        name = str(self.weight.dtype)
        return f"int8 as {self.int8_of} rounds, computed in {name}" if self.int8_of else name

    def pool(self, limit_ms: float | None = None) -> Pool:
        """Return the architectures that keep one latency limit; None stands for the highest one."""
        cfg, upper_ms = self.config, limit_ms or max(self.limits_ms, default=math.inf)
        how: dict[str, Any] = {"length": cfg.profile_length, "max_tries": cfg.max_tries}
        return Pool(self.space, self.predictor.predict_many, cfg, upper_ms, margin=self.margin, **how)

    def fitness(self, group: ProcessGroup) -> ValidationFitness:
        """Return the loss on the validation pairs, of slices or after a short training."""
        cfg = self.config
        sizes = BatchConfig(cfg.max_tokens, required_batch_size_multiple=cfg.required_batch_size_multiple)
        slots = validation_batches(self.data, sizes, self.network.cfg).slots
        kept = (numbers[numbers < self.pairs] for numbers in slots if numbers is not None)
        batches = [self.data.batch(numbers) for numbers in kept if len(numbers)]

        def train(arch: Arch, updates: int) -> FitResult:
            from hat.decode.translator import Model  # late: most searches train nothing

            assert self.training is not None
            start = self.inputs.get("checkpoint") or Model(self.network)
            how: dict[str, Any] = {"space": self.space, "device": self.weight.device, "seed": self.seed}
            return fit(arch, self.dataset, short_training(self.training, updates), init=start, **how)

        given = (self.network, batches, cfg.label_smoothing, self.weight.device, group)
        return ValidationFitness(*given, train, self.int8_of)

    def identity(self) -> Identity:
        """Return what the result depends on."""
        cfg, limits = self.config, [limit_ms for limit_ms in self.limits_ms if limit_ms < math.inf]
        inputs = {use: digest_of(path) for use, path in self.inputs.items()}
        if "checkpoint" not in inputs:  # it is not known which file the weights came from
            inputs["checkpoint"] = content_of(self.network)
        if "predictor" not in inputs:
            archs = [sample(self.space, rng_for(0, "digest", number)) for number in range(32)]
            inputs["predictor"] = sha256(repr(self.predictor.predict_many(archs)).encode()).hexdigest()
        inputs["validation"] = f"{self.pairs} pairs, SHA-256 {self.data.digest(self.pairs)}"
        settings = {"seed": self.seed, "dtype": self.dtype, **self.space.sizes, **self.space.choices}
        settings |= {"latency-constraints": limits or None, "coverage": self.coverage or None}
        if not (cfg.max_flops or cfg.min_flops or "flops" in cfg.objectives):
            settings["profile-length"] = None
        found = Identity.of("search", cfg, settings=settings, inputs=inputs)
        return replace(found, lengths=dict(found.lengths) | self.short_trainings())

    def short_trainings(self) -> dict[str, Any]:
        """Return what losses of short trainings depend on besides the search; empty if there are none."""
        if not self.config.rerank or self.training is None:
            return {}
        train = self.dataset.split(self.training.batches.train_subset).content()
        return {"recipe": self.training.to_yaml(), "train": train}

    def journal(self, name: str) -> Journal | None:
        """Open a journal in `out` until the search ends."""
        return self.files.enter_context(Journal(self.out / f"{name}.jsonl")) if self.out else None

    def cached(
        self, name: str, fitness: Score, group: ProcessGroup, on_score: Callable[[], object], **more: Any
    ) -> CachedFitness:
        """Return a fitness whose losses a journal of the search keeps; they depend on it and on `more`."""
        header = {"kind": "hat search", "format": 2, "identity": self.made_from.digest, **more}
        given = (fitness, self.predictor.predict_many, group.size, header, on_score)
        return CachedFitness(self.journal(name), *given)

    def score(
        self, fitness: ValidationFitness, settings: Mapping[str, Any] | None, progress: bool, new_run: bool
    ) -> SearchResult:
        """Score what the strategy asks for; the result has no winners yet."""
        self.made_from, device, whole = self.identity(), self.weight.device, self.strategy.whole_front
        if not self.coverage and self.config.limit_by == "bound":
            info("this predictor has no bound, latencies are kept by its mean; train one for a bound")
        rng, choices = rng_for(self.seed, "within reach"), gene_choices(self.space)
        pools = map(self.pool, self.limits_ms or (None,))  # Infeasible before anything is written
        anchors = [pool.initial(lambda: tuple(map(rng.choice, choices)), 1)[0].arch for pool in pools]
        objectives = self.config.objectives
        claimed = claim(self.out, self.made_from, "wait for it or stop it", new_run=new_run)
        self.files.enter_context(claimed)
        how: dict[str, Any] = {"threads": torch.get_num_threads(), "processes": fitness.group.size}
        how["gpus"] = fitness.group.size if device.type == "cuda" else 0
        how["device"] = {"device": device_name(device), "dtype": dtype_name(self.weight.dtype)}
        limits = {"latency-constraints": [*self.limits_ms], "seed": self.seed}
        how["settings"] = settings if settings is not None else to_yaml_values(self.config) | limits
        path = record_path(self.out, folder=True) if self.out else None
        budget = self.strategy.budget(self.config) * (1 if whole else len(self.limits_ms))
        log = RunLog(self.out, total=budget, unit="scored", bar=progress)
        self.files.callback(log.close)

        def on_score() -> None:
            log.advance(len(cached.losses))
            self.run.tick()

        cached = self.cached("journal", fitness, fitness.group, on_score)
        self.run = self.files.enter_context(Run(path, "search", identity=self.made_from, **how))
        if resumed := len(cached.losses):
            info(f"resumed {self.out}/journal.jsonl: {resumed} architectures are scored already")
            log.advance(resumed)
        history, reference = list[dict[str, Any]](), Point()
        for limit_ms in (None,) if whole else self.limits_ms:
            strategy = self.strategy(self.pool(limit_ms), self.config, self.seed, anchors)
            which = f"{under(limit_ms)}: " if limit_ms and len(self.limits_ms) > 1 else ""
            limit = {} if limit_ms is None else {"constraint_ms": known_ms(limit_ms)}
            for state in states_of(strategy, cached):
                (_, step), *values = state.items()
                line = which + strategy.line.format(**state)
                log.metrics(strategy.record, step, line, **dict(values), **limit)
                history.append(state | limit)
            reference = strategy.reference

        costs = self.pool().candidates({arch: gene_of(arch, self.space) for arch in cached.losses})
        scored = tuple(replace(each, loss=cached.losses[each.arch]) for each in costs)
        best_first = sorted(scored, key=lambda each: each.rank)
        ranked = {ms: [*filter(self.pool(ms).keeps, best_first)] for ms in self.limits_ms}
        if self.config.rerank:
            ranked = self.reranked(ranked, fitness)
        points = [each.point(objectives) for each in scored]
        reference, of = reference or strategies.worst(points), self.predictor.conditions
        return SearchResult(
            front=tuple(scored[i] for i in strategies.front_numbers(points)),
            scored=scored,
            history=history,
            reference=reference,
            hypervolumes=strategies.growth(points, reference),
            coverage=self.coverage,
            whole_front=whole,
            objectives=objectives,
            latency_of={name: of[name] for name in ("device", "threads", "runtime", "dtype") if name in of},
            scoring_s=time.perf_counter() - self.began,
            ranked=ranked,
        )

    def reranked(
        self, ranked: Mapping[float, Sequence[Candidate]], fitness: ValidationFitness
    ) -> dict[float, list[Candidate]]:
        """Return what keeps each limit in the order that short trainings give it; these are journalled."""
        rounds = {limit_ms: rounds_of(len(few), self.config) for limit_ms, few in ranked.items()}
        most = sum(count * updates for each in rounds.values() for count, updates in each)
        info(f"short trainings ({self.config.rerank_by}): at most {most} updates in all")
        trained, known = dict[Arch, tuple[int, float]](), dict[int, CachedFitness]()

        def train(archs: Sequence[Arch], updates: int) -> list[float]:
            if updates not in known:
                given = (f"trained_{updates}", partial(fitness, updates=updates), fitness.group)
                more = {"updates": updates, **self.short_trainings()}
                known[updates] = self.cached(*given, self.run.tick, **more)
            losses = known[updates](archs)
            trained.update({arch: (updates, loss) for arch, loss in zip(archs, losses, strict=True)})
            return losses

        found = {}
        for limit_ms, few in ranked.items():
            by_arch = {each.arch: each for each in few}
            if self.config.rerank_by == "halving":
                order = halving(list(by_arch), rounds[limit_ms], train)
            else:
                ((count, updates),) = rounds[limit_ms]
                tried = spread(list(by_arch), count)
                losses = dict(zip(tried, train(tried, updates), strict=True))
                guessed = guess_trained(self.space, {each.arch: each.loss for each in few}, losses)
                order = sorted(guessed, key=guessed.__getitem__)
            found[limit_ms] = [replace(by_arch[arch], trained=trained.get(arch)) for arch in order]
        self.run.results["trained_updates"] = sum(n * len(each.losses) for n, each in known.items())
        return found

    def timer(self, measuring: Mapping[str, Any]) -> Callable[[Journal | None], DeviceTimer] | None:
        """Return what makes a timer of its journal, None on another device; ConfigError without runtime."""
        conditions, network = self.predictor.conditions, self.network
        there, gpu = conditions.get("device", "an unnamed device"), torch.cuda.is_available()
        gpu = gpu and there == torch.cuda.get_device_name()
        here = there if gpu else device_name(CPU)
        if conditions.get("runtime") == "command":
            here = measuring.get("command") or here
        if there != here:
            info(f"not measured: the predictor is of {there}, this is {here}")
            return None
        from hat.latency import measure  # late: most of a search measures nothing

        config = measure.MeasureConfig(**measuring).under(conditions)
        device = torch.device("cuda") if gpu else CPU
        config.check(self.space.largest(), device)
        own, held = config.engine().estimate, conditions.get("estimate", "median")
        check_valid("the table of the predictor", {"estimate": held}, {"estimate": own})
        asked: dict[str, Any] = {"device": here, "torch": torch.__version__, **asdict(config)}
        asked |= {"threads": conditions.get("threads", torch.get_num_threads()), **config.engine().version()}
        given = (self.space, network.vocab_sizes, config, network.cfg, device, self.seed)

        def fresh(archs: Sequence[Arch]) -> list[Any]:
            return measure.measure_fresh(archs, measure.Subject(*given), conditions)

        return partial(DeviceTimer, fresh, {name: str(value) for name, value in asked.items()})


def states_of(strategy: Strategy, fitness: Score) -> Iterator[dict[str, Any]]:
    """Yield the states of a strategy while it searches: ask, score, tell."""
    while asked := strategy.ask():
        losses = fitness([each.arch for each in asked])
        yield strategy.tell([replace(each, loss=loss) for each, loss in zip(asked, losses, strict=True)])


def paths_of(write_to: str | Path | None, limits_ms: Sequence[float]) -> dict[float, Path]:
    """Return the YAML file of each limit, which can be written; of several, each name ends in @<limit>ms."""
    if write_to is None:
        return {}
    path, several = Path(write_to), len(limits_ms) > 1
    stem = path.stem.partition("@")[0]
    found = {ms: path.with_name(f"{stem}@{ms:.12g}ms{path.suffix}") if several else path for ms in limits_ms}
    for each in found.values():
        check_writable(each)
    return found


def limits_of(
    limits_ms: Sequence[float], config: SearchConfig, strategy: type[Strategy]
) -> tuple[float, ...]:
    """Return the latency limits, infinity if only other things are limited; ConfigError if they cannot be."""
    if not all(limit_ms > 0 for limit_ms in limits_ms) or len(set(limits_ms)) < len(limits_ms):
        raise ConfigError(f"--latency-constraints must be above 0 ms and differ, got {tuple(limits_ms)}")
    limits_ms = tuple(limits_ms) or ((math.inf,) if config.beside_latency() else ())
    if not limits_ms and not strategy.whole_front:
        raise ConfigError("no limit; give --latency-constraint in ms, --max-params or --max-flops")
    most, several = config.pareto_evaluations, len(limits_ms)
    if strategy.whole_front and most < several:
        what = f"--pareto-evaluations {most} is too few for {several} limits"
        raise ConfigError(f"{what}, each of which needs an architecture; give at least {several}")
    return limits_ms


def rounds_of(count: int, options: ScoringOptions) -> list[tuple[int, int]]:
    """Return how many architectures are trained in each round, and for how many updates each."""
    if options.rerank_by == "ridge":
        return [(min(count, max(options.rerank, 10)), options.rerank_updates)]  # 10: for a regression
    count, rounds, updates = min(count, options.rerank), list[tuple[int, int]](), options.rerank_updates
    while count > 1:
        rounds.append((count, updates))
        count, updates = (count + 1) // 2, 2 * updates
    return rounds


def short_training(config: TrainConfig, updates: int) -> TrainConfig:
    """Return the options of a training of so many updates; its warm-up is at most a fifth of it."""
    optim = replace(config.optim, max_update=updates, max_epoch=None)
    warmup = replace(config.schedule, warmup_updates=min(config.schedule.warmup_updates, updates // 5))
    # validated at the end alone
    loop = LoopConfig(validate_interval=10**9, keep_last_epochs=0, log_interval=10**9, no_tensorboard=True)
    return replace(config, optim=optim, schedule=warmup, loop=loop)


def halving(ranked: Sequence[Arch], rounds: Sequence[tuple[int, int]], train: Train) -> list[Arch]:
    """Return the order by successive halving (Jamieson and Talwalkar 2016), best first; the others follow."""
    order = list(ranked)
    for count, updates in rounds:
        losses = dict(zip(order[:count], train(order[:count], updates), strict=True))
        order[:count] = sorted(losses, key=losses.__getitem__)
    return order


def spread(ranked: Sequence[Arch], count: int) -> list[Arch]:
    """Return `count` architectures, evenly spread over those that are ranked, the first and the last too."""
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [ranked[place] for place in places]


def guess_trained(
    space: SearchSpace, slices: Mapping[Arch, float], trained: Mapping[Arch, float]
) -> dict[Arch, float]:
    """Return a guess of the loss of each architecture of `slices` after the training that `trained` had:
    ridge regression on the loss of its slice, the logarithm of its decoder's depth, its parameters, and what
    each layer holds; the latter count together as much as one of the former.
    """

    def columns(archs: Iterable[Arch]) -> Points:
        few = [[slices[arch], math.log(arch.decoder.num_layers), count_params(arch, space)] for arch in archs]
        return np.hstack([few, [layer_columns(arch, space) for arch in archs]])

    wanted = columns(slices)
    weights = np.full(wanted.shape[1], 1 / math.sqrt(wanted.shape[1] - 3))
    weights[:3] = 1.0
    guessed = strategies.ridge(columns(trained), list(trained.values()), wanted, weights)
    return dict(zip(slices, guessed.tolist(), strict=True))
