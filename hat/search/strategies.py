"""Search strategies: each is one class that is asked for architectures and told their losses.

A strategy keeps no file and knows no network; `hat.search.run` does the rest for all of them.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from hat.config import Options, option
from hat.errors import ConfigError, TrainingError
from hat.rng import rng_for
from hat.search.constraints import Constraints, Cost, Found, LimitOptions, Pool
from hat.search.front import Point, crowding, front_numbers, fronts, hypervolume, worst
from hat.space import Arch, Gene, SearchSpace, gene_choices, layer_columns

Objective = Literal["latency", "params", "flops"]
STIFFNESS = 1.0  # of the ridge regression; one scored architecture counts as much


@dataclass(frozen=True)
class EvolutionConfig(Options):
    """Evolutionary search"""

    evo_iter: int = option(30, low=1)
    """iterations, the first of which scores the random population"""
    population_size: int = 125
    """architectures of an iteration: parents plus mutations plus crossovers"""
    parent_size: int = option(25, low=1)
    """best architectures kept for the next iteration"""
    mutation_size: int = option(50, low=0)
    """children made by mutation in an iteration, at least"""
    crossover_size: int = option(50, low=0)
    """children made by crossover in an iteration, as far as the parents differ enough"""
    mutation_prob: float = option(0.3, low=0, high=1)
    """probability that a mutation draws a gene anew"""
    max_tries: int = option(1000, low=1)
    """draws without a new architecture under the limit before the search goes on with what it has"""

    def __post_init__(self) -> None:
        super().__post_init__()
        total = self.parent_size + self.mutation_size + self.crossover_size
        if total != self.population_size:
            raise ConfigError(
                f"--population-size {self.population_size} is not parents + mutations + crossovers = "
                f"{self.parent_size} + {self.mutation_size} + {self.crossover_size} = {total}; "
                f"set it to {total}"
            )


@dataclass(frozen=True)
class ParetoConfig(Options):
    """Search for the whole front"""

    pareto: bool = False
    """find the front of validation loss against latency in one search, instead of one architecture"""
    objectives: tuple[Objective, ...] = ("latency",)
    """what the front trades the loss for: latency, params, flops"""
    pareto_evaluations: int = option(150, low=1)
    """architectures to score"""
    pareto_population: int = option(20, low=1)
    """architectures of the first population, and kept after each generation"""
    pareto_children: int = option(10, low=1)
    """architectures scored in a generation"""
    pareto_mutation_prob: float = option(0.05, low=0, high=1)
    """probability that a child draws a gene anew"""
    pareto_screen: int = option(20, low=1)
    """children drawn for each one scored, chosen by a guess of their loss; 1 scores them as they come"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(
                f"--objectives takes some of latency, params, flops, each once, got {self.objectives}"
            )


@dataclass(frozen=True)
class ScoringOptions(Options):
    """Scores, finalists and comparison"""

    valid_cnt_max: int | None = option(None, low=1)
    """validation sentences that a loss is computed on (default: all)"""
    limit_by: Literal["bound", "mean"] = "bound"
    """what keeps a latency limit: the predictor's upper bound, or its prediction"""
    finalists: int = option(5, low=1)
    """best architectures under each limit that are measured if the predictor is of this device"""
    ablations: int = option(0, low=0)
    """random architectures to score beside, and a grid of depths, for a table of hypervolumes; 0 for none"""


@dataclass(frozen=True)
class SearchConfig(EvolutionConfig, ParetoConfig, LimitOptions, ScoringOptions):
    """All options of a search: how it looks for architectures, which it may take, how it scores them."""

    label_smoothing: float = option(0.1, low=0, below=1)
    """label smoothing of the validation loss"""
    valid_subset: str = "valid"
    """split of the dataset that losses are computed on"""
    max_tokens: int = option(4096, low=1)
    """most tokens in a batch of validation, padding included"""
    required_batch_size_multiple: int = option(8, low=1)
    """batches have a multiple of this many sentences if possible"""
    profile_length: int = option(30, low=1)
    """tokens of source and target for which FLOPs are counted"""


