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
    no_worse = np.ones((len(points), len(points)), dtype=bool)
    for axis in _array(points).T:
        no_worse &= axis[:, None] <= axis
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
    table, distance = _array(points), np.zeros(len(points))
    for axis in table.T if len(points) else ():
        order = np.lexsort((*table.T[::-1], axis))  # ties on this axis go by the whole point
        along = axis[order]
        distance[order[[0, -1]]] = np.inf
        if along[-1] > along[0]:
            distance[order[1:-1]] += (along[2:] - along[:-2]) / (along[-1] - along[0])
    return [float(value) for value in distance]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Return the share of the box from the origin to `reference` that the points dominate, from 0 to 1.

    Each coordinate is divided by the reference, so coordinates must not be negative and the reference must be
    above 0. Points that are not below the reference on every axis add nothing. Exact, by slices along the
    last axis.
    """
    table = _array(points).reshape(len(points), len(reference))
    return _volume((table / np.array(reference))[(table < np.array(reference)).all(axis=1)])


def _volume(table: Points) -> float:
    """Return the volume that points [points, coordinates] below (1, ..., 1) dominate."""
    if not len(table) or table.shape[1] == 1:
        return 1.0 - float(table.min(initial=1.0))
    if table.shape[1] > 2:
        table = table[fronts(table)[0]]
    table = table[np.argsort(table[:, -1], kind="stable")]
    depth = np.diff(table[:, -1], append=1.0)
    if table.shape[1] == 2:
        lowest = np.minimum.accumulate(np.concatenate(([1.0], table[:, 0])))
        return float(np.cumsum((lowest[:-1] - lowest[1:]) * (1.0 - table[:, 1]))[-1])
    if table.shape[1] == 3:  # all slices at once: the lowest first coordinate up to each second one
        by_second = np.argsort(table[:, 1], kind="stable")
        inside = by_second <= np.arange(len(table))[:, None]  # [slices, points by the second coordinate]
        lowest = np.minimum.accumulate(np.where(inside, table[by_second, 0], 1.0), axis=1)
        before = np.concatenate((np.ones((len(table), 1)), lowest[:, :-1]), axis=1)
        return float(((before - lowest) @ (1.0 - table[by_second, 1])) @ depth)
    slices = (_volume(table[: number + 1, :-1]) * deep for number, deep in enumerate(depth) if deep)
    return float(sum(slices))


def _array(points: Sequence[Point] | Points) -> Points:
    return np.array(points, dtype=np.float64).reshape(len(points), -1 if len(points) else 0)


def growth(points: Sequence[Point], reference: Point) -> list[float]:
    """Return the hypervolume after each point: a list as long as `points`."""
    found: list[float] = []
    front = np.empty((0, len(reference)))
    for point in _array(points):
        if not (front <= point).all(axis=1).any():
            front = np.vstack((front[~(point <= front).all(axis=1)], point))
            found.append(hypervolume(front, reference))  # type: ignore[arg-type]
        else:
            found.append(found[-1])
    return found


def front_numbers(points: Sequence[Point]) -> list[int]:
    """Return the numbers of the points that none dominates, the lowest first coordinate first."""
    return sorted(fronts(points)[0], key=lambda i: points[i]) if points else []


def worst(points: Sequence[Point]) -> Point:
    """Return the highest value on each axis: a reference that no point lies above."""
    return tuple(map(max, zip(*points, strict=True)))


def reached(values: Sequence[float], target: float) -> int | None:
    """Return after how many values the first is at least `target`, or None."""
    return next((number for number, value in enumerate(values, 1) if value >= target), None)


def compare(methods: Mapping[str, Sequence[Point]], share: float = SHARE) -> dict[str, Any]:
    """Return how each method's hypervolume grows against that of all points of the method `random`.

    The reference point is the worst of the random points. For each method: `evaluations`, `hypervolume`, its
    `share` of random search's and `reached`, the evaluations to `share` of it. Both are None if the random
    points are too few for a volume, the latter also if it is not reached. Without any random point there is
    no reference, and no hypervolume either.
    """
    random = methods.get("random", ())
    reference = worst(random)  # () without points
    grown = {name: growth(points, reference) if reference else [] for name, points in methods.items()}
    base = grown["random"][-1] if reference else 0.0
    return {
        "reference": list(reference),
        "wanted_share": share,
        "methods": {
            name: {
                "evaluations": len(methods[name]),
                "hypervolume": values[-1] if values else 0.0 if reference else None,
                "share": values[-1] / base if values and base else None,
                "reached": reached(values, share * base) if base else None,
            }
            for name, values in grown.items()
        },
    }


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """Return `compare`'s result as aligned text."""
    wanted = f"{100 * comparison['wanted_share']:g}% after"
    lines = [f"{'method':10}{'scored':>8}{'hypervolume':>14}{'of random':>12}{wanted:>14}"]
    reference = comparison["reference"]
    for name, result in comparison["methods"].items():
        never = "never" if reference else "-"
        after = never if result["reached"] is None else str(result["reached"])
        share = "-" if result["share"] is None else f"{100 * result['share']:.2f}%"
        volume = "-" if result["hypervolume"] is None else f"{result['hypervolume']:.6f}"
        lines.append(f"{name:10}{result['evaluations']:>8}{volume:>14}{share:>12}{after:>14}")
    if reference:
        loss, *others = reference
        values = ", ".join(f"{value:.6g}" for value in others)
        lines.append(f"reference: loss {loss:.4f}, {values} (worst of random)")
    else:
        lines.append("no random architecture was scored, so there is no reference to compare by")
    return "\n".join(lines)
