"""The commands about files and folders: download, unpack, convert, average, report, init."""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hat.cli.missing import advice, checkpoint_commands
from hat.cli.options import OutputOptions, only, takes
from hat.config import Options, option, shipped
from hat.errors import CheckpointError, ConfigError, DataError, suggest
from hat.files.archive import check_file, unpack
from hat.files.download import Check, Downloaded, Unreachable, download
from hat.files.released import (
    LATENCY_DATA_URL,
    ReleasedModel,
    beside_own,
    latency_data_names,
    released_models,
)
from hat.log import info
from hat.run import record_path
from hat.space import ArchOptions, arch_of


@dataclass(frozen=True)
class NetworkOptions(Options):
    """Network"""

    tries: int = option(5, low=1)
    """attempts in a row that may bring nothing new, with longer and longer pauses"""
    timeout: float = option(30.0, above=0)
    """seconds without a byte after which an attempt fails"""


@dataclass(frozen=True)
class DownloadOptions(Options):
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


@takes("download_model.py", DownloadOptions, NetworkOptions, OutputOptions)
def download_model(options: DownloadOptions, network: NetworkOptions, out: OutputOptions) -> dict:
    """List and download the models, latency tables and predictors of the 2020 release."""
    asked = [options.model_name is not None, options.download_all, options.list, options.latency_data]
    if sum(asked) != 1:
        raise ConfigError(
            f"{sum(asked)} of --model-name, --download-all, --list and --latency-data are given; exactly one "
            "is allowed; see download_model.py --help"
        )
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
            got = download(url, path, check=check, quiet=out.no_progress_bar, **asdict(network))
        except DataError as error:  # one that fails does not keep the others
            if isinstance(error, Unreachable) or len(wanted) == 1:
                raise
            info(f"DataError: {error}")
            failed.append(path.name)
            continue
        there = "" if got.status == "downloaded" else " is already there and intact"
        print(f"{got.path}{there}: {got.num_bytes} bytes, SHA-256 {got.sha256}", flush=True)
        found.append(got)
    if failed:
        raise DataError(
            f"{len(failed)} of {len(wanted)} files failed: {', '.join(failed)}; the reasons are above; run "
            "the same command again to fetch what is missing"
        )
    return {"files": [asdict(file) for file in found]}


def _latency_data(models: tuple[ReleasedModel, ...], folder: Path) -> list[tuple[str, Path, Check]]:
    wanted: list[tuple[str, Path, Check]] = []
    for name in latency_data_names(models):
        table, path = f"{name}_all.csv", folder / f"predictors/{name}.pt"
        wanted.append((f"{LATENCY_DATA_URL}/{table}", folder / table, _check_table))
        address = f"{LATENCY_DATA_URL}/predictors/{path.name}"
        records = record_path(path, folder=False), path.with_suffix(".config.yml")  # the latter of HAT 0.1
        if any(record.exists() for record in records):  # latency_predictor.py wrote it
            info(f"{path} was trained here and stays; the released one becomes {beside_own(path)}")
            path = beside_own(path)
        wanted.append((address, path, check_file))
    return wanted


def _check_table(path: Path) -> None:
    """Raise ValueError for what is no latency table of the release."""
    from hat.latency.table import RELEASE_COLUMNS  # imports torch, which --list has no need for

    check_file(path)
    with open(path, encoding="utf-8", errors="replace") as file:
        header, row = file.readline().strip(), file.readline()
    if header != ",".join(RELEASE_COLUMNS) or row.count(",") != header.count(","):
        raise ValueError("it is no latency table of the release")


@dataclass(frozen=True)
class FetchOptions(Options):
    """Download"""

    url: str
    """address, beginning with https:// or http://; share links of Dropbox and Google Drive serve too"""
    to: str
    """file to write; left alone if it is already there and intact"""
    sha256: str | None = None
    """SHA-256 that the file must have"""


@takes("hat fetch", FetchOptions, NetworkOptions, OutputOptions)
def fetch(cfg: FetchOptions, network: NetworkOptions, out: OutputOptions) -> dict:
    """Download one file, whole or not at all."""
    options = {"sha256": cfg.sha256, "quiet": out.no_progress_bar, **asdict(network)}
    found = download(cfg.url, Path(cfg.to), **options)
    there = "" if found.status == "downloaded" else " is already there"
    print(f"{cfg.to}{there}: {found.num_bytes} bytes")
    return {"path": cfg.to, "bytes": found.num_bytes, "sha256": found.sha256, "status": found.status}