@dataclass(frozen=True)
class Problem:
    """What a strategy is to solve."""

    constraints: Constraints
    config: SearchConfig
    seed: int
    first: Sequence[Arch] = ()  # of an older search, lowest loss first
    anchors: Sequence[Arch] = ()  # one for each latency limit, which keeps it


class Candidate(NamedTuple):
    """A scored architecture with the gene it was drawn as; ranked by loss, then by predicted latency."""

    loss: float
    cost: Cost
    gene: Gene
    arch: Arch


class Generation(NamedTuple):
    """State of a search for the front after one generation."""

    generation: int  # from 1
    evaluations: int  # architectures scored so far
    hypervolume: float  # share of the box below `reference` that the front dominates
    front_size: int
    best_loss: float
    fastest_ms: float  # on the front

    @property
    def line(self) -> str:
        """Return the state in words."""
        return (
            f"{self.evaluations} scored, hypervolume {self.hypervolume:.5f}, {self.front_size} on the front, "
            f"best loss {self.best_loss:.4f}, fastest {self.fastest_ms:.1f} ms"
        )


class Iteration(NamedTuple):
    """State of an evolution after one iteration."""

    iteration: int  # from 1
    best_loss: float
    mean_parent_loss: float
    best_latency_ms: float
    evaluations: int  # architectures scored so far

    @property
    def line(self) -> str:
        """Return the state in words."""
        return (
            f"iteration {self.iteration}: best loss {self.best_loss:.4f} at {self.best_latency_ms:.1f} ms, "
            f"{self.evaluations} scored"
        )


class Strategy(ABC):
    """Is asked for architectures and told their losses, until it asks for nothing more.

    A strategy of one's own defines `ask`. This base hands out each architecture once, keeps what was scored
    in `scored`, and describes the front of it. It must be a pure function of its problem and of what it is
    told: random numbers come from `rng`.
    """

    whole_front: ClassVar[bool] = True  # one run serves all limits; otherwise each limit has a run of its own
    record: ClassVar[str] = "front"  # kind of its records in log.jsonl
    stream: ClassVar[str] = "search"  # name of its random numbers

    def __init__(self, problem: Problem) -> None:
        self.problem, self.config = problem, problem.config
        self.space = problem.constraints.space
        self.choices = gene_choices(self.space)  # of each position of a gene
        self.rng = rng_for(problem.seed, self.stream)
        self.pool = Pool(problem.constraints, self.config.max_tries)
        self.scored: list[Candidate] = []
        self.reference: Point = ()  # worst of the first generation
        self._asked: list[Found] = []
        self._told = 0  # generations

    @classmethod
    def budget(cls, config: SearchConfig) -> int:
        """Return how many architectures one run scores at most."""
        return config.pareto_evaluations

    @abstractmethod
    def ask(self) -> list[Arch]:
        """Return architectures to score, by `hand_out`; none if the search is over.

        Raises Infeasible if no architecture keeps the limits.
        """

    def tell(self, losses: Sequence[float]) -> Any:
        """Take the losses of what was asked for last; returns the state, a NamedTuple with a `line`.

        Raises TrainingError for a loss that is not finite.
        """
        self.take_back(losses)
        return self.generation()

    def random_gene(self) -> Gene:
        """Return a gene whose positions are drawn uniformly."""
        return tuple(map(self.rng.choice, self.choices))

    def hand_out(self, found: Sequence[Found]) -> list[Arch]:
        """Return the architectures of `found`, whose losses the next `tell` brings."""
        self._asked = list(found)
        return [each.arch for each in found]

    def take_back(self, losses: Sequence[float]) -> list[Candidate]:
        """Return what was handed out last, with its losses, and add it to `scored`."""
        new = [
            Candidate(finite_loss(loss, each.arch), each.cost, each.gene, each.arch)
            for loss, each in zip(losses, self._asked, strict=True)
        ]
        self.scored += new
        self._told += 1
        return new

    def generation(self) -> Generation:
        """Return the state of the front of all that was scored."""
        points = [self.point(each) for each in self.scored]
        self.reference = self.reference or worst(points)
        front = front_numbers(points)
        return Generation(
            self._told,
            len(points),
            hypervolume([points[i] for i in front], self.reference),
            len({points[i] for i in front}),
            points[front[0]][0],
            min(self.scored[i].cost.predicted_ms for i in front),
        )

    def point(self, candidate: Candidate) -> Point:
        """Return where a candidate lies: its loss, then the objectives."""
        return (candidate.loss, *objective_values(candidate.cost, self.config.objectives))


