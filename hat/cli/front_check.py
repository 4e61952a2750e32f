"""The command `scripts/front_check.py`: how soon a search reached the hypervolume of random search."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import OutputOptions, command, parse
from hat.errors import ConfigError, DataError
from hat.files.journal import read_journal
from hat.report.front import SHARE, compare, comparison_table
from hat.search.front import Point


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
    methods = {name: _points(folder / file) for name, file in _JOURNALS.items()}
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


def _points(path: Path) -> list[Point]:
    """Return loss and predicted latency of each architecture of a journal, in the order of scoring."""
    points = [(float(r["loss"]), float(r["latency_ms"])) for r in read_journal(path)[1:]]
    if not points:
        raise DataError(f"{path} holds no scored architecture; search with --pareto and --ablations first")
    return points
