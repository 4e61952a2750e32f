"""Search strategies: pure, bounded, never scoring twice, within their limits, going on after a kill."""

import math
import random
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hat.errors import ConfigError, Infeasible
from hat.files.journal import Journal, read_journal
from hat.model.layers import count_macs, count_params
from hat.search.constraints import Pool
from hat.search.kriging import Kriging
from hat.search.run import CachedFitness, guess_trained, halving, rounds_of, spread, states_of
from hat.search.strategies import (
    NSGA2,
    Evolution,
    ScoringOptions,
    SearchConfig,
    Strategy,
    crowding,
    expected_growth,
    front_numbers,
    fronts,
    growth,
    hypervolume,
    worst,
)
from hat.space import (
    Arch,
    DecoderSpace,
    EncoderSpace,
    SearchSpace,
    arch_of_gene,
    gene_choices,
    gene_of,
    sample,
)

SPACE = SearchSpace(
    EncoderSpace(640, 3072, 6, (640, 512), (3072, 2048, 1024), (6,), (8, 4)),
    DecoderSpace(640, 3072, 6, (640, 512), (3072, 2048, 1024), (6, 5, 4, 3, 2, 1), (8, 4), (8, 4), (1, 2, 3)),
    512,
)
TINY = SearchSpace(
    EncoderSpace(8, 16, 1, (8,), (16,), (1,), (2,)),
    DecoderSpace(8, 16, 2, (8, 4), (16, 8), (2, 1), (2,), (2,), (1,)),
    8,
)  # 2 widths * (2 + 4) FFN lists = 12 architectures
EVERYTHING = {arch_of_gene(gene, TINY) for gene in product(*gene_choices(TINY))}
KINDS = [Evolution, NSGA2]
HEADER = {"kind": "hat search", "identity": "a"}


def config(**changes: object) -> SearchConfig:
    small: dict = dict(evo_iter=8, population_size=24, parent_size=6, mutation_size=10, crossover_size=8)
    small |= dict(max_tries=200, pareto_evaluations=60, pareto_screen=8)
    small |= dict(pareto_population=20, pareto_children=10)
    return SearchConfig(**(small | changes))


def latency(archs: list[Arch]) -> list[float]:
    return [
        arch.encoder.embed_dim / 64
        + sum(arch.encoder.ffn_dims) / 1024
        + sum(10 + ffn / 512 for ffn in arch.decoder.ffn_dims) * arch.decoder.embed_dim / 512
        for arch in archs
    ]


def loss_of(arch: Arch) -> float:
    """More is better, wider heads are worse; no two parts interact."""
    enc, dec = arch.encoder, arch.decoder
    size = sum(enc.ffn_dims) + 2 * sum(dec.ffn_dims) + enc.embed_dim + dec.embed_dim + 900 * dec.num_layers
    return 9 - size / 2e4 + sum(dec.self_heads) / 1e3 + sum(enc.self_heads) / 1e4


class Counting:
    """A fitness that counts, and dies after a number of calls, as a killed process would."""

    def __init__(self, dies_after: float = math.inf) -> None:
        self.scored: list[Arch] = []
        self.dies_after = dies_after

    def __call__(self, archs: list[Arch]) -> list[float]:
        for arch in archs:
            if len(self.scored) >= self.dies_after:
                raise KeyboardInterrupt
            self.scored.append(arch)
        return [loss_of(arch) for arch in archs]


def search(
    kind: type[Strategy],
    fitness: Any = None,
    cfg: SearchConfig | None = None,
    seed: int = 0,
    *,
    limit_ms: float = 150.0,
    space: SearchSpace = SPACE,
    pool: Pool | None = None,
) -> tuple[list, Strategy]:
    """Return the states of a search that has ended, and the strategy."""
    cfg = cfg or config()
    pool = pool or Pool(space, latency, cfg, limit_ms, max_tries=cfg.max_tries)
    strategy = kind(pool, cfg, seed)
    return list(states_of(strategy, fitness or Counting())), strategy


