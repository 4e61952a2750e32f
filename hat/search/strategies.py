"""Search strategies: each is one class that is asked for architectures and told their losses; the fronts of
non-dominated points that they find, and the hypervolume of those. A strategy keeps no file and knows no
network; `hat.search.run` does the rest for all of them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import NormalDist
from typing import Any, ClassVar, Literal

import numpy as np

from hat.config import Options, option
from hat.errors import ConfigError
from hat.rng import rng_for
from hat.search.constraints import Candidate, LimitOptions, Point, Pool
from hat.search.kriging import Kriging, Points
from hat.space import Arch, Gene, gene_choices

Objective = Literal["latency", "params", "flops"]
QUANTILES = np.array([NormalDist().inv_cdf((n + 0.5) / 20) for n in range(20)])  # stand for a normal loss
CELLS = 4096  # of a box; a front that cuts it into more is taken with every second or third coordinate
STIFFNESS = 1.0  # of the ridge regression; one scored architecture counts as much


@dataclass(frozen=True)
class EvolutionConfig(Options):
    """Evolutionary search"""

    evo_iter: int = option(30, low=1, role="lengthens")
    """iterations, the first of which scores the random population"""
    population_size: int = 125
    """architectures of an iteration: parents plus mutations plus crossovers"""
    parent_size: int = option(25, "best architectures kept for the next iteration", low=1)
    mutation_size: int = option(50, "children made by mutation in an iteration, at least", low=0)
    crossover_size: int = option(50, low=0)
    """children made by crossover in an iteration, as far as the parents differ enough"""
    mutation_prob: float = option(0.3, "probability that a mutation draws a gene anew", low=0, high=1)
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
    pareto_evaluations: int = option(150, "architectures to score", low=1, role="lengthens")
    pareto_population: int = option(6, low=1)
    """architectures of the first population, and kept after each generation"""
    pareto_children: int = option(1, low=1)
    """architectures scored in a generation, for example as many as there are processes"""
    pareto_mutation_prob: float = option(0.1, "probability that a child draws a gene anew", low=0, high=1)
    pareto_screen: int = option(200, low=1)
    """draws for each one scored, chosen by a guess of their losses; 1 scores children as they come"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(
                f"--objectives takes some of latency, params, flops, each once, got {self.objectives}"
            )


@dataclass(frozen=True)
class ScoringOptions(Options):
    """Scores and finalists"""

    valid_cnt_max: int | None = option(None, low=1, role="free")
    """validation sentences that a loss is computed on (default: all)"""
    limit_by: Literal["bound", "mean"] = "bound"
    """what keeps a latency limit: the predictor's upper bound, or its prediction"""
    finalists: int = option(5, low=1, role="lengthens")
    """best architectures under each limit that are measured if the predictor is of this device"""
    rerank: int = option(0, low=0, role="lengthens")
    """best architectures under each limit that short trainings from their slices compare; 0 for none"""
    rerank_updates: int = option(100, low=1, role="lengthens")
    """updates of each short training in the first round"""
    rerank_by: Literal["halving", "ridge"] = option("halving", role="lengthens")
    """halving trains the better half again with twice the updates, until one is left; ridge trains 10 or more
    once and guesses the losses of all others from theirs"""


@dataclass(frozen=True)
class SearchConfig(EvolutionConfig, ParetoConfig, LimitOptions, ScoringOptions):
    """All options of a search: how it looks for architectures, which it may take, how it scores them."""

    label_smoothing: float = option(0.1, "label smoothing of the validation loss", low=0, below=1)
    valid_subset: str = option("valid", "split of the dataset that losses are computed on", role="free")
    max_tokens: int = option(4096, low=1, role="free")
    """most tokens in a batch of validation, padding included"""
    required_batch_size_multiple: int = option(8, low=1, role="free")
    """batches have a multiple of this many sentences if possible"""
    profile_length: int = option(30, "tokens of source and target for which FLOPs are counted", low=1)


