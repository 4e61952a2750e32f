"""Checkpoints: one file of plain types and tensors, a digest beside it, strict in what it loads."""

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hat.errors import ArchError, CheckpointError, ConfigError, HatError, brief
from hat.files.atomic import digest_path, write_with_digest
from hat.log import info
from hat.model.cpu import Amp
from hat.model.layers import ModelConfig
from hat.model.transformer import SubTransformer, SuperTransformer, Transformer, extract
from hat.run import Identity, Run, digest_of, read_record, record_path, training_settings
from hat.space import DIMS, Arch, SearchSpace, space_from_plain
from hat.train.trainer import amp_dtype

if TYPE_CHECKING:
    from hat.data.dataset import Dataset
    from hat.decode.translator import Model

# hat_format of a file is 2 if it holds master weights beside their moving average, else 1
_NAMES = re.compile(r"checkpoint(\d+)\.pt|checkpoint_(\d+)_(\d+)\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """What one file holds. `arch` is None for a SuperTransformer, `state` what resuming needs. If `weights`
    are a moving average, which is searched and inherited, training goes on from `master`.
    """

    space: SearchSpace
    arch: Arch | None
    model_config: ModelConfig
    vocab_sizes: tuple[int, int]
    vocab_digests: tuple[str, str]  # of both dictionaries, "" if they are not known
    weights: dict[str, Tensor]
    state: dict[str, Any]  # "run" in it is the digest of the identity of the training, if that is known
    master: dict[str, Tensor] | None = None
    codec: dict[str, Any] | None = None  # plain values of a TextCodec, if the file is to translate by itself

    def empty(self) -> Transformer:
        """Return the model without memory for its weights."""
        with torch.device("meta"):
            if self.arch is None:
                return SuperTransformer(self.space, self.vocab_sizes, self.model_config)
            return SubTransformer(self.space, self.arch, self.vocab_sizes, self.model_config)

    def model(self) -> Transformer:
        """Return the model with these weights, of exactly the size they have."""
        (model := self.empty()).load_weights(self.weights)
        return model

    def sub(self, arch: Arch | None) -> Transformer:
        """Return the model of `arch`, of None the SuperTransformer; CheckpointError if it holds another."""
        if self.arch == arch:
            return self.model()
        if self.arch is None and arch is not None:
            return extract(self.model(), arch)
        other = "another SubTransformer than the one asked for" if arch else "a SubTransformer"
        how = "give a SuperTransformer checkpoint, or the architecture YAML it was trained with"
        raise CheckpointError(f"the checkpoint holds {other}; {how}")


def pack(
    model: Transformer, vocab_digests: Any = ("", ""), state: Any = None, master: Transformer | None = None
) -> Checkpoint:
    """Return a checkpoint of `model`, whose tensors are no copies; `master` is what training goes on from."""

    def weights_of(model: Transformer) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in model.named_parameters()}

    arch = model.arch if isinstance(model, SubTransformer) else None
    kept = None if master in (None, model) else weights_of(master)
    known = model.space, arch, model.cfg, model.vocab_sizes, vocab_digests
    return Checkpoint(*known, weights_of(model), state or {}, kept)


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what model a checkpoint holds, in plain values."""
    arch = checkpoint.arch.to_yaml() if checkpoint.arch else None
    known = {name: list(getattr(checkpoint, name)) for name in ("vocab_sizes", "vocab_digests")}
    parts = {name: asdict(getattr(checkpoint, name)) for name in ("space", "model_config")}
    return {"arch": arch, **parts, **known}


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the file content."""
    held = {name: getattr(checkpoint, name) for name in ("weights", "state", "master", "codec")}
    values = {"hat_format": 1 if checkpoint.master is None else 2} | describe(checkpoint)
    torch.save(values | {k: v for k, v in held.items() if v is not None}, buffer := io.BytesIO())
    return buffer.getvalue()


def save(checkpoint: Checkpoint, *paths: Path) -> None:
    """Write one content under each of `paths`, each file whole or not at all, with its digest beside it."""
    content = to_bytes(checkpoint)
    for path in paths:
        write_with_digest(path, content)


def load(path: Path, info: Callable[[str], None] = lambda text: None) -> Checkpoint:
    """Return the checkpoint in `path`, a file of this system or of 2020, or a bundle, with weights in
    float32. Raises CheckpointError if it is missing, damaged, newer, or does not fit its own description.
    """
    from hat.files.tensors import read_verified  # late: a run that starts anew reads no checkpoint

    if (path / "config.json").is_file():
        from hat.runtimes.bundle import read_bundle  # late: it loads safetensors

        return _checkpoint(read_bundle(path), path)
    # with restrictions, our own files too: anyone can write `hat_format` into one
    values, verified = read_verified(path, "checkpoint", "check the path, or train the model first")
    if not verified:
        info(f"{path} has no {digest_path(path).name} beside it; its content cannot be verified")
    if isinstance(values, dict) and all(isinstance(values.get(key), dict) for key in ("args", "model")):
        from hat.train.legacy import from_release  # late: it builds a Checkpoint

        info(f"{path} is a checkpoint of the 2020 release; with which dictionaries it was made is not known")
        return from_release({key: values[key] for key in ("args", "model")}, path)
    number = values.get("hat_format") if isinstance(values, dict) else None
    if type(number) is not int or number not in (1, 2):
        what = f"checkpoint of this system that this version reads, nor one of 2020 (format {brief(number)})"
        how = "give a .pt file written by train.py or download_model.py, or upgrade"
        raise CheckpointError(f"{path} is not a {what}; {how}")
    return _checkpoint(values, path)


def _checkpoint(values: dict[str, Any], path: Path) -> Checkpoint:
    try:
        space, cfg = space_from_plain(values["space"]), ModelConfig(**values["model_config"])
        arch = None if values["arch"] is None else Arch.from_yaml(values["arch"])
        known = tuple(values["vocab_sizes"]), tuple(values["vocab_digests"]), as_float(values["weights"])
        master = as_float(values["master"]) if values["hat_format"] == 2 else None
        checkpoint = Checkpoint(space, arch, cfg, *known, dict(values["state"]), master, values.get("codec"))
        check_weights(checkpoint)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, ArchError, ConfigError) as error:
        raise CheckpointError(f"{path} does not describe a model of this system: {brief(error)}") from error
    return checkpoint


def as_float(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in float32; each is gone from `weights` by then, so that few exist twice."""
    if wrong := [name for name, weight in weights.items() if not weight.is_floating_point()]:
        raise ValueError(f"the weight {wrong[0]} is no tensor of real numbers")
    return {name: weights.pop(name).float() for name in list(weights)}


def check_weights(checkpoint: Checkpoint) -> None:
    """Raise ValueError if the weights are not those of the model that the checkpoint describes."""
    layers = checkpoint.space.encoder.super_layers + checkpoint.space.decoder.super_layers
    if layers > len(checkpoint.weights):  # building what only a number asks for may never end
        raise ValueError(f"it says {layers} layers, but has {len(checkpoint.weights)} weights")
    needed = {name: tuple(weight.shape) for name, weight in checkpoint.empty().named_parameters()}
    for weights in filter(None, (checkpoint.weights, checkpoint.master)):
        found = {name: tuple(weight.shape) for name, weight in weights.items()}
        for name in sorted(needed.keys() | found.keys()):
            if needed.get(name) != found.get(name):
                shapes = f"{found.get(name)}, its architecture needs {needed.get(name)}"
                raise ValueError(f"weight {name} has shape {shapes}")


def save_model(model: "Model", path: Path | str) -> None:
    """Write a model with its dictionaries and subword model into one file, with its digest beside it."""
    codec = None if model.codec is None else model.codec.to_plain()
    save(replace(pack(model.network, model.digests), codec=codec), Path(path))


def load_model(path: Path | str, dataset: "Dataset | None" = None) -> "Model":
    """Return the model in a checkpoint, also of 2020; one architecture stands alone. Its dictionaries are
    those in the file, of `dataset`, or of the folder in the record of the training; without them it cannot
    translate. Raises CheckpointError if the file is damaged, or `dataset` has other dictionaries.
    """
    from hat.data.dataset import Dataset
    from hat.data.subwords import TextCodec
    from hat.decode.translator import Model

    path = Path(path)
    found = load(path, info)
    if found.arch is None and (only := found.space.largest()) == found.space.smallest():
        found = pack(found.sub(only), found.vocab_digests)  # as a released SubTransformer is stored
    if dataset is not None:
        check_dictionaries(found, dataset, path)
    elif found.codec is None:
        data, *langs = map(training_settings(path).get, ("data", "source-lang", "target-lang"))
        recorded = Dataset.load(data, *langs) if data and Path(data).is_dir() else None
        dataset = recorded if recorded and recorded.digests == found.vocab_digests else None
    if dataset is not None:
        return Model(found.model(), dataset.codec, dataset.digests)
    codec = None if found.codec is None else TextCodec.from_plain(found.codec)
    return Model(found.model(), codec, found.vocab_digests)


def leave_bundle(checkpoint: Path, facts: Mapping[str, Any] | None = None, anew: bool = True) -> Path | None:
    """Write the bundle of a checkpoint that a run has made, with what is known of it and `facts`, and return
    its folder: `bundle` in a folder of training, elsewhere the file's name with `.bundle`; None if it cannot.
    Unless `anew`, a whole one stays: an average may have replaced it.
    """
    from hat.runtimes.bundle import bundle_of, known_facts, save_bundle  # late: training translates nothing

    folder = bundle_of(checkpoint)
    if not anew and folder.is_dir() and known_facts(folder):
        return folder
    try:
        save_bundle(load_model(checkpoint), folder, known_facts(checkpoint) | dict(facts or {}))
        how = f"wherever it is moved: hat translate --model={folder}"
        info(f"{folder} translates as {checkpoint.name}, {how}")
        return folder
    except HatError as error:
        how = f"hat export --to=bundle --model={checkpoint} --data=FOLDER --output={folder}"
        info(f"no bundle of {checkpoint}: {error}; {how} makes one")
        return None


def load_newest(folder: Path, info: Callable[[str], None], run: str | None = None) -> Checkpoint | None:
    """Return the newest readable checkpoint of a run, or None if there is none. `run` is the digest of its
    identity, None for any run. Says so if it falls back. Raises CheckpointError if none can be read, or if
    the newest would be overwritten: it holds nothing to go on from, or belongs to another run.
    """
    last, best = folder / "checkpoint_last.pt", folder / "checkpoint_best.pt"
    candidates = [path for path in (last, *numbered(folder), best) if path.exists()]
    for path in candidates:
        try:
            checkpoint = load(path, info)
        except CheckpointError as error:
            info(f"{error}; trying the one before it")
            continue
        ours = run in (None, checkpoint.state.get("run"))
        if "trainer" in checkpoint.state and ours:
            return checkpoint
        why = "belongs to another run" if not ours else "holds weights, but no state to go on with"
        if ours or path in (last, best):
            how = "give another --save-dir, and --restore-file to start from it there"
            raise CheckpointError(f"{path} {why}, and this run would overwrite it; {how}")
        info(f"{path} {why}; trying the one before it")
    if candidates:
        raise CheckpointError(f"no checkpoint in {folder} can be read; move all {len(candidates)} away")
    return None


def numbered(folder: Path) -> list[Path]:
    """Return checkpoint{epoch}.pt and checkpoint_{epoch}_{update}.pt of a run, the newest first."""
    found = ((_NAMES.fullmatch(path.name), path) for path in folder.glob("checkpoint*.pt"))
    # the checkpoint of an epoch's end comes after all within that epoch
    keys = [(int(m[1] or m[2]), float(m[3] or "inf"), path) for m, path in found if m]
    return [path for *_, path in sorted(keys, reverse=True)]


def rotate(folder: Path, saved: Sequence[str], keep_epochs: int, keep_within: int) -> None:
    """Remove all but the newest checkpoints of `saved`, of epochs' ends and within epochs; -1 keeps all."""
    for within, keep in ((False, keep_epochs), (True, keep_within)):
        of_kind = [name for name in saved if name.startswith("checkpoint_") == within]
        for name in of_kind[: max(0, len(of_kind) - keep)] if keep >= 0 else []:
            (folder / name).unlink(missing_ok=True)
            digest_path(folder / name).unlink(missing_ok=True)


def content_of(model: "Path | str | Model | Transformer") -> str:
    """Return the SHA-256 of a checkpoint file, or of the weights of a model; a text is a SHA-256 already."""
    if isinstance(model, Path | str):
        return digest_of(model)
    digest = hashlib.sha256()
    for tensor in getattr(model, "network", model).state_dict().values():
        digest.update(tensor.cpu().float().numpy().tobytes())
    return digest.hexdigest()


def average(
    inputs: Sequence[Path | str], output: Path | str | None = None, *, num_epoch_checkpoints: int = 10
) -> tuple[Path, list[Path]]:
    """Write the mean of the weights of several checkpoints of one model; returns its path and theirs. That of
    a SubTransformer leaves a bundle. `inputs` are checkpoint files, or one run folder, whose newest epoch
    checkpoints are taken; default of `output`: average_model_N.pt there. Raises CheckpointError if there are
    none, models differ, the mean is not finite, or `output` is of training.
    """
    paths, most = [Path(name) for name in inputs], num_epoch_checkpoints
    folder = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
    if not folder and output is None:
        raise ConfigError("--output is needed if the inputs are single files")
    target = Path(output or paths[0] / f"average_model_{most}.pt")
    own = target.name in ("checkpoint_last.pt", "checkpoint_best.pt") or _NAMES.fullmatch(target.name)
    if own and target.exists():
        raise CheckpointError(f"{target} is a checkpoint of training; give another file as --output")
    used, runs, first, total = list[Path](), set[str | None](), None, dict[str, Tensor]()
    for path, found in _of_run(folder, most) if folder else ((path, load(path, info)) for path in paths):
        if first and describe(found) != describe(first):
            both = f"{path} and {used[0]} hold different models"
            raise CheckpointError(f"{both}; average checkpoints of one run")
        total = {name: weight.double() + total.get(name, 0) for name, weight in found.weights.items()}
        first = first or replace(found, state={}, master=None)
        used.append(path)
        runs.add(found.state.get("run"))
    if first is None:
        raise CheckpointError(f"{folder} holds no checkpointN.pt of its run; train with --save-interval")
    if folder and len(used) < most:
        info(f"{folder} holds {len(used)} epoch checkpoints of its run, not {most}; averaging those")
    if not folder and len(runs) > 1:
        info(f"the checkpoints are of {len(runs)} different runs")
    means = {name: (weight / len(used)).float() for name, weight in total.items()}
    if not all(bool(mean.isfinite().all()) for mean in means.values()):
        raise CheckpointError(f"{used[0]} or another of them holds numbers that are not finite; leave it out")
    settings = {"num-epoch-checkpoints": most, "inputs": [str(path) for path in used]}
    made_from = Identity.of("average", inputs={f"checkpoint {n}": path for n, path in enumerate(used, 1)})
    how: dict[str, Any] = {"settings": settings, "identity": made_from, "goes_on": False}
    with Run(record_path(target, folder=False), "average", **how) as run:
        save(replace(first, weights=means), target)
        run.vouch(target)
    if first.arch:
        leave_bundle(target)
    return target, used


def _of_run(folder: Path, most: int) -> Iterator[tuple[Path, Checkpoint]]:
    record = read_record(folder, folder=True, note=info)
    run = record.identity.digest if record.kind else None  # else that of the newest one
    for path in numbered(folder):
        if path.name.startswith("checkpoint_") or not most:
            continue
        found = load(path, info)
        own = found.state.get("run", "")
        run = own if run is None else run
        if own == run:
            most -= 1
            yield path, found
        else:
            info(f"{path} belongs to another run; it is left out")


def check_compatible(
    source: Checkpoint, where: Path, space: SearchSpace, arch: Arch | None, model: ModelConfig, data: Any
) -> Checkpoint:
    """Return `source` with the choices of `space` and the dropout of `model`. `arch` is None for a
    SuperTransformer; `data` is the data set. Raises CheckpointError if the checkpoint has other sizes, other
    dictionaries or another structure, or was not trained for `arch` or for a choice of `space`.
    """
    trained = source.space

    def refuse_other(what: str, there: dict[str, Any], here: dict[str, Any]) -> None:
        for key, value in there.items():
            if value != here[key]:
                differ = f"{where} {what}: {key} {value} there, {here[key]} here"
                raise CheckpointError(f"{differ}; use the configuration it was trained with")

    refuse_other("belongs to another search space", trained.sizes, space.sizes)
    if source.arch is None and arch is not None:
        try:
            trained.check(arch)
        except ArchError as error:
            raise CheckpointError(f"{where} was not trained for this architecture: {error}") from error
    for dim in DIMS if source.arch is None and arch is None else ():
        if untrained := sorted(set(space[dim]) - set(trained[dim])):
            what = f"{untrained} of {dim.choice_key}, only for {list(trained[dim])}"
            raise CheckpointError(f"{where} was not trained for {what}; leave that out of the search space")
    check_dictionaries(source, data, where)
    refuse_other("was trained with another structure", source.model_config.structure, model.structure)
    return replace(source, model_config=model, space=space)


def check_dictionaries(source: Checkpoint, data: Any, where: Path) -> None:
    """Raise CheckpointError if a checkpoint was trained with other dictionaries than those of `data`."""
    if source.vocab_sizes != data.vocab_sizes:
        differ = f"{where} has vocabularies of {source.vocab_sizes}, the data of {data.vocab_sizes}"
        raise CheckpointError(f"{differ}; use the data it was trained with (--data)")
    if all(source.vocab_digests) and all(data.digests) and source.vocab_digests != data.digests:
        raise CheckpointError(f"{where} was trained with other dictionaries of the same size; check --data")


def evaluation_dtype(source: Checkpoint, amp: Amp, device: torch.device) -> torch.dtype:
    """Return the type of `--amp` for evaluating; "auto" is float32 for 2020 weights (no dictionaries)."""
    if amp == "auto" and not any(source.vocab_digests):
        return torch.float32
    return amp_dtype(amp, device)
