"""The evolutionary search: pure, bounded, never scoring twice, going on after a kill."""

import json
import math
import random
import time
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hat.errors import ConfigError, DataError, Infeasible, TrainingError
from hat.files.journal import Journal
from hat.search.evolution import EvolutionConfig, cross, evolve, mutate
from hat.search.record import CachedFitness, search_header
from hat.space import Arch, DecoderSpace, EncoderSpace, SearchSpace, arch_of_gene, gene_choices

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


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: these tests append thousands of records."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


def config(**changes: object) -> EvolutionConfig:
    small: dict = dict(evo_iter=8, population_size=24, parent_size=6, mutation_size=10, crossover_size=8)
    return EvolutionConfig(**(small | dict(latency_constraint=150.0, max_tries=200) | changes))


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


@pytest.mark.parametrize("seed", range(4))
def test_each_architecture_is_scored_once_and_is_feasible(seed: int) -> None:
    fitness, seen = Counting(), []
    result = evolve(SPACE, fitness, latency, config(), seed, on_iteration=seen.append)
    assert len(set(fitness.scored)) == len(fitness.scored) == result.evaluations <= 24 + 7 * 18
    assert max(latency(fitness.scored)) <= 150
    assert all(SPACE.check(arch) for arch in fitness.scored)
    assert result.loss == min(map(loss_of, fitness.scored)) == loss_of(result.arch)
    assert [result.latency_ms] == latency([result.arch])
    assert tuple(seen) == result.history and [state.iteration for state in seen] == list(range(1, 9))
    losses = [state.best_loss for state in seen]
    assert losses == sorted(losses, reverse=True)
    assert all(state.mean_parent_loss >= state.best_loss for state in seen)
    assert [s.evaluations for s in seen] == [24 + 18 * n for n in range(8)]


def test_defaults_are_those_of_2020() -> None:
    fitness = Counting()
    result = evolve(SPACE, fitness, latency, EvolutionConfig(latency_constraint=120, evo_iter=4), 1)
    assert result.evaluations == 125 + 3 * 100


def test_beats_random_draws_of_the_same_number() -> None:
    result = evolve(SPACE, Counting(), latency, config(evo_iter=15), 0)
    drawn = Counting()
    evolve(SPACE, drawn, latency, config(evo_iter=1, population_size=276, mutation_size=262), 5)
    assert len(drawn.scored) == result.evaluations
    assert result.loss < min(map(loss_of, drawn.scored)) - 0.02


def test_same_seed_same_result() -> None:
    runs = [evolve(SPACE, Counting(), latency, config(), seed) for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]
    random.seed(0)
    assert evolve(SPACE, Counting(), latency, config(), 3) == runs[0]


def test_ties_do_not_depend_on_the_order_of_anything() -> None:
    def flat(archs: list[Arch]) -> list[float]:
        return [1.0] * len(archs)

    result = evolve(SPACE, flat, latency, config(), 0)
    assert result == evolve(SPACE, flat, latency, config(), 0)
    assert result.latency_ms == min(state.best_latency_ms for state in result.history)


@pytest.mark.parametrize("size", [1, 12, 40])
def test_a_tiny_space_is_searched_whole_and_ends(size: int) -> None:
    cfg = config(population_size=size + 18, parent_size=size, latency_constraint=1e6)
    fitness = Counting()
    result = evolve(TINY, fitness, latency, cfg, 1)
    everything = {arch_of_gene(gene, TINY) for gene in product(*gene_choices(TINY))}
    assert len(everything) == 12 and set(fitness.scored) == everything
    assert len(fitness.scored) == 12 and result.loss == min(map(loss_of, everything))


def test_a_space_of_one() -> None:
    space = SearchSpace(
        EncoderSpace(8, 16, 1, (8,), (16,), (1,), (2,)),
        DecoderSpace(8, 16, 1, (8,), (16,), (1,), (2,), (2,), (1,)),
        8,
    )
    result = evolve(space, Counting(), latency, config(parent_size=1, population_size=19), 0)
    assert result.arch == space.largest() and result.evaluations == 1 and len(result.history) == 1


def test_infeasible_is_said_within_a_second() -> None:
    start = time.perf_counter()
    with pytest.raises(Infeasible) as caught:
        evolve(SPACE, Counting(), latency, EvolutionConfig(latency_constraint=20), 0)
    assert time.perf_counter() - start < 1
    fastest = latency([SPACE.smallest()])[0]
    assert str(caught.value) == (
        f"no architecture under 20 ms in 1000 tries; fastest seen {fastest:.1f} ms; "
        "raise --latency-constraint"
    )


def test_where_only_the_smallest_fits_it_is_found() -> None:
    limit = latency([SPACE.smallest()])[0]
    fitness = Counting()
    result = evolve(SPACE, fitness, latency, config(latency_constraint=limit), 0)
    assert latency([result.arch]) == [limit] and result.evaluations > 1  # heads and spans are free here


def test_a_tight_limit_grows_its_population_from_few() -> None:
    cfg = config(latency_constraint=latency([SPACE.smallest()])[0] * 1.05, evo_iter=12)
    result = evolve(SPACE, Counting(), latency, cfg, 0)
    assert result.evaluations > 60 and result.latency_ms <= cfg.limit_ms


