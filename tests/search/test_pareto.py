"""The search for the whole front: pure, within its limits, never scoring twice, going on after a kill."""

import math
from itertools import product
from pathlib import Path

import pytest
from test_evolution import SPACE, TINY, Counting, latency, loss_of, no_sync  # noqa: F401 - a fixture

from hat.errors import ConfigError, DataError, Infeasible, TrainingError
from hat.files.journal import Journal
from hat.model.count import count_macs, count_params
from hat.search.ablation import depth_grid, random_archs
from hat.search.evolution import EvolutionConfig, evolve
from hat.search.front import fronts, hypervolume, reached, worst
from hat.search.limits import Gate, LimitOptions
from hat.search.pareto import FrontResult, ParetoConfig, search_front
from hat.search.record import CachedFitness, old_losses, search_header
from hat.space import Arch, arch_of_gene, gene_choices

OPEN = LimitOptions()
EVO = EvolutionConfig()


def config(**changes: object) -> ParetoConfig:
    return ParetoConfig(**(dict(pareto=True, pareto_evaluations=60, pareto_screen=8) | changes))


def search(fitness: object, cfg: ParetoConfig, seed: int = 0, **more: object) -> FrontResult:
    gate = more.pop("gate", None) or Gate(SPACE, OPEN)
    return search_front(SPACE, fitness, latency, gate, cfg, seed, **more)


@pytest.mark.parametrize("screen", [1, 8])
@pytest.mark.parametrize("objectives", [("latency",), ("latency", "params"), ("flops", "params", "latency")])
def test_each_architecture_is_scored_once_and_the_front_is_the_best_of_them(objectives, screen) -> None:
    fitness, seen = Counting(), []
    cfg = config(objectives=objectives, pareto_screen=screen)
    result = search(fitness, cfg, on_generation=seen.append)
    assert len(fitness.scored) == len(set(fitness.scored)) == len(result.scored) == 60
    assert [each.arch for each in result.scored] == fitness.scored
    assert all(each.loss == loss_of(SPACE.check(each.arch)) for each in result.scored)
    points = [each.point for each in result.scored]
    assert all(len(point) == 1 + len(objectives) for point in points)
    assert {each.point for each in result.front} == {points[i] for i in fronts(points)[0]}
    assert [each.loss for each in result.front] == sorted(each.loss for each in result.front)
    assert tuple(seen) == result.history and [state.evaluations for state in seen] == [20, 30, 40, 50, 60]
    assert result.reference == worst(points[:20])
    assert seen[-1].hypervolume == pytest.approx(hypervolume(points, result.reference))
    assert [s.hypervolume for s in seen] == sorted(s.hypervolume for s in seen)
    for each in result.scored[:3]:
        assert each.cost.params == count_params(each.arch, SPACE)
        assert each.cost.flops == 2 * count_macs(each.arch, SPACE, 30)


def test_reaches_the_front_of_random_search_with_a_sixth_of_its_evaluations() -> None:
    drawn = [
        arch for arch, _ in zip(random_archs(SPACE, latency, Gate(SPACE, OPEN), 5), range(600), strict=False)
    ]
    points = [(loss_of(arch), latency([arch])[0]) for arch in drawn]
    reference = worst(points)
    goal = 0.99 * hypervolume(points, reference)
    for seed in range(3):
        result = search(Counting(), config(pareto_evaluations=100), seed)
        found = [each.point for each in result.scored]
        after = reached([hypervolume(found[:n], reference) for n in range(1, 101)], goal)
        assert after is not None, f"seed {seed}"
    assert hypervolume(points[:100], reference) < goal, "random search alone does not do it"


