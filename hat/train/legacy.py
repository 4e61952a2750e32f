"""Checkpoints of the 2020 release: the only place that knows their parameter names and options."""

import re
import reprlib
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hat.errors import ArchError, CheckpointError, ConfigError
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import ArchOptions, SearchSpace, SpaceOptions, arch_of, space_of
from hat.train.checkpoint import Checkpoint

# Of a width, a depth or a number of positions: the position table has no weights to prove it.
MAX_SIZE = 1 << 14

_OURS = {  # our parameter -> theirs, as patterns; the projections of attention follow in `_parts`
    r"source_embed\.weight": "encoder.embed_tokens.weight",
    r"target_embed\.weight": "decoder.embed_tokens.weight",
    r"output\.weight": "decoder.embed_out",
    r"(encoder|decoder)_norm\.(\w+)": r"\1.layer_norm.\2",
    r"(encoder|decoder)_layers\.(\d+)\.self_norm\.(\w+)": r"\1.layers.\2.self_attn_layer_norm.\3",
    r"decoder_layers\.(\d+)\.cross_norm\.(\w+)": r"decoder.layers.\1.encoder_attn_layer_norm.\2",
    r"(encoder|decoder)_layers\.(\d+)\.ffn_norm\.(\w+)": r"\1.layers.\2.final_layer_norm.\3",
    r"(encoder|decoder)_layers\.(\d+)\.ffn\.up\.(\w+)": r"\1.layers.\2.fc1.\3",
    r"(encoder|decoder)_layers\.(\d+)\.ffn\.down\.(\w+)": r"\1.layers.\2.fc2.\3",
    r"(encoder|decoder)_layers\.(\d+)\.self_attn\.qkv\.(\w+)": r"\1.layers.\2.self_attn.in_proj_\3",
    r"(encoder|decoder)_layers\.(\d+)\.self_attn\.out\.(\w+)": r"\1.layers.\2.self_attn.out_proj.\3",
    r"decoder_layers\.(\d+)\.cross_attn\.out\.(\w+)": r"decoder.layers.\1.encoder_attn.out_proj.\2",
}
_CROSS = re.compile(r"decoder_layers\.(\d+)\.cross_attn\.(q|kv)\.(weight|bias)")
_EMPTY = (".version", "._float_tensor")  # endings of entries that carry nothing
_FIXED = {"no_token_positional_embeddings": False, "activation_fn": "relu"}  # the same in every model of ours


def is_release(values: Any) -> bool:
    """Return whether the content of a file looks like a checkpoint of the release."""
    return isinstance(values, dict) and all(isinstance(values.get(key), dict) for key in ("args", "model"))


def from_release(values: dict[str, Any], path: Path) -> Checkpoint:
    """Return the SuperTransformer in `values`, the content of the file `path`.

    Its `model` entry is used up, so that no weight exists twice at a time. Weights become float32. A released
    SubTransformer is kept as the SuperTransformer it was trained in, in a space that holds its choices only,
    for the rest of the weights is untrained: `Checkpoint.sub` cuts it out. Raises CheckpointError if the
    options or the weights are not those of such a model.
    """
    try:
        space, cfg = _space(values["args"]), _model_config(values["args"])
        weights = _Weights(values["model"])
        if space.encoder.super_layers + space.decoder.super_layers > len(weights.left):
            raise CheckpointError("its options say more layers than it has weights")
        sizes = (weights.rows("encoder.embed_tokens.weight"), weights.rows("decoder.embed_tokens.weight"))
        with torch.device("meta"):
            skeleton = SuperTransformer(space, sizes, cfg)
        if cfg.share_all_embeddings:
            weights.drop_copy("decoder.embed_tokens.weight", "encoder.embed_tokens.weight")
        ours = {
            name: weights.take(name, tuple(parameter.shape), space.decoder_qkv_dim)
            for name, parameter in skeleton.named_parameters()
        }
        weights.expect_none()
    except (ArchError, ConfigError, CheckpointError) as error:
        raise CheckpointError(
            f"{path} is no whole checkpoint of the 2020 release: {error}; "
            "fetch it again with download_model.py, or use a checkpoint written by train.py"
        ) from error
    return Checkpoint(space, None, cfg, sizes, ("", ""), ours, {})


