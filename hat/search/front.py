"""The non-dominated front of points whose coordinates are all to be made small, and its hypervolume."""

import math
from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """Return whether `one` is nowhere worse than `other` and somewhere better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def fronts(points: Sequence[Point]) -> list[list[int]]:
    """Return the numbers of the points, front by front: the first holds those that none dominates.

    Fast non-dominated sorting (Deb et al. 2002, NSGA-II, section III-A). Equal points share a front.
    """
    beats: list[list[int]] = [[] for _ in points]
    beaten_by = [0] * len(points)
    for i, one in enumerate(points):
        for j in range(i):
            if dominates(one, points[j]):
                winner, loser = i, j
            elif dominates(points[j], one):
                winner, loser = j, i
            else:
                continue
            beats[winner].append(loser)
            beaten_by[loser] += 1
    found: list[list[int]] = []
    current = [i for i, count in enumerate(beaten_by) if count == 0]
    while current:
        found.append(current)
        following = []
        for i in current:
            for j in beats[i]:
                beaten_by[j] -= 1
                if beaten_by[j] == 0:
                    following.append(j)
        current = sorted(following)
    return found


def crowding(points: Sequence[Point]) -> list[float]:
    """Return how far the neighbours of each point of one front lie apart, infinite at the ends.

    Sum over coordinates of the distance between both neighbours, as a share of the front's extent (Deb et
    al. 2002, section III-B).
    """
    distance = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: (points[i][axis], points[i]))
        low, high = points[order[0]][axis], points[order[-1]][axis]
        distance[order[0]] = distance[order[-1]] = math.inf
        if high > low:
            for before, i, after in zip(order, order[1:], order[2:], strict=False):
                distance[i] += (points[after][axis] - points[before][axis]) / (high - low)
    return distance


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Return the share of the box from the origin to `reference` that the points dominate, from 0 to 1.

    Each axis is divided by the reference, so that coordinates must not be negative and the reference must be
    above 0. Points that are not below the reference on every axis add nothing. Exact, by slices along the
    last axis.
    """
    inside = [
        tuple(value / limit for value, limit in zip(point, reference, strict=True))
        for point in points
        if all(value < limit for value, limit in zip(point, reference, strict=True))
    ]
    return _volume(inside)


def _volume(points: Sequence[Point]) -> float:
    """Return the volume that points below (1, ..., 1) dominate."""
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return 1.0 - min(point[0] for point in points)
    ordered = sorted(points, key=lambda point: point[-1])
    if len(points[0]) == 2:
        volume, lowest = 0.0, 1.0
        for across, up in ordered:
            if across < lowest:
                volume += (lowest - across) * (1.0 - up)
                lowest = across
        return volume
    volume = 0.0
    below: list[Point] = []
    for number, point in enumerate(ordered):
        following = ordered[number + 1][-1] if number + 1 < len(ordered) else 1.0
        below = [other for other in below if not _covers(point[:-1], other)]
        if not any(_covers(other, point[:-1]) for other in below):
            below.append(point[:-1])
        if following > point[-1]:
            volume += (following - point[-1]) * _volume(below)
    return volume


def _covers(one: Point, other: Point) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def growth(points: Sequence[Point], reference: Point) -> list[float]:
    """Return the hypervolume after each point: a list as long as `points`."""
    found: list[float] = []
    front: list[Point] = []
    for point in points:
        if any(_covers(other, point) for other in front):
            found.append(found[-1])
            continue
        front = [other for other in front if not _covers(point, other)] + [point]
        found.append(hypervolume(front, reference))
    return found


def worst(points: Sequence[Point]) -> Point:
    """Return the highest value on each axis: a reference that all other points lie below."""
    return tuple(map(max, zip(*points, strict=True)))


def reached(values: Sequence[float], target: float) -> int | None:
    """Return after how many values the first is at least `target`, or None."""
    return next((number for number, value in enumerate(values, 1) if value >= target), None)
