"""One search for the whole front of loss against latency, parameters or FLOPs (NSGA-II, Deb et al. 2002)."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hat.errors import ConfigError
from hat.rng import rng_for
from hat.search.evolution import cross, finite_loss, mutate
from hat.search.front import Point, crowding, fronts, hypervolume, worst
from hat.search.limits import Cost, Gate
from hat.search.pool import Found, Pool, Score
from hat.search.screen import guess_losses
from hat.space import Arch, Gene, SearchSpace, gene_choices

Objective = Literal["latency", "params", "flops"]


@dataclass(frozen=True)
class ParetoConfig:
    """Search for the whole front"""

    pareto: bool = False
    """find the front of validation loss against latency in one search, instead of one architecture"""
    objectives: tuple[Objective, ...] = ("latency",)
    """what the front trades the loss for: latency, params, flops"""
    pareto_evaluations: int = 150
    """architectures to score"""
    pareto_population: int = 20
    """architectures of the first population, and kept after each generation"""
    pareto_children: int = 10
    """architectures scored in a generation"""
    pareto_mutation_prob: float = 0.05
    """probability that a child draws a gene anew"""
    pareto_screen: int = 20
    """children drawn for each one scored, chosen by a guess of their loss; 1 scores them as they come"""

    def __post_init__(self) -> None:
        for name in ("pareto_evaluations", "pareto_population", "pareto_children", "pareto_screen"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.pareto_mutation_prob <= 1:
            raise ConfigError(
                f"--pareto-mutation-prob must lie between 0 and 1, got {self.pareto_mutation_prob}"
            )
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(
                f"--objectives takes some of latency, params, flops, each once, got {self.objectives}"
            )


class Scored(NamedTuple):
    """An architecture with its loss, what it costs, and where it lies."""

    gene: Gene
    arch: Arch
    loss: float
    cost: Cost
    point: Point  # loss, then the objectives as given


class Generation(NamedTuple):
    """State of the search after one generation."""

    generation: int  # from 1
    evaluations: int
    hypervolume: float  # share of the box below `reference` that the front dominates
    front_size: int
    best_loss: float
    fastest_ms: float  # on the front


class FrontResult(NamedTuple):
    """Every scored architecture, those on the front, and how the front grew."""

    scored: tuple[Scored, ...]  # in the order of scoring
    front: tuple[Scored, ...]  # from the lowest loss to the highest
    reference: Point  # worst of the first population
    history: tuple[Generation, ...]


def search_front(
    space: SearchSpace,
    fitness: Score,
    latency_ms: Score,
    gate: Gate,
    cfg: ParetoConfig,
    seed: int,
    *,
    first: tuple[Arch, ...] = (),
    anchors: tuple[Arch, ...] = (),
    max_tries: int = 1000,
    on_generation: Callable[[Generation], object] | None = None,
) -> FrontResult:
    """Return the front of `fitness` against the objectives among architectures that `gate` lets through.

    A pure function of its arguments: it calls `fitness` once for each distinct architecture,
    cfg.pareto_evaluations times besides `first`, or fewer where the space holds no more. The first population
    is `first` (whose losses are known), `anchors`, the smallest and the largest architecture, and random
    ones. Raises Infeasible where nothing keeps the limits.
    """
    choices = gene_choices(space)
    rng = rng_for(seed, "pareto")
    pool = Pool(space, latency_ms, gate, max_tries)
    newcomers = pool.among(first)
    budget = cfg.pareto_evaluations + len(newcomers)
    size = min(cfg.pareto_evaluations, max(len(anchors) + 2, cfg.pareto_population - len(newcomers)))
    extremes = (*anchors, space.smallest(), space.largest())
    newcomers += pool.initial(lambda: tuple(map(rng.choice, choices)), size, extremes)
    everything: list[Scored] = []
    parents: list[Scored] = []
    history: list[Generation] = []
    reference: Point = ()
    while newcomers:
        children = _scored(newcomers, fitness, gate, cfg.objectives)
        everything += children
        reference = reference or worst([each.point for each in everything])
        parents = survivors(parents + children, cfg.pareto_population)
        state = _state(len(history) + 1, everything, reference)
        history.append(state)
        if on_generation:
            on_generation(state)
        wanted = min(cfg.pareto_children, budget - len(everything))
        if wanted < 1:
            break
        couple = _Couples(parents, choices, cfg.pareto_mutation_prob, rng)
        offered = pool.offer(couple.child, cfg.pareto_screen * cfg.pareto_children)
        if cfg.pareto_screen > 1:
            offered = _most_promising(offered, everything, space, gate, cfg)
        newcomers = offered[:wanted]
        pool.take(newcomers)
    front = front_of(everything)
    return FrontResult(tuple(everything), tuple(front), reference, tuple(history))


def front_of(scored: Sequence[Scored]) -> list[Scored]:
    """Return those that none dominates, from the lowest loss to the highest; one of equal points."""
    if not scored:
        return []
    best = {scored[i].point: scored[i] for i in reversed(fronts([each.point for each in scored])[0])}
    return [best[point] for point in sorted(best)]


def survivors(scored: Sequence[Scored], count: int) -> list[Scored]:
    """Return `count` of them, front by front, of the last front those that stand apart; best first."""
    points = [each.point for each in scored]
    kept: list[Scored] = []
    for front in fronts(points):
        apart = crowding([points[i] for i in front])
        order = sorted(range(len(front)), key=lambda k: (-apart[k], points[front[k]], scored[front[k]].gene))
        kept += [scored[front[k]] for k in order[: count - len(kept)]]
        if len(kept) == count:
            break
    return kept


def objective_values(cost: Cost, objectives: Sequence[Objective]) -> Point:
    """Return the value of each objective: predicted ms, parameters, FLOPs."""
    values = {"latency": cost.predicted_ms, "params": float(cost.params), "flops": float(cost.flops)}
    return tuple(values[name] for name in objectives)


class _Couples:
    """Makes children of parents that stand best first: binary tournaments, crossover, mutation."""

    def __init__(
        self, parents: Sequence[Scored], choices: Sequence[Sequence[int]], mutation: float, rng: random.Random
    ) -> None:
        self._genes = [parent.gene for parent in parents]
        self._choices, self._mutation, self._rng = choices, mutation, rng

    def child(self) -> Gene:
        pair = [self._genes[min(self._rng.choices(range(len(self._genes)), k=2))] for _ in range(2)]
        return mutate([cross(pair, self._rng)], self._choices, self._mutation, self._rng)


def _scored(
    found: Sequence[Found], fitness: Score, gate: Gate, objectives: Sequence[Objective]
) -> list[Scored]:
    losses = fitness([each.arch for each in found])
    return [
        _at(each, finite_loss(loss, each.arch), gate, objectives)
        for loss, each in zip(losses, found, strict=True)
    ]


def _at(found: Found, loss: float, gate: Gate, objectives: Sequence[Objective]) -> Scored:
    cost = gate.cost(found.arch, found.latency_ms)
    return Scored(found.gene, found.arch, loss, cost, (loss, *objective_values(cost, objectives)))


def _most_promising(
    offered: list[Found], everything: Sequence[Scored], space: SearchSpace, gate: Gate, cfg: ParetoConfig
) -> list[Found]:
    """Return those of `offered`, best first, that survive among each other by their guessed loss and cost.

    What is scored already only serves the guess: it is not compared with.
    """
    if not offered:
        return []
    known = [(each.arch, each.loss) for each in everything]
    losses = guess_losses(space, known, [each.arch for each in offered])
    guessed = [_at(each, loss, gate, cfg.objectives) for each, loss in zip(offered, losses, strict=True)]
    number = {each.gene: i for i, each in enumerate(guessed)}
    best = survivors(guessed, cfg.pareto_children)
    return [offered[number[each.gene]] for each in best]


def _state(generation: int, everything: Sequence[Scored], reference: Point) -> Generation:
    front = front_of(everything)
    return Generation(
        generation,
        len(everything),
        hypervolume([each.point for each in front], reference),
        len(front),
        min(each.loss for each in front),
        min(each.cost.predicted_ms for each in front),
    )
