"""The command `scripts/front_check.py`: how soon a search reached the hypervolume of random search."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hat.cli.options import OutputOptions, command, parse
from hat.errors import ConfigError, DataError
from hat.files.journal import read_journal
from hat.report.front import comparison_table
from hat.search.constraints import Constraints
from hat.search.front import SHARE, Point, compare
from hat.search.strategies import ParetoConfig, objective_values
from hat.space import Arch, space_from_plain


@dataclass(frozen=True)
class CheckOptions:
    """Check"""

    search_dir: str | None = None
    """folder of a search with --pareto and --ablations"""
    share: float = SHARE
    """share of the hypervolume of random search that is to be reached"""
    at_most: int = 150
    """evaluations it may take"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the journals of a search, print how hypervolumes grew; returns 1 where it took too long."""
    options, out = parse(
        argv,
        CheckOptions,
        OutputOptions,
        prog="scripts/front_check.py",
        description="Compare the hypervolume of a search for the front with that of random search.",
    )
    if options.search_dir is None:
        raise ConfigError("--search-dir is needed: the folder of a search with --pareto and --ablations")
    folder = Path(options.search_dir)
    where_of = _places(folder / _JOURNALS["search"])
    methods = {name: _points(folder / file, where_of) for name, file in _JOURNALS.items()}
    found = compare(methods, options.share)
    reached = found["methods"]["search"]["reached"]
    held = reached is not None and reached <= options.at_most
    print(comparison_table(found))
    print(
        f"{100 * options.share:g}% of random search's hypervolume "
        + (f"after {reached} evaluations" if reached else "not reached")
        + f", wanted after at most {options.at_most}: {'held' if held else 'NOT HELD'}"
    )
    if out.json:
        print(json.dumps(found | {"at_most": options.at_most, "held": held}))
    return 0 if held else 1


_JOURNALS = {"search": "journal.jsonl", "random": "random.jsonl", "depth": "depth.jsonl"}


def _places(path: Path) -> Callable[[dict[str, Any]], Point]:
    """Return what tells where a record lies: its loss, then the objectives of the search."""
    records = read_journal(path)
    header = records[0] if records else {}
    objectives = tuple(header.get("objectives", ParetoConfig.objectives))  # left out where it is the default
    if objectives == ParetoConfig.objectives:
        return lambda record: (float(record["loss"]), float(record["latency_ms"]))
    length = header.get("profile_length", 1)  # told where FLOPs count
    space = space_from_plain(header["space"])

    def place(record: dict[str, Any]) -> Point:
        constraints = Constraints(space, lambda archs: [float(record["latency_ms"])], length=length)
        (cost,) = constraints.costs([Arch.from_yaml(record["arch"])])
        return float(record["loss"]), *objective_values(cost, objectives)

    return place


def _points(path: Path, place: Callable[[dict[str, Any]], Point]) -> list[Point]:
    """Return where each architecture of a journal lies, in the order of scoring."""
    points = [place(record) for record in read_journal(path)[1:]]
    if not points and path.name != _JOURNALS["depth"]:  # limits may leave nothing of the grid
        raise DataError(f"{path} holds no scored architecture; search with --pareto and --ablations first")
    return points