@dataclass(frozen=True)
class UnpackOptions(Options):
    """Unpacking"""

    archive: str
    """a tar, tar.gz or zip archive, or one file packed with gzip"""
    to: str
    """folder to write to"""
    members: tuple[str, ...]
    """paths inside the archive; each is written to the same path below the folder"""
    flat: bool = False
    """the members are named without their folders, wherever in the archive they are"""
    max_gib: int = option(256, low=0)
    """most that the members may have together, in GiB"""


@takes("hat unpack", UnpackOptions)
def unpack_files(cfg: UnpackOptions) -> None:
    """Take named files, and nothing else, out of an archive."""
    paths = unpack(Path(cfg.archive), Path(cfg.to), cfg.members, flat=cfg.flat, max_bytes=cfg.max_gib << 30)
    print(f"{cfg.archive}: {len(paths)} files unpacked to {cfg.to}")


@dataclass(frozen=True)
class UnpackDataOptions(Options):
    """Unpacking"""

    archive: str
    """a tar, tar.gz or zip archive with dictionaries and indexed data"""
    destdir: str
    """folder to write; data in it is replaced at the end"""
    source_lang: str
    """source language, for example en"""
    target_lang: str
    """target language, for example de"""
    splits: tuple[str, ...] = ("train", "valid", "test")
    """splits that the archive must hold"""


@takes("hat unpack-data", UnpackDataOptions)
def unpack_data(cfg: UnpackDataOptions) -> None:
    """Take dictionaries and binary data out of an archive, and check that they fit together."""
    from hat.data import dataset

    languages = (cfg.source_lang, cfg.target_lang)
    pairs = dataset.unpack_data(Path(cfg.archive), Path(cfg.destdir), languages, cfg.splits)
    counts = ", ".join(f"{number} {split}" for split, number in pairs.items())
    print(f"{cfg.destdir}: {counts} pairs")


@dataclass(frozen=True)
class ConvertOptions(Options):
    """Conversion"""

    input: str
    """checkpoint of the 2020 release, or of this system"""
    output: str | None = None
    """checkpoint to write"""
    safetensors: str | None = None
    """safetensors file to write: the weights under our names, the description as metadata"""
    fp16: bool = False
    """write weights in half precision; they are read as float32 again"""

    def __post_init__(self) -> None:
        written = [path for path in (self.output, self.safetensors) if path]
        if not written:
            raise ConfigError("nothing to write; give --output OUT.pt, --safetensors OUT.safetensors or both")
        if len({Path(path).resolve() for path in (self.input, *written)}) <= len(written):
            raise ConfigError("--input, --output and --safetensors must be different files")


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
        for name in (name for name, half in halves.items() if not half.isfinite().all()):
            found = f"{name} holds numbers beyond 65504, which half precision cannot hold"
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

    inputs: tuple[str, ...] = option((), role="free")
    """checkpoint files, or one folder of a run"""
    num_epoch_checkpoints: int = option(10, low=1)
    """newest epoch checkpoints taken from a folder"""
    output: str | None = option(None, role="free")
    """file to write (default: average_model_N.pt in the folder)"""


@dataclass(frozen=True)
class ReportOptions:
    """Report"""

    run_dir: str | None = None
    """folder of run_task.sh, of one search or training, or one above several; the flag may be left out"""
    to: str | None = None
    """folder to write (default: report in the run's folder)"""


@dataclass(frozen=True)
class InitOptions(Options):
    """Folder"""

    to: str = option(".", metavar="DIR")
    """folder that gets configs/ and scripts/"""


@takes("hat average", AverageOptions, only(OutputOptions, "json"))
def average(given: AverageOptions, out: OutputOptions) -> dict:
    """Write the mean of the weights of several checkpoints of one model."""
    if not given.inputs:
        raise ConfigError("--inputs is needed: checkpoint files, or the folder of a run")
    if missing := [name for name in given.inputs if not Path(name).exists()]:
        commands = checkpoint_commands(Path(missing[0]) / "checkpoint1.pt") or checkpoint_commands(missing[0])
        how = advice(commands, "give checkpoint files or a folder")
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
    targets = {name: folder / name for name in ("configs", "scripts")}
    for path in targets.values():
        if path.exists():
            raise ConfigError(f"{path} exists already and is kept; give another folder with --to")
    for name, path in targets.items():
        shutil.copytree(shipped(name), path, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    print(f"{folder}: go there and run bash scripts/run_task.sh toy.en-de cpu")
