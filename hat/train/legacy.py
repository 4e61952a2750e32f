"""Checkpoints of the 2020 release: the only place that knows their parameter names and options."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hat.errors import CheckpointError, HatError, brief
from hat.model.layers import ModelConfig
from hat.space import DIMS, ArchOptions, SearchSpace, SpaceOptions
from hat.train.checkpoint import Checkpoint, as_float, check_weights

_RENAMED = {  # parts of their names -> of ours, replaced one after another; `_weights` does cross attention
    "coder.layers.": "coder_layers.",
    "coder.layer_norm.": "coder_norm.",
    "encoder.embed_tokens.": "source_embed.",
    "decoder.embed_tokens.": "target_embed.",
    "decoder.embed_out": "output.weight",
    "encoder_attn": "cross_attn",
    "_attn_layer_norm.": "_norm.",
    "final_layer_norm.": "ffn_norm.",
    "fc1.": "ffn.up.",
    "fc2.": "ffn.down.",
    "self_attn.in_proj_": "self_attn.qkv.",
    ".out_proj.": ".out.",
}


def from_release(values: dict[str, Any], path: Path) -> Checkpoint:
    """Return the SuperTransformer in `values`, the content of the file `path`, in float32; the `model` entry
    is used up, so that no weight exists twice. A released SubTransformer is the SuperTransformer it was
    trained in, in a space of its choices only: `Checkpoint.sub` cuts it out. Raises CheckpointError if
    options or weights are not those of such a model.
    """
    try:
        space, cfg = _space(values["args"]), _model_config(values["args"])
        weights = _weights(values["model"], space.decoder_qkv_dim)
        source, target = weights["source_embed.weight"], weights["target_embed.weight"]
        if cfg.share_all_embeddings and not torch.equal(source, weights.pop("target_embed.weight")):
            raise ValueError("its embeddings differ, though its options say that they are shared")
        found = Checkpoint(space, None, cfg, (source.size(0), target.size(0)), ("", ""), weights, {})
        check_weights(found)
    except (LookupError, AttributeError, RuntimeError, TypeError, ValueError, HatError) as error:
        why = f"it has no {brief(error)}" if isinstance(error, KeyError) else brief(error)
        how = "fetch it again with download_model.py, or use a checkpoint written by train.py"
        raise CheckpointError(f"{path} is no whole checkpoint of the 2020 release: {why}; {how}") from error
    return found


def _weights(model: dict[str, Tensor], qkv_dim: int) -> dict[str, Tensor]:
    """Return the weights in float32 under our names; `model` is empty afterwards."""
    for name in [name for name in model if name.endswith((".version", "._float_tensor"))]:  # carry nothing
        del model[name]
    found = {}
    for name, weight in as_float(model).items():
        for theirs, ours in _RENAMED.items():
            name = name.replace(theirs, ours)
        found[name] = weight
    # Query, key and value of cross attention are one entry, or one each if the widths of both sides differ;
    # then the bias is one vector still. Ours are the query, and keys and values together.
    for name in [name for name in found if ".cross_attn.in_proj_" in name]:
        whole, (prefix, _, end) = found.pop(name), name.rpartition("in_proj_")
        found[f"{prefix}q.{end}"] = whole[:qkv_dim].clone()
        found[f"{prefix}kv.{end}"] = whole[qkv_dim:].clone()
    for name in [name for name in found if name.endswith(".cross_attn.q_proj_weight")]:
        prefix = name.removesuffix("q_proj_weight")
        found[f"{prefix}q.weight"] = found.pop(name)
        found[f"{prefix}kv.weight"] = torch.cat([found.pop(f"{prefix}{side}_proj_weight") for side in "kv"])
    return found


def _space(args: dict[str, Any]) -> SearchSpace:
    """Return the space; a released SubTransformer's is what it uses: its options hold wrong defaults."""
    names = [f.name for group in (SpaceOptions, ArchOptions) for f in fields(group)]
    given = {name.replace("_", "-"): args[name] for name in names if args.get(name) is not None}
    left_out = {dim.arch_key for dim in DIMS}
    if args.get("train_subtransformer") is not False and left_out & given.keys():
        left_out = {dim.choice_key for dim in DIMS}
    return SearchSpace.from_yaml({key: value for key, value in given.items() if key not in left_out})


def _model_config(args: dict[str, Any]) -> ModelConfig:
    fixed = {"no_token_positional_embeddings": False, "activation_fn": "relu"}
    for name, supported in fixed.items():  # the same in every model of ours
        if (value := args.get(name)) not in (None, supported):
            raise ValueError(f"its option {name} is {brief(value)}, supported is {supported}")
    given = {f.name: args[f.name] for f in fields(ModelConfig) if args.get(f.name) is not None}
    if not given.get("activation_dropout") and args.get("relu_dropout") is not None:
        given["activation_dropout"] = args["relu_dropout"]  # its older name
    if given.get("share_all_embeddings"):  # the release then sets the other as well, whatever was asked for
        given["share_decoder_input_output_embed"] = False
    for f in fields(ModelConfig):
        value = given.get(f.name, f.default)
        if type(value) is not f.type and not (f.type is float and type(value) is int):
            raise ValueError(f"its option {f.name} is {brief(value)}")
    return ModelConfig(**given)
