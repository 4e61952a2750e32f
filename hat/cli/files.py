"""The commands about files and folders: download, fetch, convert, average, report, init."""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hat.cli.options import OutputOptions, advice, only, takes
from hat.config import Options, option, shipped
from hat.errors import CheckpointError, ConfigError, DataError, suggest
from hat.files import download as web
from hat.files.archive import check_file, unpack
from hat.files.download import Downloaded, ReleasedModel, latency_data_names, released_models
from hat.log import info
from hat.run import record_path
from hat.space import ArchOptions, arch_of

_THERE = {"downloaded": "", "intact": " is already there and intact"}


@dataclass(frozen=True)
class NetworkOptions(Options):
    """Network"""

    tries: int = option(5, "attempts in a row that may bring nothing new, with growing pauses", low=1)
    timeout: float = option(30.0, "seconds without a byte after which an attempt fails", above=0)


@dataclass(frozen=True)
class DownloadOptions(Options):
    """What to download"""

    model_name: str | None = option(None, "model to download, as HAT_wmt14ende_super_space0; see --list")
    download_all: bool = option(False, "download all models; those that are there and intact are skipped")
    list: bool = option(False, "print a table of all models and exit")
    latency_data: bool = option(False, "download the latency tables and predictors of the release")
    save_path: str | None = option(None, "folder to write to (default: downloaded_models or latency_dataset)")


@takes("download_model.py", DownloadOptions, NetworkOptions, OutputOptions)
def download_model(options: DownloadOptions, network: NetworkOptions, out: OutputOptions) -> dict:
    """List and download the models, latency tables and predictors of the 2020 release."""
    asked = [options.model_name is not None, options.download_all, options.list, options.latency_data]
    if sum(asked) != 1:
        flags = "--model-name, --download-all, --list and --latency-data"
        raise ConfigError(f"{sum(asked)} of {flags} are given; exactly one is allowed")
    models = released_models()
    if options.list:
        rows = [("model", "task", "device", "latency", "BLEU")]
        for m in models:  # a SuperTransformer has no latency and no BLEU
            rows.append((m.model_name, m.task_name, m.hardware or "-", m.latency or "-", str(m.bleu or "-")))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        form = "  ".join(f"{{:{side}{width}}}" for side, width in zip("<<<>>", widths, strict=True))
        print("\n".join(form.format(*row) for row in rows))
        return {"models": [asdict(model) for model in models]}
    named = {model.model_name: model for model in models}
    if (name := options.model_name) is not None and name not in named:
        known = f"{suggest(name, named)}; download_model.py --list shows all"
        raise ConfigError(f"there is no model {name!a}{known}")
    folder = Path(options.save_path or "downloaded_models")
    chosen = models if name is None else (named[name],)
    wanted = [(model.url, folder / f"{model.model_name}.pt", check_file) for model in chosen]
    if options.latency_data:
        wanted = _latency_data(models, Path(options.save_path or "latency_dataset"))
    found, failed = list[Downloaded](), []
    for url, path, check in wanted:
        try:
            got = web.download(url, path, check=check, quiet=out.no_progress_bar, **asdict(network))
        except DataError as error:  # one that fails does not keep the others
            if isinstance(error, web.Unreachable) or len(wanted) == 1:
                raise
            info(f"DataError: {error}")
            failed.append(path.name)
            continue
        print(f"{got.path}{_THERE[got.status]}: {got.num_bytes} bytes, SHA-256 {got.sha256}", flush=True)
        found.append(got)
    if failed:
        again = "the reasons are above; run the same command again to fetch what is missing"
        raise DataError(f"{len(failed)} of {len(wanted)} files failed: {', '.join(failed)}; {again}")
    return {"files": [asdict(file) for file in found]}


def _latency_data(models: tuple[ReleasedModel, ...], folder: Path) -> list[tuple[str, Path, web.Check]]:
    wanted: list[tuple[str, Path, web.Check]] = []
    for name in latency_data_names(models):
        for there, check in ((f"{name}_all.csv", _check_table), (f"predictors/{name}.pt", check_file)):
            path = folder / there
            records = record_path(path, folder=False), path.with_suffix(".config.yml")  # the latter of 0.1
            if any(record.exists() for record in records):  # latency_predictor.py wrote it
                info(f"{path} was made here and stays; --save-path puts the released one elsewhere")
            else:
                wanted.append((f"{web.LATENCY_DATA_URL}/{there}", path, check))
    return wanted


