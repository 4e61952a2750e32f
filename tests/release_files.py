"""Small checkpoints as the 2020 release wrote them, made of our models."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import SpaceOptions

RENAMED = [  # ours -> theirs, in this order
    ("encoder_layers", "encoder.layers"),
    ("decoder_layers", "decoder.layers"),
    ("source_embed", "encoder.embed_tokens"),
    ("target_embed", "decoder.embed_tokens"),
    ("output.weight", "decoder.embed_out"),
    ("encoder_norm", "encoder.layer_norm"),
    ("decoder_norm", "decoder.layer_norm"),
    ("self_norm", "self_attn_layer_norm"),
    ("cross_norm", "encoder_attn_layer_norm"),
    ("ffn_norm", "final_layer_norm"),
    ("ffn.up", "fc1"),
    ("ffn.down", "fc2"),
    ("self_attn.qkv.", "self_attn.in_proj_"),
    ("cross_attn", "encoder_attn"),
    (".out.", ".out_proj."),
]


def saved_by_the_release(
    options: SpaceOptions, cfg: ModelConfig, model: SuperTransformer, **more: Any
) -> dict[str, Any]:
    """Return what the release would have saved of `model`; `more` are further options in its `args`."""
    state = {"encoder.version": torch.ones(1), "decoder.version": torch.ones(1)}
    state |= {f"{side}.embed_positions._float_tensor": torch.ones(1) for side in ("encoder", "decoder")}
    for name, weight in model.named_parameters():
        theirs = name
        for old, new in RENAMED:
            theirs = theirs.replace(old, new)
        state[theirs] = weight.detach().clone()
    if cfg.share_all_embeddings:
        state["decoder.embed_tokens.weight"] = state["encoder.embed_tokens.weight"]
    fused = options.encoder_embed_dim == options.decoder_embed_dim
    for prefix in [name.removesuffix("q.weight") for name in state if name.endswith("encoder_attn.q.weight")]:
        weights = [state.pop(f"{prefix}{part}.weight") for part in ("q", "kv")]
        state[f"{prefix}in_proj_bias"] = torch.cat(
            [state.pop(f"{prefix}{part}.bias") for part in ("q", "kv")]
        )
        if fused:
            state[f"{prefix}in_proj_weight"] = torch.cat(weights)
        else:
            for letter, weight in zip("qkv", [weights[0], *weights[1].chunk(2)], strict=True):
                state[f"{prefix}{letter}_proj_weight"] = weight
    lists = {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()
    }
    # the release sets this when it builds a model whose embeddings are all shared
    tied = {"share_decoder_input_output_embed": True} if cfg.share_all_embeddings else {}
    args = (
        lists
        | asdict(cfg)
        | tied
        | {"arch": "transformersuper_wmt_en_de", "lr": [0.1], "relu_dropout": 0.0}
        | more
    )
    return {"args": args, "model": state, "optimizer_history": [], "extra_state": {}}


def write(values: dict[str, Any], path: Path, zipped: bool = True) -> Path:
    values = values | {"args": argparse.Namespace(**values["args"])}
    torch.save(values, path, _use_new_zipfile_serialization=zipped)
    return path