class Evolution(Strategy):
    """Evolutionary search for the lowest loss within limits (HAT 2020, section 3.3)."""

    whole_front = False
    record, stream = "search", "evolution"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._parents: list[Candidate] = []

    @classmethod
    def budget(cls, config: SearchConfig) -> int:
        """Return how many architectures one run scores at most."""
        return config.population_size + (config.evo_iter - 1) * (config.mutation_size + config.crossover_size)

    def ask(self) -> list[Arch]:
        """Return the first population, then the children of each iteration."""
        cfg, pool = self.config, self.pool
        if self._told == 0:
            first = self.problem.constraints.within(self.problem.first)[: cfg.parent_size]
            return self.hand_out(pool.initial(self.random_gene, cfg.population_size, first))
        if self._told == cfg.evo_iter:
            return []
        genes = [parent.gene for parent in self._parents]
        children = pool.collect(partial(cross, genes, self.rng), cfg.crossover_size)
        count = cfg.mutation_size + cfg.crossover_size - len(children)  # similar parents have few crossings
        mutant = partial(mutate, genes, self.choices, cfg.mutation_prob, self.rng)
        return self.hand_out(children + pool.collect(mutant, count))

    def tell(self, losses: Sequence[float]) -> Iteration:
        """Keep the best as parents."""
        ranked = sorted(self._parents + self.take_back(losses), key=_rank)
        self._parents = ranked[: self.config.parent_size]
        mean = math.fsum(parent.loss for parent in self._parents) / len(self._parents)
        best = self._parents[0]
        return Iteration(self._told, best.loss, mean, best.cost.predicted_ms, len(self.scored))


class NSGA2(Strategy):
    """One search for the whole front of loss against latency, parameters or FLOPs (Deb et al. 2002).

    Of each generation's children those are scored that a guess of their loss holds for the best.
    """

    stream = "pareto"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._parents: list[Candidate] = []  # best first
        self._left = self.config.pareto_evaluations  # to score, besides `first`

    def ask(self) -> list[Arch]:
        """Return the first population, then the children of each generation.

        The first population is `first` (whose losses are known), the anchors, the smallest and the largest
        architecture, and random ones.
        """
        cfg, pool = self.config, self.pool
        if self._told == 0:
            known = pool.among(self.problem.first)
            extremes = (*self.problem.anchors, self.space.smallest(), self.space.largest())
            size = max(len(self.problem.anchors) + 2, cfg.pareto_population - len(known))
            new = pool.initial(self.random_gene, min(cfg.pareto_evaluations, size), extremes)
            self._left -= len(new)
            return self.hand_out(known + new)
        wanted = min(cfg.pareto_children, self._left)
        if wanted < 1:
            return []
        offered = pool.offer(self._child, cfg.pareto_screen * cfg.pareto_children)
        if cfg.pareto_screen > 1 and offered:
            offered = self._most_promising(offered)
        pool.take(offered[:wanted])
        self._left -= len(offered[:wanted])
        return self.hand_out(offered[:wanted])

    def tell(self, losses: Sequence[float]) -> Generation:
        """Keep the best as parents, front by front."""
        self._parents = self._survivors(self._parents + self.take_back(losses), self.config.pareto_population)
        return self.generation()

    def _child(self) -> Gene:
        """Return a mutated crossing of the winners of two binary tournaments."""
        numbers, rng = range(len(self._parents)), self.rng
        pair = [self._parents[min(rng.choices(numbers, k=2))].gene for _ in range(2)]
        return mutate([cross(pair, rng)], self.choices, self.config.pareto_mutation_prob, rng)

    def _most_promising(self, offered: Sequence[Found]) -> list[Found]:
        """Return those of `offered`, best first, that survive among each other by guessed loss and cost.

        What is scored already only serves the guess: it is not compared with.
        """
        known = [(each.arch, each.loss) for each in self.scored]
        losses = guess_losses(self.space, known, [each.arch for each in offered])
        guessed = [
            Candidate(loss, each.cost, each.gene, each.arch)
            for loss, each in zip(losses, offered, strict=True)
        ]
        best = self._survivors(guessed, self.config.pareto_children)
        return [Found(each.gene, each.arch, each.cost) for each in best]

    def _survivors(self, candidates: Sequence[Candidate], count: int) -> list[Candidate]:
        """Return `count` of them, front by front, of the last front those that stand apart; best first."""
        points = [self.point(each) for each in candidates]
        kept: list[Candidate] = []
        for front in fronts(points):
            apart = dict(zip(front, crowding([points[i] for i in front]), strict=True))
            order = sorted(front, key=lambda i: (-apart[i], points[i], candidates[i].gene))
            kept += [candidates[i] for i in order[: count - len(kept)]]
            if len(kept) == count:
                break
        return kept