def cached(journal: Journal | None, fitness: Any, header: dict = HEADER) -> CachedFitness:
    return CachedFitness(journal, fitness, latency, 1, header)


@pytest.mark.parametrize("seed", range(3))
def test_evolution_scores_each_architecture_once_within_the_limit(seed: int) -> None:
    fitness = Counting()
    states, strategy = search(Evolution, fitness, seed=seed)
    assert len(set(fitness.scored)) == len(fitness.scored) == states[-1]["evaluations"] == 24 + 7 * 18
    assert strategy.budget(config()) == 24 + 7 * 18
    assert max(latency(fitness.scored)) <= 150 and all(SPACE.check(arch) for arch in fitness.scored)
    assert states[-1]["best_loss"] == min(map(loss_of, fitness.scored))
    assert [state["iteration"] for state in states] == list(range(1, 9))
    losses = [state["best_loss"] for state in states]
    assert losses == sorted(losses, reverse=True)
    assert all(state["mean_parent_loss"] >= state["best_loss"] for state in states)
    assert [state["evaluations"] for state in states] == [24 + 18 * n for n in range(8)]


@pytest.mark.parametrize("screen", [1, 8])
@pytest.mark.parametrize("objectives", [("latency",), ("latency", "params"), ("flops", "params", "latency")])
def test_the_front_is_the_best_of_what_was_scored_once(objectives: Any, screen: int) -> None:
    fitness = Counting()
    cfg = config(objectives=objectives, pareto_screen=screen)
    states, strategy = search(NSGA2, fitness, cfg, limit_ms=math.inf)
    assert len(fitness.scored) == len(set(fitness.scored)) == 60
    assert [each.arch for each in strategy.scored] == fitness.scored
    points = [each.point(cfg.objectives) for each in strategy.scored]
    assert all(len(point) == 1 + len(objectives) for point in points)
    assert states[-1]["front_size"] == len({points[i] for i in fronts(points)[0]})
    assert [state["evaluations"] for state in states] == [20, 30, 40, 50, 60]
    assert strategy.reference == worst(points[:20])
    assert states[-1]["hypervolume"] == pytest.approx(hypervolume(points, strategy.reference))
    assert [state["hypervolume"] for state in states] == sorted(state["hypervolume"] for state in states)
    for each in strategy.scored[:3]:
        assert each.params == count_params(each.arch, SPACE)
        assert each.flops == 2 * count_macs(each.arch, SPACE, 30)