def _check_table(path: Path) -> None:
    from hat.latency.table import RELEASE_COLUMNS  # imports torch, which --list has no need for

    check_file(path)
    with open(path, encoding="utf-8", errors="replace") as file:
        header, row = file.readline().strip(), file.readline()
    if header != ",".join(RELEASE_COLUMNS) or row.count(",") != header.count(","):
        raise ValueError("it is no latency table of the release")


@dataclass(frozen=True)
class FetchOptions(Options):
    """Download"""

    to: str = option(help="file to write; left alone if it is already there and intact")
    url: str | None = option(None, "address, or share link of Dropbox or Google Drive (default: it is there)")
    sha256: str | None = option(None, "SHA-256 that the file must have")
    unpack: str | None = None
    """folder for what the file holds, if that is an archive: tar, tar.gz, zip, or one file packed by gzip"""
    members: tuple[str, ...] = ()
    """paths inside the archive, each written to the same path below the folder (default: with two languages
    the binary data of the archive, in whatever folder there, which replaces that in --unpack)"""
    source_lang: str | None = option(None, "source language of the binary data, for example en")
    target_lang: str | None = option(None, "target language")


@takes("hat fetch", FetchOptions, NetworkOptions, OutputOptions)
def fetch(cfg: FetchOptions, network: NetworkOptions, out: OutputOptions) -> dict:
    """Download one file, whole or not at all, and take named files and nothing else out of it."""
    path, folder, report = Path(cfg.to), Path(cfg.unpack or ""), dict[str, Any]()
    languages = cfg.source_lang or "", cfg.target_lang or ""
    if not cfg.url and (cfg.sha256 or not cfg.unpack):
        raise ConfigError("--url is needed: the address to download from")
    if bool(cfg.members) + all(languages) != bool(cfg.unpack):
        raise ConfigError("--unpack is given with --members, or with --source-lang and --target-lang")
    if cfg.url:
        found = web.download(cfg.url, path, sha256=cfg.sha256, quiet=out.no_progress_bar, **asdict(network))
        print(f"{path}{_THERE[found.status]}: {found.num_bytes} bytes")
        report = {"path": cfg.to, "bytes": found.num_bytes, "sha256": found.sha256, "status": found.status}
    if cfg.unpack and cfg.members:
        print(f"{path}: {len(unpack(path, folder, cfg.members))} files unpacked to {folder}")
    elif cfg.unpack:
        from hat.data.dataset import unpack_data

        pairs = unpack_data(path, folder, languages)
        print(f"{folder}: {', '.join(f'{number} {split}' for split, number in pairs.items())} pairs")
    return report


@dataclass(frozen=True)
class ConvertOptions(Options):
    """Conversion"""

    input: str = option(help="checkpoint of the 2020 release, or of this system")
    output: str | None = option(None, "checkpoint to write")
    safetensors: str | None = option(None, "safetensors file to write: weights, and their description")
    fp16: bool = option(False, "write weights in half precision; they are read as float32 again")

    def __post_init__(self) -> None:
        given = [Path(path).resolve() for path in (self.input, self.output, self.safetensors) if path]
        if len(given) == 1 or len({*given}) < len(given):
            what = f"nothing to write, or one file for two uses, beside --input {self.input}"
            raise ConfigError(f"{what}; give --output OUT.pt, --safetensors OUT.safetensors or both")


