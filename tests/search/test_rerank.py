"""Short trainings: the order that successive halving and a regression find, and what they cost."""

import random
from pathlib import Path

import pytest

from hat.search.rerank import guess_trained, halving, rounds_of, spread
from hat.search.strategies import ScoringOptions
from hat.space import Arch, SearchSpace, sample


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace.from_yaml(
        Path(__file__).parents[2] / "configs/multi30k.en-de/supertransformer/space0.yml"
    )


@pytest.fixture
def archs(space: SearchSpace) -> list[Arch]:
    rng, found = random.Random(0), dict[Arch, None]()
    while len(found) < 30:
        found[sample(space, rng)] = None
    return list(found)


def test_halving_trains_the_better_half_again_and_twice_as_long(archs: list[Arch]) -> None:
    calls, truth = [], {arch: number for number, arch in enumerate(archs)}
    worst_first = archs[7::-1] + archs[8:]

    def train(few: list[Arch], updates: int) -> list[float]:
        calls.append((len(few), updates))
        return [truth[arch] - (100 if updates > 100 and truth[arch] == 1 else 0) for arch in few]

    rounds = rounds_of(30, ScoringOptions(rerank=8, rerank_updates=100))
    assert halving(worst_first, rounds, train) == [archs[1], archs[0], *archs[2:]]
    assert calls == rounds == [(8, 100), (4, 200), (2, 400)], "as many updates in every round"
    assert rounds_of(3, ScoringOptions(rerank=8)) == [(3, 100), (2, 200)]
    assert rounds_of(1, ScoringOptions(rerank=8)) == []


def test_a_regression_learns_from_ten_what_a_slice_does_not_show(
    space: SearchSpace, archs: list[Arch]
) -> None:
    rng = random.Random(1)
    slices = {arch: 5 + rng.random() for arch in archs}
    truth = {arch: loss - 0.8 * arch.decoder.num_layers for arch, loss in slices.items()}
    ranked = sorted(slices, key=slices.__getitem__)
    (count, _), *_ = rounds_of(30, ScoringOptions(rerank=3, rerank_by="ridge"))
    tried = spread(ranked, count)
    assert len(set(tried)) == 10 and tried[0] == ranked[0] and tried[-1] == ranked[-1]
    guessed = guess_trained(space, slices, {arch: truth[arch] for arch in tried})

    def in_order(guess: dict[Arch, float]) -> float:
        pairs = [(a, b) for a in archs for b in archs if truth[a] < truth[b]]
        return sum(guess[a] < guess[b] for a, b in pairs) / len(pairs)

    assert in_order(guessed) > 0.9 > in_order(slices)
