"""What makes a missing file: the command that downloads or writes it, as configs/ says."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hat.config import open_config, read_flat_yaml
from hat.errors import DataError, HatError, suggest
from hat.files.released import ReleasedModel, latency_data_names, released_models

DOWNLOADS = Path("downloaded_models")


def advice(commands: Sequence[str], otherwise: str) -> str:
    """Return what to do: run one of the commands, or `otherwise` where none is known."""
    return f"make it with {' or '.join(f'`{line}`' for line in commands)}" if commands else otherwise


def data_commands(folder: str | None) -> list[str]:
    """Return the scripts that make or download a data folder."""
    tasks = dict.fromkeys(path.parents[1] for path in _that_name("*", "data", folder))
    scripts = (task / name for task in tasks for name in ("preprocess.sh", "get_preprocessed.sh"))
    return [f"bash {script}" for script in scripts if script.exists()]


def checkpoint_commands(path: str | Path) -> list[str]:
    """Return what downloads a released checkpoint, or trains the run in whose folder it would lie."""
    path = Path(path)
    if path.stem in {model.model_name for model in _released()}:
        save = "" if path.parent.resolve() == DOWNLOADS.resolve() else f" --save-path={path.parent}"
        return [f"python download_model.py --model-name={path.stem}{save}"]
    _, below, run = path.parent.as_posix().rpartition("checkpoints/")
    config = Path("configs", f"{run}.yml")
    if not below or not config.exists():
        return []
    common = config.with_name("common.yml")
    return [f"python train.py --configs={config}" + (f" --sub-configs={common}" if common.exists() else "")]


def table_commands(path: str | Path) -> list[str]:
    """Return what measures a latency table or downloads it; with or without `_all` it is one table."""
    path = Path(path)
    own = path.with_name(path.stem.removesuffix("_all") + path.suffix)
    found = [f"python latency_dataset.py --configs={config}" for config in _measuring((path, own))]
    return found + _latency_data(own.stem)


def predictor_commands(path: str | Path) -> list[str]:
    """Return what trains a latency predictor or downloads it."""
    configs = _that_name("latency_predictor", "ckpt-path", path)
    found = [f"python latency_predictor.py --configs={config}" for config in configs]
    return found + _latency_data(Path(path).stem)


def config_commands(path: str | Path) -> list[str]:
    """Return the search that writes a configuration."""
    found = []
    for evo in _that_name("evo_search", "write-config-path", path):
        for config in sorted(evo.parents[1].glob("supertransformer/*.yml")):
            found.append(f"python evo_search.py --configs={config} --evo-configs={evo}")
    return found


def near_config(path: str | Path) -> str:
    """Return '; did you mean X?' for the file beside `path` with the nearest name, or an empty string."""
    path = Path(path)
    return suggest(str(path), [str(other) for other in path.parent.glob("*.yml")])


def _measuring(paths: Iterable[Path]) -> list[Path]:
    found = (config for path in paths for config in _that_name("latency_dataset", "lat-dataset-path", path))
    return list(dict.fromkeys(found))


def _latency_data(name: str) -> list[str]:
    known = name in latency_data_names(_released())
    return ["python download_model.py --latency-data"] if known else []


def _that_name(kind: str, key: str, wanted: str | Path | None) -> Iterator[Path]:
    """Yield the task configurations of one kind in which `key` is the path `wanted`."""
    if wanted is None:
        return
    for config in sorted(Path("configs").glob(f"*/{kind}/*.yml")):
        try:
            with open_config(str(config)) as file:
                value, _ = read_flat_yaml(file).get(key, ("", 0))
        except HatError:
            continue  # it is another file that is in question
        if isinstance(value, str) and value and Path(value).resolve() == Path(wanted).resolve():
            yield config


def _released() -> tuple[ReleasedModel, ...]:
    try:
        return released_models()
    except DataError:
        return ()  # an installation without configs/