@takes("hat convert", ConvertOptions, ArchOptions, only(OutputOptions, "json"), config_flags=("--configs",))
def convert(cfg: ConvertOptions, arch_options: ArchOptions, out: OutputOptions) -> dict:
    """Turn a checkpoint of the 2020 release into one of this system.

    With --configs ARCH.yml the SubTransformer is cut out: all that is trained in a released SubTransformer.
    """
    from hat.cli.settings import find_checkpoint
    from hat.files.tensors import write_safetensors
    from hat.train.checkpoint import describe, load, pack, save

    before = load(find_checkpoint(cfg.input), info)
    arch = arch_of(arch_options)
    after = before if arch is None else pack(before.sub(arch), before.vocab_digests)
    if cfg.fp16:
        halves = {name: weight.half() for name, weight in after.weights.items()}
        if large := [name for name, half in halves.items() if not half.isfinite().all()]:
            found = f"{large[0]} holds numbers beyond 65504, which half precision cannot hold"
            raise CheckpointError(f"{found}; leave --fp16 out")
        after = replace(after, weights=halves, state={}, master=None)
    if cfg.output:
        save(after, Path(cfg.output))
    if cfg.safetensors:
        write_safetensors(Path(cfg.safetensors), after.weights, {"hat": json.dumps(describe(after))})
    report = {}
    for what, held in (("input", before), ("output", after), ("safetensors", after)):
        if path := getattr(cfg, what):
            params, size = sum(weight.numel() for weight in held.weights.values()), Path(path).stat().st_size
            report[what] = {"path": path, "bytes": size, "params": params}
            print(f"{what} {path}: {size} bytes, {params} parameters")
    return report


@dataclass(frozen=True)
class AverageOptions(Options):
    """Averaging"""

    inputs: tuple[str, ...] = option((), "checkpoint files, or one folder of a run", role="free")
    num_epoch_checkpoints: int = option(10, "newest epoch checkpoints taken from a folder", low=1)
    output: str | None = option(None, "file to write (default: average_model_N.pt in a folder)", role="free")


@dataclass(frozen=True)
class ReportOptions:
    """Report"""

    run_dir: str | None = None
    """folder of run_task.sh, of one search or training, or one above several; the flag may be left out"""
    to: str | None = option(None, "folder to write (default: report in the run's folder)")


@dataclass(frozen=True)
class InitOptions(Options):
    """Folder"""

    to: str = option(".", "folder that gets configs/ and scripts/", metavar="DIR")


@takes("hat average", AverageOptions, only(OutputOptions, "json"))
def average(given: AverageOptions, out: OutputOptions) -> dict:
    """Write the mean of the weights of several checkpoints of one model."""
    if not given.inputs:
        raise ConfigError("--inputs is needed: checkpoint files, or the folder of a run")
    if missing := [name for name in given.inputs if not Path(name).exists()]:
        how = advice(missing[0], "give checkpoint files or a folder")
        raise CheckpointError(f"{', '.join(missing)} does not exist; {how}")
    from hat.train import checkpoint  # after the checks: it loads torch

    count = given.num_epoch_checkpoints
    output, used = checkpoint.average(given.inputs, given.output, num_epoch_checkpoints=count)
    print(f"{output}: mean of {', '.join(path.name for path in used)}")
    return {"output": output, "inputs": used}


@takes("hat report", ReportOptions, only(OutputOptions, "json"), bare="run_dir")
def report(options: ReportOptions, out: OutputOptions) -> dict:
    """Show what a run found and what it cost, as one self-contained page: hat report RUN_DIR."""
    if options.run_dir is None:
        raise ConfigError("no folder is given; name one: python -m hat report runs/<task>/<hardware>")
    from hat.report import page as pages  # late: the other commands show nothing

    page = pages.report(options.run_dir, options.to)
    pictures = sorted(page.parent.glob("*.png"))
    print(f"written: {page} and {', '.join(path.name for path in pictures) or 'no picture'} beside it")
    return {"page": page, "pictures": pictures}


@takes("hat init", InitOptions)
def init(options: InitOptions) -> None:
    """Put the tasks (configs/) and shell scripts (scripts/) of this HAT into a folder; overwrites nothing."""
    folder = Path(options.to)
    for path in (targets := [folder / "configs", folder / "scripts"]):
        if path.exists():
            raise ConfigError(f"{path} exists already and is kept; give another folder with --to")
    for path in targets:
        shutil.copytree(shipped(path.name), path, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    print(f"{folder}: go there and run bash scripts/run_task.sh toy.en-de cpu")
