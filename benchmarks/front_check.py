"""How soon a search for the front reached the hypervolume of random search."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hat


@dataclass(frozen=True)
class CheckOptions(hat.Options):
    """Check"""

    search_dir: str | None = None
    """folder of a search with --pareto and --ablations"""
    at_most: int = 150
    """evaluations it may take"""
    json: bool = False
    """print one line of JSON last"""


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Print how the hypervolumes of a search grew, see its summary; returns 1 if it took too long."""
    (options,) = hat.parse(
        argv,
        CheckOptions,
        prog="python -m benchmarks front-check",
        description="Compare the hypervolume of a search for the front with that of random search.",
    )
    if options.search_dir is None:
        raise hat.ConfigError("--search-dir is needed: the folder of a search with --pareto and --ablations")
    path = Path(options.search_dir) / "summary.json"
    found = json.loads(path.read_text("utf-8")).get("comparison")
    if not found or not found["reference"]:
        raise hat.DataError(f"{path} compares with no random architecture; search with --pareto --ablations")
    reached, share = found["methods"]["search"]["reached"], 100 * found["wanted_share"]
    held = reached is not None and reached <= options.at_most
    after = f"after {reached} evaluations" if reached else "not reached"
    print(hat.comparison_table(found))
    print(
        f"{share:g}% of random search's hypervolume {after}, wanted after at most {options.at_most}: "
        f"{'held' if held else 'NOT HELD'}"
    )
    if options.json:
        print(json.dumps(found | {"at_most": options.at_most, "held": held}))
    return 0 if held else 1
