"""The command download_model.py: list and download what the 2020 release published."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from hat.cli.options import OutputOptions, command, parse
from hat.errors import ConfigError, DataError
from hat.files.download import Downloaded, Unreachable, download
from hat.files.proof import Check, check_checkpoint, check_csv
from hat.files.released import (
    LATENCY_DATA_URL,
    ReleasedModel,
    beside_own,
    latency_data_names,
    released_models,
)
from hat.log import say
from hat.run import record_path


@dataclass(frozen=True)
class DownloadOptions:
    """What to download"""

    model_name: str | None = None
    """model to download, for example HAT_wmt14ende_super_space0; --list shows all names"""
    download_all: bool = False
    """download all models, one after another; those that are there and intact are skipped"""
    list: bool = False
    """print a table of all models and exit"""
    latency_data: bool = False
    """download the latency tables and predictors of the release from its public repository"""
    save_path: str | None = None
    """folder to write to (default: ./downloaded_models, for --latency-data ./latency_dataset)"""
    timeout: float = 30.0
    """seconds without a byte after which an attempt fails"""
    tries: int = 5
    """attempts in a row that may bring nothing new, with longer and longer pauses"""


@dataclass(frozen=True)
class _Wanted:
    """A file to download, the place for it, and how to see that it is one."""

    url: str
    path: Path
    check: Check


@command
def main(argv: Sequence[str] | None = None) -> int:
    """List or download; see --help."""
    options, out = parse(
        argv,
        DownloadOptions,
        OutputOptions,
        prog="download_model.py",
        description="List and download the models, latency tables and predictors of the 2020 release.",
    )
    asked = [options.model_name is not None, options.download_all, options.list, options.latency_data]
    if sum(asked) != 1:
        raise ConfigError(
            f"{sum(asked)} of --model-name, --download-all, --list and --latency-data are given; exactly one "
            "is allowed; see download_model.py --help"
        )
    models = released_models()
    if options.list:
        print(model_table(models))
        if out.json:
            print(json.dumps({"models": [asdict(model) for model in models]}))
        return 0
    if options.latency_data:
        wanted = _latency_data(models, Path(options.save_path or "latency_dataset"))
    else:
        chosen = models if options.model_name is None else (_named(options.model_name, models),)
        folder = Path(options.save_path or "downloaded_models")
        wanted = [_Wanted(m.url, folder / f"{m.model_name}.pt", check_checkpoint) for m in chosen]
    found = _download_each(wanted, options, quiet=out.no_progress_bar)
    if out.json:
        files = [{**asdict(file), "path": str(file.path)} for file in found]
        print(json.dumps({"files": files}))
    return 0


def model_table(models: Sequence[ReleasedModel]) -> str:
    """Return the models as a table with one line each; a SuperTransformer has no latency and no BLEU."""
    rows = [("model", "task", "device", "latency", "BLEU")]
    for m in models:
        bleu = "-" if m.bleu is None else f"{m.bleu:.1f}"
        rows.append((m.model_name, m.task_name, m.hardware or "-", m.latency or "-", bleu))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    aligned = [
        [f"{cell:{side}{width}}" for cell, side, width in zip(row, "<<<>>", widths, strict=True)]
        for row in rows
    ]
    return "\n".join("  ".join(cells) for cells in aligned)


def _named(name: str, models: Sequence[ReleasedModel]) -> ReleasedModel:
    names = {model.model_name: model for model in models}
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
        nearest = f"; the nearest names are {', '.join(near)}" if near else ""
        raise ConfigError(f"there is no model {name!a}{nearest}; download_model.py --list shows all")
    return names[name]


def _latency_data(models: Sequence[ReleasedModel], folder: Path) -> list[_Wanted]:
    from hat.latency.table import RELEASE_COLUMNS

    wanted = []
    for name in latency_data_names(tuple(models)):
        table, predictor = f"{name}_all.csv", f"predictors/{name}.pt"
        columns = partial(check_csv, columns=RELEASE_COLUMNS)
        wanted.append(_Wanted(f"{LATENCY_DATA_URL}/{table}", folder / table, columns))
        path = folder / predictor
        own = record_path(path, folder=False), path.with_suffix(".config.yml")  # the latter of HAT 0.1
        if any(record.exists() for record in own):
            say(f"{path} was trained here and stays; the released one becomes {beside_own(path)}")
            path = beside_own(path)
        wanted.append(_Wanted(f"{LATENCY_DATA_URL}/{predictor}", path, check_checkpoint))
    return wanted


def _download_each(wanted: Sequence[_Wanted], options: DownloadOptions, *, quiet: bool) -> list[Downloaded]:
    """Return the files; one that fails does not keep the others, unless the server cannot be reached.

    Raises DataError naming those that failed.
    """
    found, failed = [], []
    for file in wanted:
        try:
            got = download(
                file.url,
                file.path,
                check=file.check,
                tries=options.tries,
                timeout=options.timeout,
                quiet=quiet,
            )
        except DataError as error:
            if isinstance(error, Unreachable) or len(wanted) == 1:
                raise
            say(f"DataError: {error}")
            failed.append(file.path.name)
            continue
        there = "" if got.status == "downloaded" else " is already there and intact"
        print(f"{got.path}{there}: {got.num_bytes} bytes, SHA-256 {got.sha256}", flush=True)
        found.append(got)
    if failed:
        raise DataError(
            f"{len(failed)} of {len(wanted)} files failed: {', '.join(failed)}; the reasons are above; run "
            "the same command again to fetch what is missing"
        )
    return found
