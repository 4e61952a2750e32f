"""Model files to mutate, and files that describe what they do not hold."""

import argparse
import collections
import io
from functools import cache
from pathlib import Path
from typing import Any

import torch
from foreign import Meter, torch_bytes
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
        "checkpoint-ours": ours,
        "checkpoint-ours-sequence": torch_bytes(plain_of(ours), False),
        "checkpoint-release": torch_bytes(released, False),
        "predictor-ours": predictor,
        "predictor-ours-sequence": torch_bytes(plain_of(predictor), False),
        "proof-zip.pt": ours,
        "proof-sequence.pt": torch_bytes(value, False),
    }


def lies(folder: Path, many: int, zipped: bool) -> dict[str, bytes]:
    """Return `reader-name` -> content of files that describe what no file of their size can hold."""
    ours = plain_of(to_bytes(pack(MODEL, state=STATE)))
    predictor, tiny = plain_of(predictor_bytes(folder)), [torch.zeros(1, 1, 1)] * many
    release = saved_by_the_release(OPTIONS, ModelConfig(), MODEL)
    weights, config, huge = ours["weights"], ours["model_config"], 1 << 40

    def space(**changes: Any) -> dict[str, Any]:
        return ours | {"space": ours["space"] | {"encoder": ours["space"]["encoder"] | changes}}

    def args(**changes: Any) -> dict[str, Any]:
        return release | {"args": argparse.Namespace(**(release["args"] | changes))}

    found = {
        "checkpoint-layers": space(super_layers=1_000_000),
        "checkpoint-choices, too many but fine": space(layers_choice=[1, 2] * 50_000),
        "checkpoint-width": space(super_embed_dim=huge),
        "checkpoint-negative width": space(super_embed_dim=-8),
        "checkpoint-positions": ours | {"model_config": config | {"max_source_positions": huge}},
        "checkpoint-unknown option": ours | {"model_config": config | {"run": "os.system"}},
        "checkpoint-vocabulary": ours | {"vocab_sizes": [huge, huge]},
        "checkpoint-object as weight": ours | {"weights": weights | {next(iter(weights)): Meter()}},
        "checkpoint-many weights": ours | {"weights": {str(n): torch.empty(0) for n in range(many)}},
        "checkpoint-architecture": ours | {"arch": {"encoder": [1] * 100_000}},
        "checkpoint-only a format": {"hat_format": 1},
        "checkpoint-release layers": args(encoder_layers=1 << 14, encoder_layer_num_choice=[1 << 14]),
        "checkpoint-release positions": args(max_source_positions=huge),
        "checkpoint-release option": args(decoder_layers=Meter()),
        "checkpoint-release weights": args() | {"model": {"x": Meter()}},
        "predictor-layers": predictor | {"weights": tiny, "biases": tiny},
        "predictor-residuals, too many but fine": predictor | {"residuals": [0.1] * 100_000},
        "predictor-names": predictor | {"feature_names": ["x"] * 100_000},
        "predictor-object": predictor | {"report": Meter()},
        "predictor-of 2020": {"first_layer.weight": torch.empty(0, 10)},
    }
    return {f"{name} {zipped}": torch_bytes(values, zipped) for name, values in found.items()}