class Strategy(ABC):
    """Is asked for architectures and told their losses, until it asks for nothing more.

    A strategy of one's own defines `ask`. This base keeps what was scored in `scored`, and describes the
    front of it. It must be a pure function of its arguments and of what it is told: random numbers come from
    `rng`, architectures from `pool`.

    Args:
        pool: hands out the architectures that keep the limits.
        config: options of the search.
        seed: of all random numbers.
        anchors: one architecture for each latency limit, which keeps it.
    """

    whole_front: ClassVar[bool] = True  # one run serves all limits; otherwise each limit has a run of its own
    record: ClassVar[str] = "front"  # kind of its records in log.jsonl
    stream: ClassVar[str] = "search"  # name of its random numbers
    line: ClassVar[str] = (  # its state in words
        "{evaluations} scored, hypervolume {hypervolume:.5f}, {front_size} on the front, "
        "best loss {best_loss:.4f}, fastest {fastest_ms:.1f} ms"
    )

    def __init__(self, pool: Pool, config: SearchConfig, seed: int, anchors: Sequence[Arch] = ()) -> None:
        self.pool, self.space, self.config, self.anchors = pool, pool.space, config, anchors
        self.choices = gene_choices(self.space)  # of each position of a gene
        self.rng = rng_for(seed, self.stream)
        self.scored: list[Candidate] = []
        self.parents: list[Candidate] = []  # best first, if the strategy keeps some
        self.told = 0  # how often losses were told
        self.reference: Point = ()  # worst of what was told first

    @classmethod
    def budget(cls, config: SearchConfig) -> int:
        """Return how many architectures one run scores at most."""
        return config.pareto_evaluations

    @abstractmethod
    def ask(self) -> list[Candidate]:
        """Return what to score, out of `pool`; nothing if the search is over. Raises Infeasible if no
        architecture keeps the limits.
        """

    def tell(self, scored: Sequence[Candidate]) -> dict[str, Any]:
        """Take what was asked for last, with its losses; returns `state`."""
        self.scored += scored
        self.told += 1
        return self.state()

    def state(self) -> dict[str, Any]:
        """Return the state of the search: the number of its steps, then what `line` says in words.
        `hypervolume` is the share of the box below `reference` that the front dominates, `fastest_ms` the
        lowest predicted latency on the front.
        """
        points = [each.point(self.config.objectives) for each in self.scored]
        self.reference = self.reference or worst(points)
        front = front_numbers(points)
        return {
            "generation": self.told,
            "evaluations": len(points),
            "hypervolume": hypervolume([points[i] for i in front], self.reference),
            "front_size": len({points[i] for i in front}),
            "best_loss": points[front[0]][0],
            "fastest_ms": min(self.scored[i].predicted_ms for i in front),
        }

    def random_gene(self) -> Gene:
        """Return a gene whose positions are drawn uniformly."""
        return tuple(map(self.rng.choice, self.choices))

    def cross(self, genes: Sequence[Gene]) -> Gene:
        """Return a gene that takes each position from one of two random parents."""
        draw = self.rng.choice
        return tuple(map(draw, zip(draw(genes), draw(genes), strict=True)))

    def mutate(self, genes: Sequence[Gene], probability: float) -> Gene:
        """Return a random parent's gene with each position drawn anew with the given probability."""
        rng, places = self.rng, zip(self.rng.choice(genes), self.choices, strict=True)
        return tuple(rng.choice(few) if rng.random() < probability else one for one, few in places)


class Evolution(Strategy):
    """Evolutionary search for the lowest loss within limits (HAT 2020, section 3.3)."""

    whole_front = False
    record, stream = "search", "evolution"
    line = (
        "iteration {iteration}: best loss {best_loss:.4f} at {best_latency_ms:.1f} ms, {evaluations} scored"
    )

    @classmethod
    def budget(cls, config: SearchConfig) -> int:
        """Return how many architectures one run scores at most."""
        return config.population_size + (config.evo_iter - 1) * (config.mutation_size + config.crossover_size)

    def ask(self) -> list[Candidate]:
        """Return the first population, then the children of each iteration."""
        cfg, pool = self.config, self.pool
        if self.told == 0:
            return pool.initial(self.random_gene, cfg.population_size)
        if self.told == cfg.evo_iter:
            return []
        genes = [parent.gene for parent in self.parents]
        children = pool.collect(lambda: self.cross(genes), cfg.crossover_size)
        count = cfg.mutation_size + cfg.crossover_size - len(children)  # similar parents have few crossings
        return children + pool.collect(lambda: self.mutate(genes, cfg.mutation_prob), count)

    def tell(self, scored: Sequence[Candidate]) -> dict[str, Any]:
        """Keep the best as parents."""
        ranked = sorted([*self.parents, *scored], key=lambda each: each.rank)
        self.parents = ranked[: self.config.parent_size]
        return super().tell(scored)

    def state(self) -> dict[str, Any]:
        """Return the state of the search: the number of its iterations, losses and latency of its parents."""
        best = self.parents[0]
        return {
            "iteration": self.told,
            "best_loss": best.loss,
            "mean_parent_loss": math.fsum(each.loss for each in self.parents) / len(self.parents),
            "best_latency_ms": best.predicted_ms,
            "evaluations": len(self.scored),
        }