def test_reaches_the_front_of_random_search_with_a_fifteenth_of_its_evaluations() -> None:
    draw = random.Random(5)
    drawn = [sample(SPACE, draw) for _ in range(600)]
    points = [(loss_of(arch), latency([arch])[0]) for arch in drawn]
    reference = worst(points)
    goal = 0.99 * hypervolume(points, reference)
    _, strategy = search(NSGA2, None, SearchConfig(pareto_evaluations=40), limit_ms=math.inf)
    assert hypervolume([each.point(("latency",)) for each in strategy.scored], reference) >= goal
    assert hypervolume(points[:200], reference) < goal, "random search alone does not do it"


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_search_another_seed_another(kind: type[Strategy]) -> None:
    runs = []
    for seed in (3, 3, 4):
        fitness = Counting()
        random.seed(seed)
        runs.append((search(kind, fitness, seed=seed)[0], fitness.scored))
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("cfg", [config(population_size=n + 18, parent_size=n) for n in (1, 12, 40)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tiny_space_is_searched_whole_and_ends(kind: type[Strategy], cfg: SearchConfig) -> None:
    fitness = Counting()
    states, _ = search(kind, fitness, cfg, 1, space=TINY, limit_ms=1e6)
    assert len(EVERYTHING) == len(fitness.scored) == 12 and set(fitness.scored) == EVERYTHING
    assert states[-1]["best_loss"] == min(map(loss_of, EVERYTHING))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_out_of_reach_is_said(kind: type[Strategy]) -> None:
    fastest = latency([SPACE.smallest()])[0]
    with pytest.raises(Infeasible) as caught:
        search(kind, cfg=config(max_tries=1000), limit_ms=20)
    assert str(caught.value) == (
        f"no architecture under 20 ms in 1000 tries; fastest seen {fastest:.1f} ms; "
        "raise --latency-constraint"
    )
    with pytest.raises(Infeasible):
        search(kind, pool=Pool(SPACE, lambda archs: [math.nan] * len(archs)))


def test_all_limits_are_named_if_nothing_keeps_them() -> None:
    with pytest.raises(Infeasible) as caught:
        search(NSGA2, cfg=config(max_params=10.0, min_flops=5.0), limit_ms=99)
    smallest = count_params(SPACE.smallest(), SPACE)
    text = str(caught.value)
    assert text.startswith(
        "no architecture under 99 ms and under 10 parameters and above 5 FLOPs in 200 tries"
    )
    assert f"{smallest:g} parameters" in text
    assert text.endswith("loosen --latency-constraint or --max-params or --min-flops")


def test_the_bound_decides_and_not_the_mean() -> None:
    limit = 1.01 * latency([SPACE.smallest()])[0]
    search(NSGA2, cfg=config(pareto_evaluations=2), limit_ms=limit)
    with pytest.raises(Infeasible, match=r"seen \d+\.\d ms \(upper bound\); raise --latency-constraint"):
        search(NSGA2, pool=Pool(SPACE, latency, None, limit, margin=1.02))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "limits",
    [dict(max_flops=2.4e9, min_flops=1.5e9), dict(latency_lower=80.0, max_params=3.5e7, min_flops=1e9)],
)
def test_limits_are_kept(kind: type[Strategy], limits: dict) -> None:
    fitness, cfg = Counting(), config(pareto_evaluations=30, evo_iter=2, **limits)
    search(kind, fitness, cfg, pool=Pool(SPACE, latency, cfg, 150.0, margin=1.1))
    for arch in fitness.scored:
        (ms,) = latency([arch])
        assert ms * 1.1 <= 150 and ms >= limits.get("latency_lower", 0)
        params, flops = count_params(arch, SPACE), 2 * count_macs(arch, SPACE, 30)
        assert limits.get("min_params", 0) <= params <= limits.get("max_params", math.inf)
        assert limits.get("min_flops", 0) <= flops <= limits.get("max_flops", math.inf)
    assert len(fitness.scored) >= 20


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_operators_stay_in_the_space(seed: int, probability: float) -> None:
    strategy = Evolution(Pool(SPACE, latency), config(), seed)
    genes = [strategy.random_gene() for _ in range(2)]
    child = strategy.cross(genes)
    assert all(value in pair for value, pair in zip(child, zip(*genes, strict=True), strict=True))
    SPACE.check(arch_of_gene(strategy.mutate([child], probability), SPACE))
    assert strategy.mutate([child], 0.0) == child


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kills", [[1], [5, 41, 42, 59]])
def test_a_killed_search_goes_on_as_if_it_had_not_stopped(kind, tmp_path: Path, kills: list[int]) -> None:
    whole = Counting()
    expected, _ = search(kind, whole)
    scored: list[Arch] = []
    for total in [*kills, math.inf]:
        fitness = Counting(dies_after=total - len(scored))
        with Journal(tmp_path / "j") as journal:
            journalled = cached(journal, fitness)
            assert len(journalled.losses) == len(scored)
            if total < math.inf:
                with pytest.raises(KeyboardInterrupt):
                    search(kind, journalled)
            else:
                assert search(kind, journalled)[0] == expected
        scored += fitness.scored
    assert scored == whole.scored
    records = read_journal(tmp_path / "j")
    assert records[0]["kind"] == "hat search" and set(records[1]) == {"arch", "loss", "latency_ms"}


@pytest.mark.parametrize(
    ("kind", "name", "lengths", "new"),
    [(Evolution, "evo_iter", (3, 5), (60, 36)), (NSGA2, "pareto_evaluations", (45, 60), (45, 15))],
)
def test_a_longer_search_goes_on_from_a_shorter_one(kind, name, lengths, new, tmp_path: Path) -> None:
    for length, count in zip(lengths, new, strict=True):
        cfg, fitness = config(**{name: length}), Counting()
        with Journal(tmp_path / "j") as journal:
            search(kind, cached(journal, fitness), cfg)
        assert len(fitness.scored) == count


@pytest.mark.parametrize("other", [{"identity": "b"}, {"updates": 7}])
def test_another_search_does_not_use_the_journal(tmp_path: Path, other: dict) -> None:
    with Journal(tmp_path / "j") as journal:
        cached(journal, Counting())([SPACE.smallest()])
        with pytest.raises(ConfigError, match="another search"):
            cached(journal, Counting(), HEADER | other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(population_size=25), r"--population-size 25 .* 6 \+ 10 \+ 8 = 24; set it to 24"),
        (dict(objectives=()), "--objectives takes some of"),
        (dict(objectives=("params", "params")), "each once"),
    ],
)
def test_options_are_checked(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=25))
def test_each_front_is_what_nothing_left_dominates(values: list[tuple[int, ...]]) -> None:
    points = [tuple(map(float, value)) for value in values]
    left = set(range(len(points)))
    for front in fronts(points):
        best = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        assert front == sorted(best)
        left -= best
    assert not left


