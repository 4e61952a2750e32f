"""How soon a search for the front reached the hypervolume of random search."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hat

JOURNALS = {"search": "journal.jsonl", "random": "random.jsonl", "depth": "depth.jsonl"}
DEFAULT_OBJECTIVES = ("latency",)  # left out of the journal
Point = tuple[float, ...]


@dataclass(frozen=True)
class CheckOptions(hat.Options):
    """Check"""

    search_dir: str | None = None
    """folder of a search with --pareto and --ablations"""
    share: float = 0.99
    """share of the hypervolume of random search that is to be reached"""
    at_most: int = 150
    """evaluations it may take"""
    json: bool = False
    """print one line of JSON last"""


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Read the journals of a search, print how hypervolumes grew; returns 1 if it took too long."""
    (options,) = hat.parse(
        argv,
        CheckOptions,
        prog="python -m benchmarks front-check",
        description="Compare the hypervolume of a search for the front with that of random search.",
    )
    if options.search_dir is None:
        raise hat.ConfigError("--search-dir is needed: the folder of a search with --pareto and --ablations")
    folder = Path(options.search_dir)
    place = place_of(folder / JOURNALS["search"])
    methods = {name: points_of(folder / file, place) for name, file in JOURNALS.items()}
    found = hat.compare_fronts(methods, options.share)
    reached = found["methods"]["search"]["reached"]
    held = reached is not None and reached <= options.at_most
    print(hat.comparison_table(found))
    after = f"after {reached} evaluations" if reached else "not reached"
    print(
        f"{100 * options.share:g}% of random search's hypervolume {after}, wanted after at most "
        f"{options.at_most}: {'held' if held else 'NOT HELD'}"
    )
    if options.json:
        print(json.dumps(found | {"at_most": options.at_most, "held": held}))
    return 0 if held else 1


def place_of(path: Path) -> Callable[[dict[str, Any]], Point]:
    """Return a function from a record of a search's journal to its loss and the objectives of the search."""
    records = hat.read_journal(path)
    header = records[0] if records else {}
    objectives = tuple(header.get("objectives", DEFAULT_OBJECTIVES))
    if objectives == DEFAULT_OBJECTIVES:
        return lambda record: (float(record["loss"]), float(record["latency_ms"]))
    space, length = hat.space_from_plain(header["space"]), header.get("profile_length", 1)

    def place(record: dict[str, Any]) -> Point:
        arch = hat.Arch.from_yaml(record["arch"])
        costs = {
            "latency": float(record["latency_ms"]),
            "params": float(hat.count_params(arch, space)),
            "flops": 2.0 * hat.count_macs(arch, space, length),
        }
        return float(record["loss"]), *(costs[name] for name in objectives)

    return place


def points_of(path: Path, place: Callable[[dict[str, Any]], Point]) -> list[Point]:
    """Return where each architecture of a journal lies, in the order of scoring."""
    points = [place(record) for record in hat.read_journal(path)[1:]]
    if not points and path.name != JOURNALS["depth"]:  # limits may leave nothing of the grid
        raise hat.DataError(
            f"{path} holds no scored architecture; search with --pareto and --ablations first"
        )
    return points
