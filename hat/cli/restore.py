"""Take up a checkpoint: is it of this space, with these dictionaries, and what does it continue?"""

from dataclasses import replace
from pathlib import Path

from hat.arch.config import Arch
from hat.arch.space import SearchSpace
from hat.cli.missing import advice, checkpoint_commands
from hat.cli.task import Vocabulary, check_dictionaries
from hat.errors import CheckpointError
from hat.model.config import ModelConfig
from hat.model.transformer import Transformer
from hat.train.checkpoint import Checkpoint

_STRUCTURE = (
    "share_all_embeddings",
    "share_decoder_input_output_embed",
    "encoder_normalize_before",
    "decoder_normalize_before",
    "vocab_original_scaling",
)


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
    source: Checkpoint, where: Path, space: SearchSpace, model: ModelConfig, vocab: Vocabulary
) -> Checkpoint:
    """Return `source` with this run's dropout.

    Raises CheckpointError where it belongs to another space, other data or another kind of model.
    """
    if source.space != space:
        different = [
            f"{part} {getattr(source.space, part)} there, {getattr(space, part)} here"
            for part in ("encoder", "decoder", "qkv_dim")
            if getattr(source.space, part) != getattr(space, part)
        ]
        raise CheckpointError(
            f"{where} belongs to another search space: {'; '.join(different)}; use the configuration it was "
            "trained with"
        )
    check_dictionaries(source, vocab, where)
    for name in _STRUCTURE:
        if getattr(source.model_config, name) != getattr(model, name):
            raise CheckpointError(
                f"{where} was trained with {name.replace('_', '-')} {getattr(source.model_config, name)}, "
                "this "
                f"run asks for {getattr(model, name)}; use the configuration it was trained with"
            )
    return replace(source, model_config=model)


def model_of(source: Checkpoint, where: Path, arch: Arch | None) -> Transformer:
    """Return the stand-alone `arch` from a checkpoint, or its SuperTransformer where `arch` is None."""
    if arch is not None:
        return source.sub(arch)
    if source.arch is not None:
        raise CheckpointError(f"{where} holds a SubTransformer; a SuperTransformer checkpoint is needed here")
    return source.model()