def test_crowding_by_hand() -> None:
    # extents 4 and 8: the middle point's neighbours lie 4 / 4 and 8 / 8 apart; the next one's 3 / 4 and 6 / 8
    assert crowding([(0.0, 8.0), (1.0, 2.0), (4.0, 0.0)]) == [math.inf, 2.0, math.inf]
    found = crowding([(0.0, 8.0), (1.0, 6.0), (3.0, 2.0), (4.0, 0.0)])
    assert found == [math.inf, 3 / 4 + 6 / 8, 3 / 4 + 6 / 8, math.inf]
    assert crowding([(1.0, 1.0)]) == [math.inf]
    assert crowding([(1.0, 1.0)] * 3)[1:2] == [0.0]  # equal points do not stand apart


def test_hypervolume_by_hand() -> None:
    assert hypervolume([], (1.0, 1.0)) == 0
    assert hypervolume([(0.5, 0.5)], (1.0, 1.0)) == 0.25
    # in the box of 10 x 20: 8 x 10 of the one, 5 x 15 of the other, 5 x 10 of both
    assert hypervolume([(2.0, 10.0), (5.0, 5.0)], (10.0, 20.0)) == pytest.approx((80 + 75 - 50) / 200)
    assert hypervolume([(10.0, 1.0), (1.0, 20.0), (30.0, 0.0)], (10.0, 20.0)) == 0, "not below the reference"
    cubes = [(0.5, 0.5, 0.0), (0.0, 0.5, 0.5)]  # 1/4 each, 1/8 of it in common
    assert hypervolume(cubes, (1.0, 1.0, 1.0)) == pytest.approx(3 / 8)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=15))
def test_growth_is_the_hypervolume_of_each_beginning(values: list[tuple[int, int]]) -> None:
    points = [(float(a), float(b)) for a, b in values]
    reference = (10.0, 10.0)
    found = growth(points, reference)
    expected = [hypervolume(points[:count], reference) for count in range(1, len(points) + 1)]
    assert found == pytest.approx(expected) and found == sorted(found)


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_the_growth_that_is_expected_of_a_known_loss_is_that_of_the_hypervolume(axes: int) -> None:
    rng = random.Random(axes)
    draw = [tuple(rng.uniform(0.1, 1.1) for _ in range(axes)) for _ in range(40)]
    points, candidates, reference = draw[:12], np.array(draw[12:]), (0.9, *[1.0] * (axes - 1))
    losses, costs = candidates[:, 0], candidates[:, 1:]
    found = expected_growth(points, reference, losses, np.zeros(len(losses)), costs)
    before = hypervolume(points, reference)
    grown = [hypervolume([*points, each], reference) - before for each in draw[12:]]
    assert found == pytest.approx(grown, abs=1e-9) and max(grown) > 0
    unsure = expected_growth(points, reference, losses, np.full(len(losses), 0.1), costs)
    assert (unsure >= found - 1e-9).all() and unsure.sum() > found.sum()