def test_an_unknown_latency_is_not_feasible() -> None:
    with pytest.raises(Infeasible):
        evolve(SPACE, Counting(), lambda archs: [math.nan] * len(archs), config(), 0)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_search(loss: float, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="validation loss is"):
        evolve(SPACE, lambda archs: [loss] * len(archs), latency, config(), 0)
    with Journal(tmp_path / "j") as journal, pytest.raises(TrainingError):
        CachedFitness(journal, lambda archs: [loss], latency, {"kind": "x"})([SPACE.smallest()])
    with Journal(tmp_path / "j") as journal:
        assert journal.records == []  # a search that scored nothing leaves no trace


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(population_size=25), r"--population-size 25 .* 6 \+ 10 \+ 8 = 24; set it to 24"),
        (dict(parent_size=0), "--parent-size must be at least 1, got 0"),
        (dict(mutation_size=-1), "--mutation-size"),
        (dict(evo_iter=0), "--evo-iter"),
        (dict(max_tries=0), "--max-tries"),
        (dict(mutation_prob=1.5), "--mutation-prob"),
        (dict(mutation_prob=math.nan), "--mutation-prob"),
        (dict(latency_constraint=-1.0), "--latency-constraint must be above 0 ms, got -1"),
        (dict(latency_constraint=math.nan), "--latency-constraint"),
        (dict(latency_constraint=math.inf), "--latency-constraint"),
    ],
)
def test_config_is_checked(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_the_constraint_is_required() -> None:
    with pytest.raises(ConfigError, match="give --latency-constraint in ms"):
        evolve(SPACE, Counting(), latency, EvolutionConfig(), 0)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_operators_stay_in_the_space(seed: int, probability: float) -> None:
    rng, choices = random.Random(seed), gene_choices(SPACE)
    genes = [tuple(map(rng.choice, choices)) for _ in range(2)]
    child = cross(genes, rng)
    assert all(value in pair for value, pair in zip(child, zip(*genes, strict=True), strict=True))
    mutant = mutate([child], choices, probability, rng)
    SPACE.check(arch_of_gene(mutant, SPACE))
    assert mutate([child], choices, 0.0, rng) == child


def test_mutation_redraws_the_given_share() -> None:
    choices = [tuple(range(1000))] * 2000
    mutant = mutate([(-1,) * 2000], choices, 0.3, random.Random(0))
    assert 0.26 < sum(value >= 0 for value in mutant) / 2000 < 0.34


@pytest.mark.parametrize("kills", [[1], [23], [24, 25], [60], [5, 41, 42, 90], [149]])
def test_a_killed_search_goes_on_as_if_it_had_not_stopped(tmp_path: Path, kills: list[int]) -> None:
    expected = evolve(SPACE, Counting(), latency, config(), 1)
    header = search_header(SPACE, config(), 1, checkpoint="abc")
    scored: list[Arch] = []
    for total in [*kills, math.inf]:
        fitness = Counting(dies_after=total - len(scored))
        with Journal(tmp_path / "j.jsonl") as journal:
            cached = CachedFitness(journal, fitness, latency, header)
            assert cached.resumed == len(scored)
            if total < math.inf:
                with pytest.raises(KeyboardInterrupt):
                    evolve(SPACE, cached, latency, config(), 1)
            else:
                assert evolve(SPACE, cached, latency, config(), 1) == expected
        scored += fitness.scored
    assert len(scored) == len(set(scored)) == expected.evaluations
    records = [json.loads(line)["record"] for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert records[0]["kind"] == "hat search" and set(records[1]) == {"arch", "loss", "latency_ms"}


def test_a_journal_cut_anywhere_goes_on(tmp_path: Path) -> None:
    path, cfg = tmp_path / "j.jsonl", config(evo_iter=2)
    header = search_header(SPACE, cfg, 1)
    with Journal(path) as journal:
        expected = evolve(SPACE, CachedFitness(journal, Counting(), latency, header), latency, cfg, 1)
    whole = path.read_bytes()
    for cut in range(0, len(whole), len(whole) // 12):
        path.write_bytes(whole[:cut])
        with Journal(path) as journal:
            again = evolve(SPACE, CachedFitness(journal, Counting(), latency, header), latency, cfg, 1)
        assert again == expected and path.read_bytes() == whole


def test_more_iterations_go_on_from_a_shorter_search(tmp_path: Path) -> None:
    for iterations, new in ((3, 60), (5, 36)):
        cfg, fitness = config(evo_iter=iterations), Counting()
        with Journal(tmp_path / "j") as journal:
            cached = CachedFitness(journal, fitness, latency, search_header(SPACE, cfg, 1))
            evolve(SPACE, cached, latency, cfg, 1)
        assert len(fitness.scored) == new


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (search_header(SPACE, config(), 2, checkpoint="abc"), "seed is 1 there and 2 here"),
        (search_header(TINY, config(), 1, checkpoint="abc"), "space"),
        (search_header(SPACE, config(mutation_prob=0.5), 1, checkpoint="abc"), "mutation_prob is 0.3 there"),
        (search_header(SPACE, config(), 1, checkpoint="abd"), "checkpoint is 'abc' there and 'abd' here"),
        (search_header(SPACE, config(), 1), "checkpoint"),
    ],
)
def test_another_search_does_not_use_the_journal(tmp_path: Path, other: dict, name: str) -> None:
    with Journal(tmp_path / "j") as journal:
        first = CachedFitness(
            journal, Counting(), latency, search_header(SPACE, config(), 1, checkpoint="abc")
        )
        first([SPACE.smallest()])
        with pytest.raises(ConfigError, match=f"another search: {name}.*use another folder"):
            CachedFitness(journal, Counting(), latency, other)


@pytest.mark.parametrize("record", [{}, {"arch": {}, "loss": 1}, {"arch": [], "loss": 1}, {"arch": {"x": 1}}])
def test_a_foreign_record_is_refused(tmp_path: Path, record: dict) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append({"kind": "x"})
        journal.append(record)
        with pytest.raises(DataError, match="j:2: not a scored architecture"):
            CachedFitness(journal, Counting(), latency, {"kind": "x"})
