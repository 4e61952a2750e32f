"""scripts/report.py: a page and pictures of what a run found, and what it cost."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hat.cli.options import OutputOptions, ParserRequest, command, parse
from hat.errors import ConfigError
from hat.files.atomic import write_atomic, write_text_atomic
from hat.report.collect import collect
from hat.report.page import page
from hat.report.pictures import pictures


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
    words = argv if isinstance(argv, ParserRequest) else _named(sys.argv[1:] if argv is None else argv)
    options, out = parse(
        words,
        ReportOptions,
        OutputOptions,
        prog="report.py",
        description="Show what a run found and what it cost, as one self-contained page: report.py RUN_DIR.",
    )
    if options.run_dir is None:
        raise ConfigError("no folder is given; name one: python scripts/report.py runs/<task>/<hardware>")
    root = Path(options.run_dir)
    written = write_report(root, Path(options.to) if options.to else root / "report")
    print(
        f"written: {written[0]} and {', '.join(path.name for path in written[1:]) or 'no picture'} beside it"
    )
    if out.json:
        print(json.dumps({"page": str(written[0]), "pictures": [str(path) for path in written[1:]]}))
    return 0


def _named(words: Sequence[str]) -> list[str]:
    """Return the words with --run-dir before the folder, wherever among the flags it stands."""
    valued = {f"--{field.name.replace('_', '-')}" for field in fields(ReportOptions)}
    named, folders, before = list[str](), list[str](), ""
    for word in words:
        plain = not word.startswith("-") and before not in valued
        if plain or word.split("=")[0] == "--run-dir":
            folders.append(word)
        named.append(f"--run-dir={word}" if plain else word)
        before = word
    if len(folders) > 1:
        raise ConfigError(
            f"two folders are given, {folders[0]} and {folders[1]}; a report is of one: name that, or the "
            "folder above both"
        )
    return named


def write_report(root: Path, to: Path) -> list[Path]:
    """Write the report of `root` into the folder `to`; returns the page and the pictures.

    Raises DataError where `root` holds no run and ConfigError where matplotlib is missing.
    """
    run = collect(root)
    try:
        drawn = pictures(run)
    except ImportError as error:
        raise ConfigError(
            f"the pictures of a report need matplotlib ({error}); pip install -e '.[report]'"
        ) from error
    written = [to / "index.html"]
    for picture in drawn:
        for name, content in picture.pngs.items():
            write_atomic(to / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
            written.append(to / name)
    write_text_atomic(written[0], page(run, drawn))
    return written
