"""scripts/benchmark.py: speed of each part beside its floor or its peer, taken in the same run."""

import json
import sys
from collections.abc import Sequence

from hat.bench.figure import Figure
from hat.bench.request import BenchOptions
from hat.bench.suite import FIGURES, check_inputs, failed, take_apart, threads_of, uncounted
from hat.cli.options import OutputOptions, command, parse
from hat.errors import ConfigError, HatError, suggest
from hat.log import say

NAMES = (*FIGURES, "all")
DESCRIPTION = (
    f"Take one figure, or all: benchmark.py {{{','.join(NAMES)}}} [options]. Each is taken in a process of "
    "its own, together with its floor or its peer, in turn; the ratios are what to compare."
)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Take figures; a figure that fails is recorded and the others go on, then the exit code is 2.

    Missing data is no failure, and targets that are missed are none: speed is not a test.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = words.pop(0) if words and not words[0].startswith("-") else None
    options, out = parse(words, BenchOptions, OutputOptions, prog="benchmark.py", description=DESCRIPTION)
    if name not in NAMES:
        given = "the first word must name a figure" if name is None else f"there is no figure {name!r}"
        near = "" if name is None else suggest(name, NAMES)
        raise ConfigError(f"{given}; allowed are {', '.join(NAMES)}{near}; see benchmark.py --help")
    names = tuple(FIGURES) if name == "all" else (name,)
    check_inputs(names, options)
    for line in uncounted(names, options):
        say(line)
    figures: list[Figure] = []
    try:
        for one in names:
            for threads in threads_of(one, options):
                say(f"{one}, {threads} threads ...")
                try:
                    figure = take_apart(one, threads, options)
                except HatError as error:
                    figure = failed(one, threads, error)
                print(figure.text(), flush=True)
                figures.append(figure)
    finally:  # also what was taken until an interrupt
        if out.json:
            print(json.dumps([figure.values() for figure in figures]), flush=True)
    wrong = [f"{figure.name} ({figure.machine.threads})" for figure in figures if figure.error]
    if wrong:
        say(f"failed: {', '.join(wrong)}, in brackets the threads; see FAILED above")
    return 2 if wrong else 0
