"""How soon a search for the front reached the hypervolume of random search."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hat

SHARE = 0.99  # of the hypervolume of random search
COLUMNS = {"latency": "predicted_ms", "params": "params", "flops": "flops"}  # of objectives


@dataclass(frozen=True)
class CheckOptions(hat.Options):
    """Check"""

    search_dir: str | None = None
    """folder of a search with --pareto"""
    random_dir: str | None = None
    """folder of a search with --pareto whose first population is all it scores"""
    at_most: int = 150
    """evaluations it may take"""
    json: bool = False
    """print one line of JSON last"""


def points_of(folder: Path) -> list[tuple[float, ...]]:
    """Return loss and objectives of all that a search scored, in its order."""
    try:
        objectives = json.loads((folder / "summary.json").read_text("utf-8"))["objectives"]
        with open(folder / "evaluations.csv", newline="", encoding="utf-8") as file:
            names = ["loss", *(COLUMNS[name] for name in objectives)]
            return [tuple(float(row[name]) for name in names) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise hat.DataError(f"{folder} is not the folder of a finished search ({error!r})") from error


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Print how the hypervolumes of two searches grew; returns 1 if the first one took too long.

    The reference point is the worst of the random points.
    """
    (options,) = hat.parse(
        argv,
        CheckOptions,
        prog="python -m benchmarks front-check",
        description="Compare the hypervolume of a search for the front with that of random search.",
    )
    if options.search_dir is None or options.random_dir is None:
        raise hat.ConfigError("--search-dir and --random-dir are needed: the folders of both searches")
    points = {
        "search": points_of(Path(options.search_dir)),
        "random": points_of(Path(options.random_dir)),
    }
    if not all(points.values()) or len({len(some[0]) for some in points.values()}) != 1:
        raise hat.DataError("both searches must have scored something, with the same --objectives")
    reference = tuple(map(max, zip(*points["random"], strict=True)))
    grown = {name: hat.growth(some, reference) for name, some in points.items()}
    base = grown["random"][-1]
    reached = {
        name: next((n for n, volume in enumerate(volumes, 1) if base and volume >= SHARE * base), None)
        for name, volumes in grown.items()
    }
    print(f"{'method':10}{'scored':>8}{'hypervolume':>14}{'of random':>12}{f'{100 * SHARE:g}% after':>14}")
    for name, volumes in grown.items():
        share = f"{100 * volumes[-1] / base:.2f}%" if base else "-"
        print(f"{name:10}{len(volumes):>8}{volumes[-1]:>14.6f}{share:>12}{reached[name] or 'never':>14}")
    print(f"reference: {', '.join(f'{value:.6g}' for value in reference)} (worst of random)")
    held = (reached["search"] or options.at_most + 1) <= options.at_most
    after = f"after {reached['search']} evaluations" if reached["search"] else "not reached"
    print(
        f"{100 * SHARE:g}% of random search's hypervolume {after}, wanted after at most {options.at_most}: "
        f"{'held' if held else 'NOT HELD'}"
    )
    if options.json:
        volumes = {name: each[-1] for name, each in grown.items()}
        print(json.dumps({"reached": reached, "hypervolume": volumes, "held": held}))
    return 0 if held else 1
