"""Take up a checkpoint: is it of this space, with these dictionaries, and what does it continue?"""

from dataclasses import replace
from pathlib import Path

import torch

from hat.cli.missing import advice, checkpoint_commands
from hat.cli.task import Vocabulary, check_dictionaries, dtype_of
from hat.errors import ArchError, CheckpointError
from hat.model.config import ModelConfig
from hat.model.precision import Amp
from hat.model.transformer import Transformer
from hat.space import Arch, SearchSpace
from hat.train.checkpoint import Checkpoint


def find_checkpoint(name: str, folder: Path | None = None) -> Path:
    """Return the checkpoint a user names; a bare file name may also mean one in the run's folder."""
    path = Path(name)
    if not path.exists() and folder is not None and path.parent == Path("."):
        path = folder / name
    if not path.exists():
        how = advice(checkpoint_commands(path), "check the path, or train that model first")
        raise CheckpointError(f"the checkpoint {name} does not exist; {how}")
    return path


def adapt(
    source: Checkpoint,
    where: Path,
    space: SearchSpace,
    arch: Arch | None,
    model: ModelConfig,
    vocab: Vocabulary,
) -> Checkpoint:
    """Return `source` with this run's choices and dropout.

    Raises CheckpointError where it has other sizes, other data or is another kind of model, or was not
    trained for `arch` or, where that is None, for a choice of `space`.
    """
    different = [
        f"{key} {there} there, {space.sizes[key]} here"
        for key, there in source.space.sizes.items()
        if there != space.sizes[key]
    ]
    if different:
        raise CheckpointError(
            f"{where} belongs to another search space: {'; '.join(different)}; use the configuration it was "
            "trained with"
        )
    if source.arch is None:
        _check_trained(source.space, where, space, arch)
    check_dictionaries(source, vocab, where)
    asked = model.structure
    for key, there in source.model_config.structure.items():
        if there != asked[key]:
            raise CheckpointError(
                f"{where} was trained with {key} {there}, this run asks for {asked[key]}; use the "
                "configuration it was trained with"
            )
    return replace(source, model_config=model, space=space)


def _check_trained(trained: SearchSpace, where: Path, space: SearchSpace, arch: Arch | None) -> None:
    """Raise CheckpointError where slices are asked for that a SuperTransformer was never trained for."""
    if arch is not None:
        try:
            trained.check(arch)
        except ArchError as error:
            raise CheckpointError(f"{where} was not trained for this architecture: {error}") from error
    for key, values in space.choices.items() if arch is None else ():
        if untrained := sorted(set(values) - set(trained.choices[key])):
            raise CheckpointError(
                f"{where} was not trained for {untrained} of {key}, only for {list(trained.choices[key])}; "
                "leave that out of the search space"
            )


def evaluation_dtype(source: Checkpoint, amp: Amp, fp16: bool, device: torch.device) -> torch.dtype:
    """Return the compute type of `--amp`.

    Weights of the 2020 release, known by their lack of dictionaries, are evaluated in float32 as they were
    then, where nothing else is asked for.
    """
    if amp == "auto" and not fp16 and not any(source.vocab_digests):
        return torch.float32
    return dtype_of(amp, fp16, device)


def model_of(source: Checkpoint, where: Path, arch: Arch | None) -> Transformer:
    """Return the stand-alone `arch` from a checkpoint, or its SuperTransformer where `arch` is None."""
    if arch is not None:
        return source.sub(arch)
    if source.arch is not None:
        raise CheckpointError(f"{where} holds a SubTransformer; a SuperTransformer checkpoint is needed here")
    return source.model()