class _Weights:
    """The release's weights by their names; what is taken is gone."""

    def __init__(self, model: dict[str, Any]) -> None:
        self.left = model
        for name in [name for name in model if isinstance(name, str) and name.endswith(_EMPTY)]:
            del model[name]
        for name, weight in model.items():
            if not isinstance(weight, Tensor) or not weight.is_floating_point():
                raise CheckpointError(f"the weight {_short(name)} is no tensor of real numbers")

    def rows(self, name: str) -> int:
        """Return the length of a matrix."""
        self._expect(name)
        if self.left[name].dim() != 2:
            raise CheckpointError(f"{name} has shape {tuple(self.left[name].shape)}, expected a matrix")
        return self.left[name].size(0)

    def drop_copy(self, copy: str, original: str) -> None:
        """Remove the second of two equal entries."""
        if not torch.equal(self.left[copy], self.left[original]):
            raise CheckpointError(
                f"{copy} and {original} differ, though its options say that they are shared"
            )
        del self.left[copy]

    def take(self, name: str, shape: tuple[int, ...], qkv_dim: int) -> Tensor:
        """Return the weight of our parameter `name` as float32; nothing else refers to its memory."""
        parts = [self._rows_of(source, rows) for source, rows in self._parts(name, qkv_dim)]
        found = (sum(part.size(0) for part in parts), *parts[0].shape[1:])
        if found != shape or any(part.shape != parts[0].shape for part in parts):
            sources = " and ".join(source for source, _ in self._parts(name, qkv_dim))
            raise CheckpointError(f"{sources} has shape {found}, its options need {shape}")
        weight = torch.cat(parts).float().contiguous()
        for source, rows in self._parts(name, qkv_dim):
            if rows.stop is None:  # the last part of an entry
                del self.left[source]
        return weight

    def expect_none(self) -> None:
        """Raise CheckpointError if a weight has not been taken."""
        if self.left:
            first = next(iter(self.left))
            raise CheckpointError(
                f"{len(self.left)} weights have no place in the model, the first is {_short(first)}"
            )

    def _expect(self, name: str) -> None:
        if name not in self.left:
            raise CheckpointError(f"the weight {name} is missing")

    def _rows_of(self, name: str, rows: slice) -> Tensor:
        self._expect(name)
        if not self.left[name].dim():
            raise CheckpointError(f"{name} is a single number")
        return self.left[name][rows]

    def _parts(self, name: str, qkv_dim: int) -> list[tuple[str, slice]]:
        """Return the release's entries and rows that make our parameter `name`."""
        cross = _CROSS.fullmatch(name)
        if cross is None:
            for pattern, theirs in _OURS.items():
                if re.fullmatch(pattern, name):
                    return [(re.sub(pattern, theirs, name), slice(None))]
            raise AssertionError(name)
        layer, part, kind = cross.groups()
        prefix = f"decoder.layers.{layer}.encoder_attn."
        if kind == "weight" and f"{prefix}in_proj_weight" not in self.left:
            # encoder and decoder widths differ: one matrix each, while the bias is one vector still
            return [(f"{prefix}{letter}_proj_weight", slice(None)) for letter in part]
        rows = slice(qkv_dim) if part == "q" else slice(qkv_dim, None)
        return [(f"{prefix}in_proj_{kind}", rows)]


def _space(args: dict[str, Any]) -> SearchSpace:
    """Return the search space of the options.

    Options of a released SubTransformer hold no choices of its space, but defaults that contradict it; there
    the space is what the architecture uses.
    """
    given = _given(args, SpaceOptions)
    arch = arch_of(ArchOptions(**_given(args, ArchOptions)))
    if arch is None or args.get("train_subtransformer") is False:
        return space_of(SpaceOptions(**given))
    sizes = {name: value for name, value in given.items() if not name.endswith("_choice")}
    return space_of(SpaceOptions(**sizes), arch)


def _model_config(args: dict[str, Any]) -> ModelConfig:
    """Return the options of the model; raises CheckpointError for one that ours does not have."""
    for name, supported in _FIXED.items():
        value = args.get(name, supported)
        if value is not None and (type(value) is not type(supported) or value != supported):
            raise CheckpointError(f"its option {name} is {_short(value)}, supported is {supported}")
    given = _given(args, ModelConfig)
    if not given.get("activation_dropout") and type(args.get("relu_dropout")) in (int, float):
        given["activation_dropout"] = args["relu_dropout"]  # its older name
    if given.get("share_all_embeddings"):  # the release then sets the other as well, whatever was asked for
        given["share_decoder_input_output_embed"] = False
    return ModelConfig(**given)


def _given(args: dict[str, Any], group: type) -> dict[str, Any]:
    """Return the options of the dataclass `group` that `args` sets; a wrong type is a CheckpointError."""
    found = {}
    for f in fields(group):
        value = args.get(f.name)
        if value is None:
            continue
        if typing.get_origin(f.type) is tuple:
            right = isinstance(value, list | tuple) and all(_is_size(number, lowest=-1) for number in value)
            value = tuple(value) if right else value
        elif f.type in (bool, float):
            right = type(value) is bool if f.type is bool else type(value) in (int, float)
        else:
            right = _is_size(value)
        if not right:
            raise CheckpointError(f"its option {f.name} is {_short(value)}")
        found[f.name] = value
    return found


def _is_size(number: Any, lowest: int = 1) -> bool:
    return type(number) is int and lowest <= number <= MAX_SIZE


def _short(value: Any) -> str:
    """Return the value in a few printable characters."""
    return ascii(value[:100] if isinstance(value, str) else reprlib.repr(value))[1:-1]
