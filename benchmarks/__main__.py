"""python -m benchmarks <figure or study> [options]: speed beside floors and peers, and studies."""

import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import hat
from benchmarks.figures import FIGURES, options_of, take_apart, threads_of
from benchmarks.process import info
from benchmarks.timing import Options, text_of

STUDIES = {
    "rank-study": ("rank_study", "do slices rank as training from scratch does?"),
    "predictor-study": ("predictor_study", "latency predictors by the number of rows, and transfer"),
    "latency-estimates": ("latency_estimates", "which estimate of a latency survives a busy machine"),
    "engines": ("engines", "models in every engine: equal sentences, BLEU, MB, ms"),
    "int8-study": ("int8_study", "is a front found in 8 bits better than one found in floats?"),
    "comparison": ("comparison", "do found architectures beat shapes that people make?"),
    "front-study": ("front_study", "how soon does a search overtake random search?"),
}
NAMES = (*FIGURES, "all", *STUDIES)


def overview() -> str:
    """Return the help: every figure and study with one line."""
    lines = ["usage: python -m benchmarks <figure or study> [options]; <name> --help lists its options", ""]
    lines += ["Figures: each in a process of its own, its cases in turn; the ratios are what to compare"]
    lines += [f"  {name:16} {entry.does}" for name, entry in FIGURES.items()]
    lines += [f"  {'all':16} all of them, one after the other", "", "Studies"]
    return "\n".join([*lines, *(f"  {name:16} {does}" for name, (_, does) in STUDIES.items())])


@hat.command
def main(argv: Sequence[str] | None = None) -> int:
    """Take a figure or make a study; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in ("-h", "--help"):
        print(overview())
        return 0
    name = words.pop(0) if words else None
    if name not in NAMES:
        given = "the first word must name a figure or a study" if name is None else f"there is no {name!r}"
        raise hat.ConfigError(f"{given}; allowed are {', '.join(NAMES)}; see python -m benchmarks --help")
    if name in STUDIES:
        return int(importlib.import_module(f"benchmarks.{STUDIES[name][0]}").study(words))
    names = tuple(FIGURES) if name == "all" else (name,)
    (options,) = hat.parse(
        words,
        hat.only(Options, *options_of(name)),
        prog=f"python -m benchmarks {name}",
        description="Take all figures." if name == "all" else f"Take the figure: {FIGURES[name].does}.",
    )
    return take_figures(names, options)


def take_figures(names: Sequence[str], options: Options) -> int:
    """Take figures and print them; one that fails is recorded, the others go on, and 2 is returned. Missing
    data is no failure, and targets that are missed are none: speed is not a test.
    """
    figures: list[dict[str, Any]] = []
    try:
        for name in names:
            for threads in threads_of(name, options):
                info(f"{name}, {threads} threads ...")
                figures.append(take_apart(name, threads, options))
                print(text_of(figures[-1]), flush=True)
    finally:  # also what was taken until an interrupt
        if options.json:
            print(json.dumps(figures), flush=True)
    wrong = [f"{one['name']} ({one['machine']['threads']})" for one in figures if one["error"]]
    if wrong:
        info(f"failed: {', '.join(wrong)}, in brackets the threads; see FAILED above")
    return 2 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
