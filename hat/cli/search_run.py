"""The searches of one run of evo_search.py: under each limit in turn, or for the whole front at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from hat.cli.finalists import Candidate
from hat.files.journal import Journal, read_journal
from hat.latency.predictor import COVERAGE, LatencyPredictor
from hat.log import RunLog, say
from hat.rng import rng_for
from hat.search.ablation import depth_grid, random_archs
from hat.search.evolution import EvolutionConfig, Iteration, evolve
from hat.search.fitness import SharedFitness
from hat.search.front import Point, worst
from hat.search.limits import Gate, LimitOptions, known_ms, under
from hat.search.pareto import Generation, ParetoConfig, objective_values, search_front
from hat.search.pool import Pool
from hat.search.record import CachedFitness
from hat.space import Arch, SearchSpace, gene_choices, gene_of


def _limits_ms(evolution: EvolutionConfig, limits: LimitOptions) -> tuple[float, ...]:
    """Return the latency limits, each of which has a winner: infinity where only other things are limited."""
    if limits.latency_constraints:
        return limits.latency_constraints
    if evolution.latency_constraint is not None:
        return (evolution.latency_constraint,)
    return (math.inf,) if limits.beside_latency() else ()


class Outcome(NamedTuple):
    """What a run has found."""

    scored: list[Candidate]  # in the order of scoring
    reference: Point  # of the hypervolume
    histories: dict[float | None, list[dict[str, Any]]]  # of each limit in ms; None: of the front


class Searches:
    """All that the searches of one run share."""

    def __init__(
        self,
        space: SearchSpace,
        predictor: LatencyPredictor,
        evolution: EvolutionConfig,
        limits: LimitOptions,
        front: ParetoConfig,
        seed: int,
        length: int,
    ) -> None:
        self.space, self.predictor, self.seed, self.length = space, predictor, seed, length
        self.evolution, self.limits, self.front = evolution, limits, front
        self.coverage = min(COVERAGE, predictor.max_coverage)
        self.margin = predictor.margin(self.coverage) if self.coverage else 1.0
        self.limits_ms = _limits_ms(evolution, limits)

    @property
    def most(self) -> int:
        """Return how many architectures are scored at most."""
        evo = self.evolution
        one = evo.population_size + (evo.evo_iter - 1) * (evo.mutation_size + evo.crossover_size)
        return self.front.pareto_evaluations if self.front.pareto else one * len(self.limits_ms)

    def gate(self, limit_ms: float | None) -> Gate:
        """Return the gate of one latency limit; of the highest one where it is None."""
        highest = limit_ms or max(self.limits_ms, default=math.inf)
        return Gate(self.space, self.limits, highest, margin=self.margin, length=self.length)

    def within_reach(self) -> tuple[Arch, ...]:
        """Return one architecture for each limit; raises Infeasible where there is none."""
        rng, choices = rng_for(self.seed, "within reach"), gene_choices(self.space)
        found = []
        for limit_ms in self.limits_ms or (None,):
            pool = Pool(
                self.space, self.predictor.predict_many, self.gate(limit_ms), self.evolution.max_tries
            )
            found.append(pool.initial(lambda: tuple(map(rng.choice, choices)), 1)[0].arch)
        return tuple(found)

    def run(
        self,
        journal: Journal,
        header: dict[str, Any],
        fitness: SharedFitness,
        old: dict[Arch, float],
        bar: tqdm,
        expect: Callable[[int], object],
    ) -> Outcome:
        """Search, going on from the journal; `old` are losses known from elsewhere.

        `expect` is told how many architectures are to be scored at most.
        """
        anchors = self.within_reach()
        cached = CachedFitness(
            journal, fitness, self.predictor.predict_many, header, fitness.at_once, known=old
        )
        if cached.resumed:
            say(f"resumed {journal.path}: {cached.resumed} architectures are scored already")
            bar.update(cached.resumed)
        expect(max(0, self.most - sum(arch not in old for arch in cached.losses)))
        first = tuple(sorted(old, key=lambda arch: (old[arch], gene_of(arch, self.space))))
        folder = journal.path.parent
        if self.front.pareto:
            histories, reference = self._front(folder, cached, first, anchors)
        else:
            histories, reference = self._each(folder, cached, first), ()
        losses = cached.losses
        costs = self._costs(list(losses))
        scored = [Candidate(arch, losses[arch], cost) for arch, cost in zip(losses, costs, strict=True)]
        reference = reference or worst(self.points(scored))
        return Outcome(scored, reference, histories)

    def points(self, scored: Sequence[Candidate]) -> list[Point]:
        """Return where each lies: its loss, then the objectives, of which latency is the default."""
        return [(each.loss, *objective_values(each.cost, self.front.objectives)) for each in scored]

    def ranked(self, scored: Sequence[Candidate], limit_ms: float) -> list[Candidate]:
        """Return those that keep one limit, lowest loss first."""
        fitting = set(self._fitting([each.arch for each in scored], limit_ms))
        kept = [each for each in scored if each.arch in fitting]
        return sorted(kept, key=lambda c: (c.loss, c.cost.predicted_ms, gene_of(c.arch, self.space)))

    def ablations_left(self, folder: Path, count: int) -> dict[str, int]:
        """Return how many architectures `ablations` of this count is to score at most."""
        if not count:
            return {}
        grid = depth_grid(self.space, self.predictor.predict_many, self.gate(None))
        held = {
            name: max(0, len(read_journal(path)) - 1) if (path := folder / f"{name}.jsonl").exists() else 0
            for name in ("random", "depth")
        }
        return {"random": max(0, count - held["random"]), "depth": max(0, len(grid) - held["depth"])}

    def ablations(
        self, folder: Path, header: dict[str, Any], fitness: SharedFitness, count: int
    ) -> dict[str, list[Candidate]]:
        """Return `count` random architectures within the limits, and the grid of depths, scored.

        Their journals have the search's header, without what tells how it searches. Nothing for a count of 0.
        """
        if not count:
            return {}
        names = {f.name for kind in (EvolutionConfig, ParetoConfig) for f in fields(kind)}
        header = {name: value for name, value in header.items() if name not in names | {"warm_start"}}
        highest_ms = max(self.limits_ms, default=math.inf)
        header["highest_ms"] = highest_ms if highest_ms < math.inf else None
        predict = self.predictor.predict_many
        draws = random_archs(self.space, predict, self.gate(None), self.seed)
        kinds = {
            "random": [arch for arch, _ in zip(draws, range(count), strict=False)],
            "depth": depth_grid(self.space, predict, self.gate(None)),
        }
        found = {}
        for name, archs in kinds.items():
            with Journal(folder / f"{name}.jsonl") as journal:
                cached = CachedFitness(journal, fitness, predict, header, fitness.at_once)
                left = len(archs) - sum(arch in cached.losses for arch in archs)
                say(f"{name} architectures: {len(archs)}, of which {left} are not in {journal.path} yet")
                losses = cached(archs)
            costs = self._costs(archs)
            found[name] = [Candidate(*each) for each in zip(archs, losses, costs, strict=True)]
        return found

    def _fitting(self, archs: Sequence[Arch], limit_ms: float) -> tuple[Arch, ...]:
        """Return those that keep one limit, in their order."""
        fits = self.gate(limit_ms)(archs, self._predict(archs))
        return tuple(arch for arch, fit in zip(archs, fits, strict=True) if fit)

    def _costs(self, archs: Sequence[Arch]) -> list[Any]:
        gate = self.gate(None)
        return [gate.cost(arch, ms) for arch, ms in zip(archs, self._predict(archs), strict=True)]

    def _predict(self, archs: Sequence[Arch]) -> list[float]:
        return self.predictor.predict_many(list(archs)) if archs else []

    def _each(
        self, folder: Path, cached: CachedFitness, first: tuple[Arch, ...]
    ) -> dict[float | None, list[dict[str, Any]]]:
        evo, histories = self.evolution, {}
        log = RunLog(folder, total=evo.evo_iter, unit="iterations", bar=False)
        several = len(self.limits_ms) > 1

        for limit_ms in self.limits_ms:

            def report(state: Iteration, limit_ms: float = limit_ms) -> None:
                which = f" {under(limit_ms)}:" if several else ""
                log.metrics(
                    "search",
                    state.iteration,
                    f"iteration {state.iteration}/{evo.evo_iter}{which} best loss {state.best_loss:.4f} at "
                    f"{state.best_latency_ms:.1f} ms, {state.evaluations} scored",
                    constraint_ms=known_ms(limit_ms),
                    **{name: value for name, value in state._asdict().items() if name != "iteration"},
                )

            result = evolve(
                self.space,
                cached,
                self.predictor.predict_many,
                replace(evo, latency_constraint=known_ms(limit_ms)),
                self.seed,
                gate=self.gate(limit_ms),
                first=self._fitting(first, limit_ms)[: evo.parent_size],
                on_iteration=report,
            )
            histories[limit_ms] = [state._asdict() for state in result.history]
        log.close()
        return histories

    def _front(
        self, folder: Path, cached: CachedFitness, first: tuple[Arch, ...], anchors: tuple[Arch, ...]
    ) -> tuple[dict[float | None, list[dict[str, Any]]], Point]:
        log = RunLog(folder, total=self.front.pareto_evaluations, unit="evaluations", bar=False)

        def report(state: Generation) -> None:
            log.metrics(
                "front",
                state.generation,
                f"{state.evaluations} scored, hypervolume {state.hypervolume:.5f}, {state.front_size} on the "
                f"front, best loss {state.best_loss:.4f}, fastest {state.fastest_ms:.1f} ms",
                **{name: value for name, value in state._asdict().items() if name != "generation"},
            )

        result = search_front(
            self.space,
            cached,
            self.predictor.predict_many,
            self.gate(None),
            self.front,
            self.seed,
            first=first,
            anchors=anchors,
            max_tries=self.evolution.max_tries,
            on_generation=report,
        )
        log.close()
        return {None: [state._asdict() for state in result.history]}, result.reference