class NSGA2(Strategy):
    """One search for the whole front of loss against latency, parameters or FLOPs. Children are made as in
    NSGA-II (Deb et al. 2002). Those are scored whose loss, guessed with its uncertainty, is expected to let
    the hypervolume grow most (Emmerich et al. 2006); what is chosen already counts with its guessed loss
    (Ginsbourger et al. 2010, kriging believer).
    """

    stream = "pareto"

    def ask(self) -> list[Candidate]:
        """Return the first population, then the children of each generation. The first population is the
        anchors, the smallest and the largest architecture, and random ones.
        """
        cfg, pool = self.config, self.pool
        if self.told == 0:
            extremes = (*self.anchors, self.space.smallest(), self.space.largest())
            size = max(len(self.anchors) + 2, cfg.pareto_population)
            return pool.initial(self.random_gene, min(cfg.pareto_evaluations, size), extremes)
        wanted = min(cfg.pareto_children, cfg.pareto_evaluations - len(self.scored))
        if wanted < 1 or cfg.pareto_screen == 1:
            return pool.collect(self._child, wanted)
        believed, offered = [*self.scored], list[Candidate]()
        model = Kriging(self.space, believed)
        for draw in (self._child, self.random_gene, *[self._child] * 3):  # the best so far have children
            drawn = pool.offer(draw, -(-cfg.pareto_screen * cfg.pareto_children // 5))
            some = {each.arch: each for each in [*offered, *drawn]}
            offered = self._best_first(model, believed, some.values())
            self.parents = offered[: cfg.pareto_population] or self.parents
        while offered and len(believed) < len(self.scored) + wanted:
            believed.append(offered[0])
            model = Kriging(self.space, believed, model.settings)
            offered = self._best_first(model, believed, offered[1:])
        return pool.take(believed[len(self.scored) :])

    def tell(self, scored: Sequence[Candidate]) -> dict[str, Any]:
        """Keep the best as parents, front by front."""
        state = super().tell(scored)
        self.parents = self._survivors(self.scored, self.config.pareto_population)
        return state

    def _child(self) -> Gene:
        """Return a mutated crossing of the winners of two binary tournaments."""
        numbers = range(len(self.parents))
        pair = [self.parents[min(self.rng.choices(numbers, k=2))].gene for _ in range(2)]
        return self.mutate([self.cross(pair)], self.config.pareto_mutation_prob)

    def _best_first(
        self, model: Kriging, scored: Sequence[Candidate], candidates: Iterable[Candidate]
    ) -> list[Candidate]:
        """Return the 50 that let the hypervolume of `scored` grow most, with their guessed losses."""
        some, objectives = list(candidates), self.config.objectives
        if not some:
            return []
        means, deviations = model.guess([each.arch for each in some])
        costs = np.array([each.point(objectives)[1:] for each in some])
        points = [each.point(objectives) for each in scored]
        gains = expected_growth(points, worst(points), means, deviations, costs)
        return [replace(some[i], loss=float(means[i])) for i in np.argsort(-gains, kind="stable")[:50]]

    def _survivors(self, candidates: Sequence[Candidate], count: int) -> list[Candidate]:
        """Return `count` of them, front by front, of the last front those that stand apart; best first."""
        points = [each.point(self.config.objectives) for each in candidates]
        kept: list[Candidate] = []
        for front in fronts(points):
            apart = dict(zip(front, crowding([points[i] for i in front]), strict=True))
            order = sorted(front, key=lambda i: (-apart[i], points[i], candidates[i].gene))
            kept += [candidates[i] for i in order[: count - len(kept)]]
        return kept


def strategy_of(config: SearchConfig) -> type[Strategy]:
    """Return the strategy that the options ask for."""
    return NSGA2 if config.pareto else Evolution


def ridge(x: Points, y: Sequence[float], wanted: Points, weights: Points | float = 1.0) -> Points:
    """Return what ridge regression of `y` on the rows of `x` says of the rows of `wanted`. Columns are
    brought to mean 0 and a standard deviation of `weights`: the larger, the freer a column is.
    """
    middle, spread, mean = x.mean(axis=0), x.std(axis=0) / weights, np.mean(y)
    spread[spread == 0] = 1.0
    z = (x - middle) / spread
    slopes = np.linalg.solve(z.T @ z + STIFFNESS * np.eye(z.shape[1]), z.T @ (np.array(y) - mean))
    found: Points = mean + (wanted - middle) / spread @ slopes
    return found


def fronts(points: Sequence[Point] | Points) -> list[list[int]]:
    """Return the numbers of the points, front by front: the first holds those that none dominates. A point
    dominates another if it is nowhere worse and somewhere better (Deb et al. 2002, NSGA-II, section III-A).
    Equal points share a front.
    """
    if not len(points):
        return []
    no_worse = np.all([axis[:, None] <= axis for axis in np.asarray(points).T], axis=0)
    dominates = no_worse & ~no_worse.T
    dominators = dominates.sum(axis=0)  # of each point, among those that stand in no front yet
    found: list[list[int]] = []
    while (current := np.flatnonzero(dominators == 0)).size:
        found.append(current.tolist())
        dominators -= dominates[current].sum(axis=0)
        dominators[current] = -1
    return found


def crowding(points: Sequence[Point]) -> list[float]:
    """Return how far the neighbours of each point of one front lie apart, infinite at the ends. Sum over
    coordinates of the distance between both neighbours, as a share of the front's extent (Deb et al. 2002,
    section III-B).
    """
    table, distance = np.array(points), np.zeros(len(points))
    for axis in table.T:
        order = np.lexsort((*table.T[::-1], axis))  # ties on this axis go by the whole point
        along = axis[order]
        distance[order[[0, -1]]] = np.inf
        if along[-1] > along[0]:
            distance[order[1:-1]] += (along[2:] - along[:-2]) / (along[-1] - along[0])
    found: list[float] = distance.tolist()
    return found


def hypervolume(points: Sequence[Point] | Points, reference: Point) -> float:
    """Return the share of the box from the origin to `reference` that the points dominate, from 0 to 1.
    Coordinates, two or more, must not be negative, and the reference must be above 0. Points that are not
    below the reference on every axis add nothing. Exact, by slices along the last axis.
    """
    table = np.array(points).reshape(len(points), len(reference)) / reference
    return _volume(table[(table < 1).all(axis=1)])


def _volume(table: Points) -> float:
    table = table[np.argsort(table[:, -1], kind="stable")]
    if table.shape[1] == 2:
        lowest = np.minimum.accumulate(np.append(1.0, table[:, 0]))  # up to each point
        return float(-np.diff(lowest) @ (1.0 - table[:, 1]))
    table = table[sorted(fronts(table)[0])] if len(table) else table
    slices = enumerate(np.diff(table[:, -1], append=1.0), start=1)
    return sum(float(depth) * _volume(table[:count, :-1]) for count, depth in slices if depth)


def growth(points: Sequence[Point], reference: Point) -> list[float]:
    """Return the hypervolume after each point: a list as long as `points`."""
    found: list[float] = []
    front = np.empty((0, len(reference)))
    for point in np.array(points):
        volume = found[-1] if found else 0.0
        if not (front <= point).all(axis=1).any():
            front = np.vstack((front[~(point <= front).all(axis=1)], point))
            volume = max(volume, hypervolume(front, reference))
        found.append(volume)
    return found


def expected_growth(
    points: Sequence[Point], reference: Point, means: Points, deviations: Points, costs: Points
) -> Points:
    """Return by how much each candidate is expected to let the hypervolume of `points` grow. Its costs
    [candidates, axes] are known, its loss is normal with the given mean and standard deviation. The front
    cuts the box of costs into cells, in each of which one loss is to be beaten: the sum over cells of volume
    times expected improvement (Emmerich et al. 2006). Rounded, so that the last bits do not choose.
    """
    table = np.array(points)[fronts(points)[0]] / reference
    table = table[(table < 1).all(axis=1)]
    costs, (loss, *axes) = costs / reference[1:], table.T
    most = int(CELLS ** (1 / len(axes)))  # coordinates on each axis
    cuts = [np.sort(axis)[:: len(axis) // most + 1] for axis in axes]
    edges = [np.unique([0.0, *cut, 1.0]) for cut in cuts]
    corners = np.array([*product(*(edge[:-1] for edge in edges))])
    reached = (table[:, 1:] <= corners[:, None]).all(axis=2)
    levels, cell = np.unique(np.where(reached, loss, 1.0).min(axis=1, initial=1.0), return_inverse=True)
    drawn = (means + np.multiply.outer(QUANTILES, deviations)) / reference[0]
    improved = np.mean([np.maximum(levels - each[:, None], 0.0) for each in drawn], axis=0)
    volume = np.ones((len(costs), 1))
    for axis, edge in zip(costs.T, edges, strict=True):
        within = np.maximum(edge[1:] - np.maximum(edge[:-1], axis[:, None]), 0.0)
        volume = (volume[:, :, None] * within[:, None]).reshape(len(costs), -1)
    found: Points = np.round((volume * improved[:, cell]).sum(axis=1), 12)
    return found


def front_numbers(points: Sequence[Point]) -> list[int]:
    """Return the numbers of the points that none dominates, the lowest first coordinate first."""
    return sorted(fronts(points)[0], key=lambda i: points[i]) if points else []


def worst(points: Sequence[Point]) -> Point:
    """Return the highest value on each axis: a reference that no point lies above."""
    return tuple(map(max, zip(*points, strict=True)))
