"""Model files to mutate, and files that describe what they do not hold."""

import argparse
import collections
import io
from functools import cache
from pathlib import Path
from typing import Any

import torch
from foreign import RAW, Meter, archive, tensor_pickle, torch_bytes
from release_files import saved_by_the_release
from toy_rows import rows_of

from hat.latency.predictor import LatencyPredictor
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import SpaceOptions, space_of
from hat.train.checkpoint import pack, to_bytes

SIDE = {"embed_dim": 8, "ffn_embed_dim": 16, "layers": 2, "ffn_embed_dim_choice": (16, 8)}
SIDE |= {"embed_choice": (8, 6), "layer_num_choice": (2,), "self_attention_heads_choice": (2, 1)}
OPTIONS = SpaceOptions(
    **{f"encoder_{key}": value for key, value in SIDE.items()},
    **{f"decoder_{key}": value for key, value in (SIDE | {"embed_dim": 6, "embed_choice": (6, 4)}).items()},
    qkv_dim=8,
    decoder_ende_attention_heads_choice=(2,),
    decoder_arbitrary_ende_attn_choice=(-1, 1),
)
MODEL = SuperTransformer(space_of(OPTIONS), (9, 11), ModelConfig(), torch.Generator().manual_seed(1))
STATE = {"trainer": {"num_updates": 3, "moments": torch.ones(3)}, "progress": {"best": None, "loss": 1.5}}


@cache
def predictor_bytes(folder: Path) -> bytes:
    LatencyPredictor.fit(rows_of(30)).save(folder / "p.pt")
    return (folder / "p.pt").read_bytes()


def plain_of(content: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(content), weights_only=True)


def benign(folder: Path) -> dict[str, bytes]:
    """Return `reader-name` -> content of a file that reader takes."""
    released = saved_by_the_release(OPTIONS, ModelConfig(), MODEL)
    released |= {"args": argparse.Namespace(**released["args"])}
    value = {
        "args": argparse.Namespace(a=1, b=[1, 2], c="d"),
        "model": collections.OrderedDict(w=torch.ones(2, 3), b=torch.ones(3).half()),
        "extra": [Meter(), {1, 2}, (b"x", None, 2.5)],
    }
    ours, predictor = to_bytes(pack(MODEL, state=STATE)), predictor_bytes(folder)
    return {
        "foreign-zip": torch_bytes(value, True),
        "foreign-sequence": torch_bytes(value, False),
        "foreign-tensor": archive(tensor_pickle((2, 2), (1, 2)), data__0=RAW),
        "checkpoint-ours": ours,
        "checkpoint-ours-sequence": torch_bytes(plain_of(ours), False),
        "checkpoint-release": torch_bytes(released, False),
        "predictor-ours": predictor,
        "predictor-ours-sequence": torch_bytes(plain_of(predictor), False),
        "proof-zip.pt": ours,
        "proof-sequence.pt": torch_bytes(value, False),
    }


def lies_of_ours(many: int) -> dict[str, Any]:
    """Return contents of checkpoints of this system that describe what no file of their size can hold."""
    plain = plain_of(to_bytes(pack(MODEL, state=STATE)))
    encoder, weights, huge = plain["space"]["encoder"], plain["weights"], 1 << 40

    def space(**changes: Any) -> dict[str, Any]:
        return plain | {"space": plain["space"] | {"encoder": encoder | changes}}

    def config(**changes: Any) -> dict[str, Any]:
        return plain | {"model_config": plain["model_config"] | changes}

    return {
        "layers": space(super_layers=1_000_000),
        "choices, too many but fine": space(layers_choice=[1, 2] * 50_000),
        "width": space(super_embed_dim=huge),
        "negative width": space(super_embed_dim=-8),
        "qkv": plain | {"space": plain["space"] | {"qkv_dim": huge}},
        "positions": config(max_source_positions=huge),
        "unknown option": config(run="os.system"),
        "vocabulary": plain | {"vocab_sizes": [huge, huge]},
        "no state": plain | {"state": 7},
        "object as weight": plain | {"weights": weights | {next(iter(weights)): Meter()}},
        "whole numbers": plain | {"weights": {n: w.to(torch.int8) for n, w in weights.items()}},
        "many weights": plain | {"weights": {str(n): torch.empty(0) for n in range(many)}},
        "format of text": plain | {"hat_format": "x" * 100_000},
        "architecture": plain | {"arch": {"encoder": [1] * 100_000}},
        "only a format": {"hat_format": 1},
    }


def lies_of_release() -> dict[str, Any]:
    values = saved_by_the_release(OPTIONS, ModelConfig(), MODEL)

    def of(**changes: Any) -> dict[str, Any]:
        return values | {"args": argparse.Namespace(**(values["args"] | changes))}

    return {
        "release layers": of(encoder_layers=1 << 14, encoder_layer_num_choice=[1 << 14]),
        "release widths": of(encoder_embed_dim=1 << 40),
        "release positions": of(max_source_positions=1 << 40),
        "release option": of(decoder_layers=Meter()),
        "release weights": of() | {"model": {"x": Meter()}},
    }


def lies_of_predictors(folder: Path, many: int) -> dict[str, Any]:
    plain, tiny = plain_of(predictor_bytes(folder)), [torch.zeros(1, 1, 1)] * many
    return {
        "layers": plain | {"weights": tiny, "biases": tiny},
        "residuals, too many but fine": plain | {"residuals": [0.1] * 100_000},
        "nothing finite": plain | {"residuals": [float("nan")]},
        "names": plain | {"feature_names": ["x"] * 100_000},
        "object": plain | {"report": Meter()},
        "half weights": plain | {"weights": [torch.zeros(2_000_000).half()] * 2},
        "of 2020": {"first_layer.weight": torch.empty(0, 10), "layers.0.weight": torch.empty(0, 0)},
    }


def lies(folder: Path, many: int, zipped: bool) -> dict[str, bytes]:
    """Return `reader-name` -> content of files that describe what they do not hold."""
    found = {
        "checkpoint": lies_of_ours(many) | lies_of_release(),
        "predictor": lies_of_predictors(folder, many),
    }
    return {
        f"{reader}-{name} {zipped}": torch_bytes(values, zipped)
        for reader, every in found.items()
        for name, values in every.items()
    }