def strategy_of(config: SearchConfig) -> type[Strategy]:
    """Return the strategy that the options ask for."""
    return NSGA2 if config.pareto else Evolution


def mutate(
    genes: Sequence[Gene], choices: Sequence[Sequence[int]], probability: float, rng: random.Random
) -> Gene:
    """Return a random parent's gene with each position drawn anew with the given probability."""
    return tuple(
        rng.choice(choice) if rng.random() < probability else value
        for value, choice in zip(rng.choice(genes), choices, strict=True)
    )


def cross(genes: Sequence[Gene], rng: random.Random) -> Gene:
    """Return a gene that takes each position from one of two random parents."""
    return tuple(map(rng.choice, zip(rng.choice(genes), rng.choice(genes), strict=True)))


def finite_loss(loss: float, arch: Arch) -> float:
    """Return `loss`; raises TrainingError if it is not finite, as such a loss cannot be ranked."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the validation loss is {loss} for {arch}; the SuperTransformer has broken weights, or its "
            "precision does not suffice: train it again, or search without fp16"
        )
    return loss


def objective_values(cost: Cost, objectives: Sequence[Objective]) -> Point:
    """Return the value of each objective: predicted ms, parameters, FLOPs."""
    values = {"latency": cost.predicted_ms, "params": float(cost.params), "flops": float(cost.flops)}
    return tuple(values[name] for name in objectives)


def _rank(candidate: Candidate) -> tuple[float, float, Gene]:
    return candidate.loss, candidate.cost.predicted_ms, candidate.gene


def guess_losses(
    space: SearchSpace, scored: Sequence[tuple[Arch, float]], archs: Sequence[Arch]
) -> list[float]:
    """Return a guess of the loss of each of `archs`.

    Ridge regression on what each layer holds, so every layer's sizes and heads have an effect of their own;
    a layer that is not there has the effect of its depth. Rounded to 1e-6 so that the last bits of the
    arithmetic do not choose.
    """
    x = np.array([layer_columns(arch, space) for arch, _ in scored])
    y = np.array([loss for _, loss in scored])
    middle, spread, mean = x.mean(axis=0), x.std(axis=0), y.mean()
    spread[spread == 0] = 1.0
    z = (x - middle) / spread
    weights = np.linalg.solve(z.T @ z + STIFFNESS * np.eye(z.shape[1]), z.T @ (y - mean))
    columns = np.array([layer_columns(arch, space) for arch in archs])
    values: list[float] = np.round(mean + (columns - middle) / spread @ weights, 6).tolist()
    return values