def test_same_seed_same_result_another_seed_another() -> None:
    runs = [search(Counting(), config(), seed) for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


def test_more_evaluations_go_on_from_a_shorter_search() -> None:
    short, long = (search(Counting(), config(pareto_evaluations=n)) for n in (45, 60))
    assert len(short.scored) == 45 and long.scored[:45] == short.scored


@pytest.mark.parametrize(
    "limits",
    [
        dict(latency_lower=90.0),
        dict(max_params=3e7),
        dict(min_params=4e7),
        dict(max_flops=2.4e9, min_flops=1.5e9),
        dict(latency_lower=80.0, max_params=3.5e7, min_flops=1e9),
    ],
)
def test_limits_are_kept(limits: dict) -> None:
    options = LimitOptions(**limits)
    fitness = Counting()
    search(fitness, config(pareto_evaluations=30), gate=Gate(SPACE, options, 150.0, margin=1.1))
    evolved = Counting()
    evo = EvolutionConfig(
        evo_iter=3,
        population_size=12,
        parent_size=4,
        mutation_size=4,
        crossover_size=4,
        latency_constraint=150,
    )
    evolve(SPACE, evolved, latency, evo, 0, gate=Gate(SPACE, options, 150.0, margin=1.1))
    for arch in fitness.scored + evolved.scored:
        (ms,) = latency([arch])
        assert ms * 1.1 <= 150 and ms >= limits.get("latency_lower", 0)
        params, flops = count_params(arch, SPACE), 2 * count_macs(arch, SPACE, 30)
        assert limits.get("min_params", 0) <= params <= limits.get("max_params", math.inf)
        assert limits.get("min_flops", 0) <= flops <= limits.get("max_flops", math.inf)
    assert len(fitness.scored) == 30


def test_the_bound_decides_and_not_the_mean() -> None:
    fastest = latency([SPACE.smallest()])[0]
    search(Counting(), config(pareto_evaluations=2), gate=Gate(SPACE, OPEN, 1.01 * fastest))
    with pytest.raises(
        Infeasible, match=r"fastest seen \d+\.\d ms \(upper bound\); raise --latency-constraint"
    ):
        search(Counting(), config(), gate=Gate(SPACE, OPEN, 1.01 * fastest, margin=1.02))


def test_what_is_out_of_reach_is_said_with_all_limits() -> None:
    with pytest.raises(Infeasible) as caught:
        search(Counting(), config(), gate=Gate(SPACE, LimitOptions(max_params=10.0, min_flops=5.0), 99.0))
    smallest = count_params(SPACE.smallest(), SPACE)
    text = str(caught.value)
    assert text.startswith(
        "no architecture under 99 ms and under 10 parameters and above 5 FLOPs in 1000 tries"
    )
    assert f"{smallest:g} parameters (max-params)" in text
    assert text.endswith("loosen --latency-constraint or --max-params or --min-flops")


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_search(loss: float) -> None:
    with pytest.raises(TrainingError, match="validation loss is"):
        search(lambda archs: [loss] * len(archs), config())


def test_a_tiny_space_is_searched_whole_and_ends() -> None:
    fitness = Counting()
    result = search_front(TINY, fitness, latency, Gate(TINY, OPEN), config(), 1, max_tries=50)
    everything = {arch_of_gene(gene, TINY) for gene in product(*gene_choices(TINY))}
    assert set(fitness.scored) == everything and len(fitness.scored) == 12 == len(result.scored)


@pytest.mark.parametrize("kills", [[1], [20, 21], [35], [7, 30, 58]])
def test_a_killed_search_goes_on_as_if_it_had_not_stopped(tmp_path: Path, kills: list[int]) -> None:
    expected = search(Counting(), config())
    header = search_header(SPACE, EVO, 0, OPEN, config(), checkpoint="abc")
    scored: list[Arch] = []
    for total in [*kills, math.inf]:
        fitness = Counting(dies_after=total - len(scored))
        with Journal(tmp_path / "j.jsonl") as journal:
            cached = CachedFitness(journal, fitness, latency, header)
            assert cached.resumed == len(scored)
            if total < math.inf:
                with pytest.raises(KeyboardInterrupt):
                    search(cached, config())
            else:
                assert search(cached, config()) == expected
        scored += fitness.scored
    assert scored == [each.arch for each in expected.scored]


def test_the_header_holds_what_a_result_depends_on() -> None:
    header = search_header(SPACE, EVO, 0, OPEN, config(), checkpoint="abc")
    assert header == search_header(SPACE, EVO, 0, OPEN, config(pareto_evaluations=900), checkpoint="abc")
    assert header != search_header(SPACE, EVO, 0, OPEN, config(pareto_children=3), checkpoint="abc")
    assert header != search_header(SPACE, EVO, 0, LimitOptions(max_params=9), config(), checkpoint="abc")
    assert search_header(SPACE, EVO, 0) == search_header(SPACE, EVO, 0, OPEN, ParetoConfig()), "as before"


def test_a_warm_start_scores_nothing_again_and_keeps_its_journal(tmp_path: Path) -> None:
    old_cfg, new_cfg = config(pareto_evaluations=30), config(objectives=("latency", "params"))
    headers = [search_header(SPACE, EVO, 0, OPEN, cfg, checkpoint="abc") for cfg in (old_cfg, new_cfg)]
    with Journal(tmp_path / "old") as journal:
        search(CachedFitness(journal, Counting(), latency, headers[0]), old_cfg)
    old = old_losses(tmp_path / "old", headers[1])
    assert len(old) == 30
    runs = []
    for name, dies_after in (("whole", math.inf), ("cut", 12), ("cut", math.inf)):
        fitness = Counting(dies_after)
        with Journal(tmp_path / name) as journal:
            cached = CachedFitness(journal, fitness, latency, headers[1], known=old)
            try:
                runs.append(search(cached, new_cfg, first=tuple(old)))
            except KeyboardInterrupt:
                continue
        assert not set(fitness.scored) & set(old)
    assert runs[0] == runs[1] and len(runs[0].scored) == 30 + 60
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    evo = EvolutionConfig(
        evo_iter=2,
        population_size=12,
        parent_size=4,
        mutation_size=4,
        crossover_size=4,
        latency_constraint=1e5,
    )
    best = min(old, key=lambda arch: old[arch])
    with Journal(tmp_path / "evolved") as journal:
        cached = CachedFitness(journal, Counting(), latency, headers[1], known=old)
        assert evolve(SPACE, cached, latency, evo, 0, first=(best,)).loss <= old[best]


@pytest.mark.parametrize("name", ["space", "checkpoint", "label_smoothing", "validation", "dtype"])
def test_a_warm_start_of_other_losses_is_refused(tmp_path: Path, name: str) -> None:
    header = search_header(SPACE, EVO, 0, checkpoint="a", label_smoothing=0.1, validation="v", dtype="d")
    with Journal(tmp_path / "old") as journal:
        journal.append(header)
    assert old_losses(tmp_path / "old", header | {"seed": 9}) == {}
    with pytest.raises(ConfigError, match=f"cannot be a warm start: {name} is .* leave out --warm-start"):
        old_losses(tmp_path / "old", header | {name: "other"})
    with pytest.raises(DataError, match="cannot read"):
        old_losses(tmp_path / "none", header)
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="is not the journal of a search"):
        old_losses(tmp_path / "empty", header)


