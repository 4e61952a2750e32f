"""Non-dominated fronts of points whose coordinates are all to be made small, and their hypervolume."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, ...]
Points = NDArray[np.float64]  # [points, coordinates]
SHARE = 0.99  # of the hypervolume of random search


def fronts(points: Sequence[Point] | Points) -> list[list[int]]:
    """Return the numbers of the points, front by front: the first holds those that none dominates.

    A point dominates another if it is nowhere worse and somewhere better (Deb et al. 2002, NSGA-II, section
    III-A). Equal points share a front.
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
    """Return how far the neighbours of each point of one front lie apart, infinite at the ends.

    Sum over coordinates of the distance between both neighbours, as a share of the front's extent (Deb et
    al. 2002, section III-B).
    """
    table, distance = np.array(points), np.zeros(len(points))
    for axis in table.T:
        order = np.lexsort((*table.T[::-1], axis))  # ties on this axis go by the whole point
        along = axis[order]
        distance[order[[0, -1]]] = np.inf
        if along[-1] > along[0]:
            distance[order[1:-1]] += (along[2:] - along[:-2]) / (along[-1] - along[0])
    return [float(value) for value in distance]


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


def front_numbers(points: Sequence[Point]) -> list[int]:
    """Return the numbers of the points that none dominates, the lowest first coordinate first."""
    return sorted(fronts(points)[0], key=lambda i: points[i]) if points else []


def worst(points: Sequence[Point]) -> Point:
    """Return the highest value on each axis: a reference that no point lies above."""
    return tuple(map(max, zip(*points, strict=True)))


def compare(methods: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    """Return how each method's hypervolume grows against that of all points of the method `random`.

    The reference point is the worst of the random points, of which there must be one. For each method:
    `evaluations`, `hypervolume`, its `share` of random search's and `reached`, the evaluations to 99% of it.
    Both are None if the random points are too few for a volume, the latter also if it is not reached.
    """
    reference = worst(methods["random"])
    grown = {name: growth(points, reference) for name, points in methods.items()}
    base = grown["random"][-1]
    found = {}
    for name, values in grown.items():
        volume = max(values, default=0.0)
        reached = [number for number, value in enumerate(values, 1) if value >= SHARE * base]
        found[name] = {
            "evaluations": len(values),
            "hypervolume": volume,
            "share": volume / base if base else None,
            "reached": reached[0] if base and reached else None,
        }
    return {"reference": list(reference), "wanted_share": SHARE, "methods": found}


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """Return `compare`'s result as aligned text."""
    wanted = f"{100 * comparison['wanted_share']:g}% after"
    lines = [f"{'method':10}{'scored':>8}{'hypervolume':>14}{'of random':>12}{wanted:>14}"]
    for name, found in comparison["methods"].items():
        share = "-" if found["share"] is None else f"{100 * found['share']:.2f}%"
        row = f"{name:10}{found['evaluations']:>8}{found['hypervolume']:>14.6f}{share:>12}"
        lines.append(row + f"{found['reached'] or 'never':>14}")
    loss, *others = comparison["reference"]
    values = ", ".join(f"{value:.6g}" for value in others)
    return "\n".join([*lines, f"reference: loss {loss:.4f}, {values} (worst of random)"])
