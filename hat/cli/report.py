"""hat report: a page and pictures of what a run found, and what it cost."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hat.cli.options import PARSER, OutputOptions, command, only, parse
from hat.errors import ConfigError
from hat.report.page import report


@dataclass(frozen=True)
class ReportOptions:
    """Report"""

    run_dir: str | None = None
    """folder of run_task.sh, of one search or training, or one above several; the flag may be left out"""
    to: str | None = None
    """folder to write (default: report in the run's folder)"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write index.html and the PNG files; see --help."""
    options, out = parse(
        argv if argv is PARSER else _named(sys.argv[1:] if argv is None else argv),
        ReportOptions,
        only(OutputOptions, "json"),
        prog="hat report",
        description="Show what a run found and what it cost, as one self-contained page: hat report RUN_DIR.",
    )
    if options.run_dir is None:
        raise ConfigError("no folder is given; name one: python -m hat report runs/<task>/<hardware>")
    page = report(options.run_dir, options.to)
    pictures = sorted(page.parent.glob("*.png"))
    print(f"written: {page} and {', '.join(path.name for path in pictures) or 'no picture'} beside it")
    if out.json:
        print(json.dumps({"page": str(page), "pictures": [str(path) for path in pictures]}))
    return 0


def _named(words: Sequence[str]) -> list[str]:
    """Return the words with --run-dir before the folder, wherever among the flags it stands."""
    named = [
        word if word.startswith("-") or before in ("--run-dir", "--to") else f"--run-dir={word}"
        for before, word in zip(["", *words], words, strict=False)
    ]
    folders = [words[n] for n, word in enumerate(named) if word.split("=")[0] == "--run-dir"]
    if len(folders) > 1:
        raise ConfigError(
            f"two folders are given, {folders[0]} and {folders[1]}; a report is of one: name that, or the "
            "folder above both"
        )
    return named