def test_a_guess_learns_losses_that_rise_and_fall_with_a_width() -> None:
    space = replace(SPACE, encoder=replace(SPACE.encoder, embed_choice=(640, 512, 384)))
    rng = random.Random(0)
    archs = list(dict.fromkeys(sample(space, rng) for _ in range(90)))
    losses = [
        5 + abs(arch.encoder.embed_dim - 512) / 200 - 0.4 * arch.decoder.num_layers + rng.random() / 50
        for arch in archs
    ]
    pool = Pool(space, latency).candidates({arch: gene_of(arch, space) for arch in archs})
    scored = [replace(each, loss=loss) for each, loss in zip(pool, losses, strict=True)]
    model = Kriging(space, scored[:40])
    means, deviations = model.guess(archs)
    assert np.corrcoef(means[40:], losses[40:])[0, 1] > 0.97
    assert deviations[:40].max() < deviations[40:].min(), "what is scored is known better"
    again = Kriging(space, scored[:41], model.settings)
    assert again.settings == model.settings
    assert again.guess(archs[40:41])[1] < deviations[40] / 2


def test_the_front_from_the_lowest_loss() -> None:
    assert front_numbers([(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 4.0)]) == [1, 2, 0]


ARCHS = [*dict.fromkeys(sample(SPACE, random.Random(n)) for n in range(30))]


def test_halving_trains_the_better_half_again_and_twice_as_long() -> None:
    calls, truth = [], {arch: number for number, arch in enumerate(ARCHS)}
    worst_first = ARCHS[7::-1] + ARCHS[8:]

    def train(few: list[Arch], updates: int) -> list[float]:
        calls.append((len(few), updates))
        return [truth[arch] - (100 if updates > 100 and truth[arch] == 1 else 0) for arch in few]

    rounds = rounds_of(30, ScoringOptions(rerank=8, rerank_updates=100))
    assert halving(worst_first, rounds, train) == [ARCHS[1], ARCHS[0], *ARCHS[2:]]
    assert calls == rounds == [(8, 100), (4, 200), (2, 400)], "as many updates in every round"
    assert rounds_of(3, ScoringOptions(rerank=8)) == [(3, 100), (2, 200)]
    assert rounds_of(1, ScoringOptions(rerank=8)) == []


def test_a_regression_learns_from_ten_what_a_slice_does_not_show() -> None:
    rng = random.Random(1)
    slices = {arch: 5 + rng.random() for arch in ARCHS}
    truth = {arch: loss - 0.8 * arch.decoder.num_layers for arch, loss in slices.items()}
    ranked = sorted(slices, key=slices.__getitem__)
    (count, _), *_ = rounds_of(30, ScoringOptions(rerank=3, rerank_by="ridge"))
    tried = spread(ranked, count)
    assert len(set(tried)) == 10 and tried[0] == ranked[0] and tried[-1] == ranked[-1]
    guessed = guess_trained(SPACE, slices, {arch: truth[arch] for arch in tried})

    def in_order(guess: dict[Arch, float]) -> float:
        pairs = [(a, b) for a in ARCHS for b in ARCHS if truth[a] < truth[b]]
        return sum(guess[a] < guess[b] for a, b in pairs) / len(pairs)

    assert in_order(guessed) > 0.9 > in_order(slices)
