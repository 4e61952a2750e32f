"""Fronts, crowding and hypervolume: by hand, and against the definition."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.search.strategies import (
    crowding,
    front_numbers,
    fronts,
    growth,
    hypervolume,
)

POINTS = [(1.0, 5.0), (2.0, 3.0), (2.0, 5.0), (4.0, 1.0), (4.0, 4.0), (5.0, 5.0), (2.0, 3.0)]


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def test_fronts_by_hand() -> None:
    assert fronts(POINTS) == [[0, 1, 3, 6], [2, 4], [5]]
    assert fronts([]) == [] and fronts([(1.0, 1.0)]) == [[0]]


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
    assert hypervolume([(2.0, 10.0), (5.0, 5.0), (6.0, 12.0)], (10.0, 20.0)) == pytest.approx(105 / 200)
    assert hypervolume([(10.0, 1.0), (1.0, 20.0), (30.0, 0.0)], (10.0, 20.0)) == 0, "not below the reference"
    cubes = [(0.5, 0.5, 0.0), (0.0, 0.5, 0.5)]  # 1/4 each, 1/8 of it in common
    assert hypervolume(cubes, (1.0, 1.0, 1.0)) == pytest.approx(3 / 8)


@pytest.mark.parametrize("axes", [2, 3, 4])
@pytest.mark.parametrize("seed", range(2))
def test_hypervolume_by_counting_random_darts(axes: int, seed: int) -> None:
    rng = random.Random(seed)
    reference = tuple(rng.uniform(1, 9) for _ in range(axes))
    points = [tuple(rng.uniform(0, 1.1) * limit for limit in reference) for _ in range(12)]
    darts = 8_000
    hits = 0
    for _ in range(darts):
        dart = tuple(rng.random() * limit for limit in reference)
        hits += any(all(a <= b for a, b in zip(point, dart, strict=True)) for point in points)
    assert hypervolume(points, reference) == pytest.approx(hits / darts, abs=0.018)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=15))
def test_growth_is_the_hypervolume_of_each_beginning(values: list[tuple[int, int]]) -> None:
    points = [(float(a), float(b)) for a, b in values]
    reference = (10.0, 10.0)
    found = growth(points, reference)
    expected = [hypervolume(points[:count], reference) for count in range(1, len(points) + 1)]
    assert found == pytest.approx(expected) and found == sorted(found)


def test_the_front_from_the_lowest_loss() -> None:
    assert front_numbers([(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 4.0)]) == [1, 2, 0]