def test_the_ablations() -> None:
    gate = Gate(SPACE, LimitOptions(max_params=4e7), 150.0)
    drawn = [arch for arch, _ in zip(random_archs(SPACE, latency, gate, 1), range(50), strict=False)]
    assert len(set(drawn)) == 50 and max(latency(drawn)) <= 150
    again = [arch for arch, _ in zip(random_archs(SPACE, latency, gate, 1), range(20), strict=False)]
    assert again == drawn[:20]
    assert len(list(random_archs(TINY, latency, Gate(TINY, OPEN), 1, max_tries=200))) == 12
    grid = depth_grid(SPACE, latency, Gate(SPACE, OPEN))
    assert [arch.decoder.num_layers for arch in grid] == [6, 5, 4, 3, 2, 1] and grid[0] == SPACE.largest()
    assert all(set(arch.decoder.ffn_dims) == {3072} and SPACE.check(arch) for arch in grid)
    assert len(depth_grid(SPACE, latency, gate)) < 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config(pareto_children=0), "--pareto-children must be at least 1, got 0"),
        (lambda: config(pareto_mutation_prob=1.5), "--pareto-mutation-prob must lie between 0 and 1"),
        (lambda: config(objectives=()), "--objectives takes some of"),
        (lambda: config(objectives=("params", "params")), "each once"),
        (
            lambda: LimitOptions(latency_constraints=(5.0, 0.0)),
            "--latency-constraints must be above 0 ms, got 0",
        ),
        (lambda: LimitOptions(latency_constraints=(5.0, 5.0)), "names a limit twice"),
        (lambda: LimitOptions(max_params=-1.0), "--max-params must not be negative"),
        (lambda: LimitOptions(min_flops=2.0, max_flops=1.0), "--min-flops 2 is above --max-flops 1"),
    ],
)
def test_options_are_checked(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
