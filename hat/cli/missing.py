"""What makes a missing file: the command that downloads or writes it, as configs/ says."""

from collections.abc import Sequence
from pathlib import Path

from hat.config import read_config
from hat.errors import HatError
from hat.files.released import latency_data_names, released_models

DOWNLOADS = Path("downloaded_models")


def advice(commands: Sequence[str], otherwise: str) -> str:
    """Return what to do: run one of the commands, or `otherwise` if none is known."""
    return f"make it with {' or '.join(f'`{line}`' for line in commands)}" if commands else otherwise


def data_commands(folder: str | None) -> list[str]:
    """Return the scripts that make or download a data folder."""
    tasks = dict.fromkeys(path.parents[1] for path in _that_name("*", "data", folder))
    scripts = (task / name for task in tasks for name in ("preprocess.sh", "get_preprocessed.sh"))
    return [f"bash {script}" for script in scripts if script.exists()]


def checkpoint_commands(path: str | Path) -> list[str]:
    """Return what downloads a released checkpoint, or trains the run in whose folder it would lie."""
    path = Path(path)
    if path.stem in {model.model_name for model in released_models()}:
        save = "" if path.parent.resolve() == DOWNLOADS.resolve() else f" --save-path={path.parent}"
        return [f"python download_model.py --model-name={path.stem}{save}"]
    _, below, run = path.parent.as_posix().rpartition("checkpoints/")
    config = Path("configs", f"{run}.yml")
    if not below or not config.exists():
        return []
    common = config.with_name(f"common{space_of(config)[1]}.yml")
    more = f" --sub-configs={common}" if common.exists() else ""
    return [f"python train.py --configs={config}{more}"]


def latency_commands(script: str, key: str, *paths: str | Path) -> list[str]:
    """Return the script with each configuration that names one of the paths, and what downloads the last."""
    kind = script.partition(".")[0]
    found = dict.fromkeys(config for path in paths for config in _that_name(kind, key, path))
    is_released = Path(paths[-1]).stem in latency_data_names(released_models())
    download = ["python download_model.py --latency-data"] * is_released
    return [f"python {script}={config}" for config in found] + download


def table_commands(path: str | Path) -> list[str]:
    """Return what measures a latency table or downloads it; with or without `_all` it is one table."""
    own = Path(path).with_name(Path(path).stem.removesuffix("_all") + Path(path).suffix)
    return latency_commands("latency_dataset.py --configs", "lat-dataset-path", path, own)


def config_commands(path: str | Path) -> list[str]:
    """Return the search that writes a configuration."""
    return [
        f"python evo_search.py --configs={space_of(evo)[0]} --evo-configs={evo}"
        for evo in _that_name("evo_search", "write-config-path", path)
    ]


def space_of(config: Path) -> tuple[Path, str]:
    """Return the SuperTransformer that a file of a task belongs to, and how the names of its files end.

    It is the one whose name ends that of `config`, before an @; files of the first one have no such ending.
    """
    first, *others = sorted(config.parents[1].glob("supertransformer/*.yml")) or [Path()]
    name = config.stem.partition("@")[0]
    return next(((path, f"_{path.stem}") for path in others if name.endswith(f"_{path.stem}")), (first, ""))


def _that_name(kind: str, key: str, wanted: str | Path | None) -> list[Path]:
    """Return the task configurations of one kind in which `key` is the path `wanted`."""
    found = []
    for config in sorted(Path("configs").glob(f"*/{kind}/*.yml")) if wanted else ():
        try:
            value = read_config(config).get(key)
        except HatError:
            continue  # it is another file that is in question
        if isinstance(value, str) and Path(value).resolve() == Path(str(wanted)).resolve():
            found.append(config)
    return found
