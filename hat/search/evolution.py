"""Evolutionary search for the best architecture within limits (HAT 2020, section 3.3)."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from hat.errors import ConfigError, TrainingError
from hat.rng import rng_for
from hat.search.limits import Gate, LimitOptions
from hat.search.pool import Found, Pool, Score
from hat.space import Arch, Gene, SearchSpace, gene_choices


@dataclass(frozen=True)
class EvolutionConfig:
    """Evolutionary search"""

    evo_iter: int = 30
    """iterations, the first of which scores the random population"""
    population_size: int = 125
    """architectures of an iteration: parents plus mutations plus crossovers"""
    parent_size: int = 25
    """best architectures kept for the next iteration"""
    mutation_size: int = 50
    """children made by mutation in an iteration, at least"""
    crossover_size: int = 50
    """children made by crossover in an iteration, as far as the parents differ enough"""
    mutation_prob: float = 0.3
    """probability that a mutation draws a gene anew"""
    latency_constraint: float | None = None
    """highest latency in ms: the predictor's upper bound keeps to it, or its prediction where it has none"""
    max_tries: int = 1000
    """draws without a new architecture under the limit before the search goes on with what it has"""

    def __post_init__(self) -> None:
        lowest = {"evo_iter": 1, "parent_size": 1, "mutation_size": 0, "crossover_size": 0, "max_tries": 1}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise ConfigError(
                    f"--{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}"
                )
        total = self.parent_size + self.mutation_size + self.crossover_size
        if total != self.population_size:
            raise ConfigError(
                f"--population-size {self.population_size} is not parents + mutations + crossovers = "
                f"{self.parent_size} + {self.mutation_size} + {self.crossover_size} = {total}; "
                f"set it to {total}"
            )
        if not 0 <= self.mutation_prob <= 1:
            raise ConfigError(f"--mutation-prob must lie between 0 and 1, got {self.mutation_prob}")
        limit = self.latency_constraint
        if limit is not None and not 0 < limit < math.inf:
            raise ConfigError(f"--latency-constraint must be above 0 ms, got {limit}")

    @property
    def limit_ms(self) -> float:
        """Return the latency constraint; raises ConfigError where it was not given."""
        if self.latency_constraint is None:
            raise ConfigError("no limit; give --latency-constraint in ms, --max-params or --max-flops")
        return self.latency_constraint


class Candidate(NamedTuple):
    """A scored architecture."""

    loss: float
    latency_ms: float
    gene: Gene
    arch: Arch


class Iteration(NamedTuple):
    """State of the search after one iteration; losses are those of `fitness`."""

    iteration: int  # from 1
    best_loss: float
    mean_parent_loss: float
    best_latency_ms: float
    evaluations: int  # architectures scored so far


class SearchResult(NamedTuple):
    """The winner and how it was found."""

    arch: Arch
    loss: float
    latency_ms: float
    evaluations: int
    history: tuple[Iteration, ...]


def evolve(
    space: SearchSpace,
    fitness: Score,
    latency_ms: Score,
    cfg: EvolutionConfig,
    seed: int,
    *,
    gate: Gate | None = None,
    first: tuple[Arch, ...] = (),
    on_iteration: Callable[[Iteration], object] | None = None,
) -> SearchResult:
    """Return the architecture with the lowest `fitness` among those that `gate` lets through.

    Without a `gate` that means `latency_ms` <= the constraint. `first` join the random first population.

    A pure function of its arguments: it calls `fitness` once for each distinct architecture, at most
    population_size + (evo_iter - 1) * (mutation_size + crossover_size) times, and ends early when no new
    architecture can be found. `latency_ms` should be cheap: it is called for every draw.

    Raises Infeasible where no architecture keeps the limits and ConfigError where neither a gate nor a
    constraint is given.
    """
    choices = gene_choices(space)
    rng = rng_for(seed, "evolution")
    gate = gate or Gate(space, LimitOptions(), cfg.limit_ms)
    pool = Pool(space, latency_ms, gate, cfg.max_tries)
    parents: list[Candidate] = []
    evaluations = 0
    history: list[Iteration] = []
    newcomers = pool.initial(lambda: tuple(map(rng.choice, choices)), cfg.population_size, first)
    for iteration in range(1, cfg.evo_iter + 1):
        evaluations += len(newcomers)
        parents = sorted(parents + _scored(newcomers, fitness), key=_rank)[: cfg.parent_size]
        state = _state(iteration, parents, evaluations)
        history.append(state)
        if on_iteration:
            on_iteration(state)
        if iteration < cfg.evo_iter:
            genes = [parent.gene for parent in parents]
            newcomers = pool.collect(partial(cross, genes, rng), cfg.crossover_size)
            children = cfg.mutation_size + cfg.crossover_size  # alike parents have few new crossings
            mutant = partial(mutate, genes, choices, cfg.mutation_prob, rng)
            newcomers += pool.collect(mutant, children - len(newcomers))
            if not newcomers:
                break
    best = parents[0]
    return SearchResult(best.arch, best.loss, best.latency_ms, evaluations, tuple(history))


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


def _scored(found: list[Found], fitness: Score) -> list[Candidate]:
    archs = [each.arch for each in found]
    losses = fitness(archs) if archs else []
    return [
        Candidate(finite_loss(loss, each.arch), each.latency_ms, each.gene, each.arch)
        for loss, each in zip(losses, found, strict=True)
    ]


def _rank(candidate: Candidate) -> tuple[float, float, Gene]:
    return candidate.loss, candidate.latency_ms, candidate.gene


def finite_loss(loss: float, arch: Arch) -> float:
    """Return `loss`; raises TrainingError where it is not finite, as such a loss cannot be ranked."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the validation loss is {loss} for {arch}; the SuperTransformer has broken weights, or its "
            "precision does not suffice: train it again, or search without fp16"
        )
    return loss


def _state(iteration: int, parents: list[Candidate], evaluations: int) -> Iteration:
    mean = math.fsum(parent.loss for parent in parents) / len(parents)
    return Iteration(iteration, parents[0].loss, mean, parents[0].latency_ms, evaluations)
