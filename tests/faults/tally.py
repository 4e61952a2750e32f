"""Counts what the fault suites inject and what survives it; `scripts/run_fault_tests.sh` prints the counts.

A suite opens a `Tally` for its row and puts each fault into `with tally.fault():`. How many there are is
`count(fast, full)`: the default run has seconds for each suite, the script has 20 minutes for all.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROWS = ["kill anywhere", "bit rot", "hostile model files", "journals and CSVs", "download and unpack"]
ROWS += ["write errors", "timing", "many processes", "data and YAML", "long runs"]


def is_full() -> bool:
    """Return whether the script asks for the full counts."""
    return os.environ.get("HAT_FAULTS") == "full"


def count(fast: int, full: int) -> int:
    """Return how many faults to inject: `fast` in the default run, `full` in the script's."""
    return full if is_full() else fast


class Tally:
    """The faults of one test for one row of `docs/reliability.md`; handed to the script when left."""

    def __init__(self, row: int, faults: str) -> None:
        self.row, self.faults = row, faults
        self.injected = self.survived = 0
        self.lost: Counter[str] = Counter()

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Count one fault, as survived if the block comes to its end."""
        self.injected += 1
        yield
        self.survived += 1

    def lose(self, what: str, amount: int = 1) -> None:
        """Note what a survived fault cost, for example "update", 3; the amounts are added up."""
        self.lost[what] += amount

    def __enter__(self) -> "Tally":
        return self

    def __exit__(self, *error: object) -> None:
        if os.environ.get("HAT_FAULT_TALLY"):
            with open(os.environ["HAT_FAULT_TALLY"], "ab", buffering=0) as file:  # tests run side by side
                file.write(json.dumps(vars(self)).encode() + b"\n")


def main(path: str) -> None:
    """Print one line for each row that the tallies in a file tell of, in the order of the rows."""
    entries = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    for row, title in enumerate(ROWS, 1):
        own = [entry for entry in entries if entry["row"] == row]
        injected, survived = (sum(entry[key] for entry in own) for key in ("injected", "survived"))
        lost = sum((Counter(entry["lost"]) for entry in own), Counter())
        losses = ", ".join(f"{amount} {what}" for what, amount in sorted(lost.items())) or "nothing"
        kinds = ", ".join(dict.fromkeys(entry["faults"] for entry in own))
        counts = f"{injected} faults injected, {survived} survived"
        if own:
            print(f"{row:2} {title}: {counts}, lost: {losses} [{kinds}]")


if __name__ == "__main__":
    main(sys.argv[1])
