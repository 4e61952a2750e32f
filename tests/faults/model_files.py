"""Model files to mutate, and files that describe what they do not hold."""

import argparse
import collections
import io
from functools import cache
from pathlib import Path
from typing import Any

import torch
from foreign import RAW, Meter, archive, gadgets, tensor_pickle, text, torch_bytes
from release_files import saved_by_the_release
from toy_rows import rows_of

from hat.latency.predictor import LatencyPredictor
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import SpaceOptions, space_of
from hat.train.checkpoint import pack, to_bytes

OPTIONS = SpaceOptions(
    encoder_embed_dim=8,
    encoder_ffn_embed_dim=16,
    encoder_layers=2,
    decoder_embed_dim=6,
    decoder_ffn_embed_dim=16,
    decoder_layers=2,
    qkv_dim=8,
    encoder_embed_choice=(8, 6),
    decoder_embed_choice=(6, 4),
    encoder_ffn_embed_dim_choice=(16, 8),
    decoder_ffn_embed_dim_choice=(16, 8),
    encoder_layer_num_choice=(2,),
    decoder_layer_num_choice=(2, 1),
    encoder_self_attention_heads_choice=(2, 1),
    decoder_self_attention_heads_choice=(2, 1),
    decoder_ende_attention_heads_choice=(2,),
    decoder_arbitrary_ende_attn_choice=(-1, 1),
)


def small_model(seed: int = 1) -> SuperTransformer:
    space = space_of(OPTIONS)
    return SuperTransformer(space, (9, 11), ModelConfig(), torch.Generator().manual_seed(seed))


STATE = {"trainer": {"num_updates": 3, "moments": torch.ones(3)}, "progress": {"best": None, "loss": 1.5}}


@cache
def predictor_bytes(folder: Path) -> bytes:
    LatencyPredictor.fit(rows_of(30)).save(folder / "p.pt")
    return (folder / "p.pt").read_bytes()


def plain_of(content: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(content), weights_only=True)


def benign(folder: Path) -> dict[str, bytes]:
    """Return `reader-name` -> content of a file that reader takes."""
    model = small_model()
    released = saved_by_the_release(OPTIONS, ModelConfig(), model)
    released |= {"args": argparse.Namespace(**released["args"])}
    value = {
        "args": argparse.Namespace(a=1, b=[1, 2], c="d"),
        "model": collections.OrderedDict(w=torch.ones(2, 3), b=torch.ones(3).half()),
        "extra": [Meter(), {1, 2}, (b"x", None, 2.5)],
    }
    ours = to_bytes(pack(model, state=STATE))
    predictor = predictor_bytes(folder)
    return {
        "foreign-zip": torch_bytes(value, True),
        "foreign-sequence": torch_bytes(value, False),
        "foreign-tensor": archive(tensor_pickle((2, 2), (1, 2)), data__0=RAW),
        "checkpoint-ours": ours,
        "checkpoint-ours-sequence": torch_bytes(plain_of(ours), False),
        "checkpoint-release": torch_bytes(released, False),
        "checkpoint-release-zip": torch_bytes(released, True),
        "predictor-ours": predictor,
        "predictor-ours-sequence": torch_bytes(plain_of(predictor), False),
        "proof-zip.pt": ours,
        "proof-sequence.pt": torch_bytes(value, False),
    }


def persistent_ids(canary: str) -> dict[str, bytes]:
    """Return pickles whose persistent ids are none that torch.save writes."""
    touch, system, kind = text(f"touch {canary}"), b"cposix\nsystem\n", b"ctorch\nFloatStorage\n"
    storage = b"(" + text("storage")
    end = text("0") + text("cpu") + b"K\x04tQ."
    return {
        "persistent number": b"\x80\x02K\x01Q.",
        "persistent name": system + b"Q.",
        "persistent call": system + b"(" + touch + b"tRQ.",
        "persistent of a persistent": storage + storage + b"tQtQ.",
        "persistent module": b"(" + text("module") + system + text("x.py") + touch + b"tQ.",
        "persistent system": storage + system + end,
        "persistent text as type": storage + text("torch.FloatStorage") + end,
        "persistent giant key": storage + kind + text("k" * 1_000_000) + b"NK\x04tQ.",
        "persistent path key": storage + kind + text("../../" + canary) + b"NK\x04tQ.",
    }


def lies_of_ours(many: int) -> dict[str, Any]:
    """Return contents of checkpoints of this system that describe what no file of their size can hold."""
    plain = plain_of(to_bytes(pack(small_model(), state=STATE)))
    encoder = plain["space"]["encoder"]
    weights, huge = plain["weights"], 1 << 40

    def space(**changes: Any) -> dict[str, Any]:
        return plain | {"space": plain["space"] | {"encoder": encoder | changes}}

    def config(**changes: Any) -> dict[str, Any]:
        return plain | {"model_config": plain["model_config"] | changes}

    first = next(iter(weights))
    return {
        "layers": space(super_layers=1_000_000),
        "layers without end": space(super_layers=huge),
        "choices, too many but fine": space(layers_choice=list(range(1, 3)) * 50_000),
        "width": space(super_embed_dim=huge),
        "negative width": space(super_embed_dim=-8),
        "qkv": plain | {"space": plain["space"] | {"qkv_dim": huge}},
        "positions": config(max_source_positions=huge),
        "no number of positions": config(max_target_positions=2.5),
        "unknown option": config(run="os.system"),
        "vocabulary": plain | {"vocab_sizes": [huge, huge]},
        "no state": plain | {"state": 7},
        "object as weight": plain | {"weights": weights | {first: Meter()}},
        "whole numbers": plain | {"weights": {n: w.to(torch.int8) for n, w in weights.items()}},
        "weights of lists": plain | {"weights": [*weights.values()]},
        "many weights": plain | {"weights": {str(n): torch.empty(0) for n in range(many)}},
        "format of text": plain | {"hat_format": "x" * 100_000},
        "format of tensors": plain | {"hat_format": torch.ones(2)},
        "architecture": plain | {"arch": {"encoder": [1] * 100_000}},
        "only a format": {"hat_format": 1},
    }


def lies_of_release() -> dict[str, Any]:
    values = saved_by_the_release(OPTIONS, ModelConfig(), small_model())
    args = values["args"]

    def of(**changes: Any) -> dict[str, Any]:
        return values | {"args": argparse.Namespace(**(args | changes))}

    return {
        "release layers": of(encoder_layers=1 << 14, encoder_layer_num_choice=[1 << 14]),
        "release widths": of(encoder_embed_dim=1 << 40),
        "release positions": of(max_source_positions=1 << 40),
        "release choices, too many but fine": of(encoder_embed_choice=[8] * 100_000),
        "release option": of(decoder_layers=Meter()),
        "release weights": values | {"args": argparse.Namespace(**args), "model": {"x": Meter()}},
    }


def lies_of_predictors(folder: Path, many: int) -> dict[str, Any]:
    plain = plain_of(predictor_bytes(folder))
    tiny = [torch.zeros(1, 1, 1)] * many
    wide = [torch.empty(0, 3, 1), torch.empty(0, 3, 0).expand(0, 3, 0)]
    return {
        "layers": plain | {"weights": tiny, "biases": tiny},
        "empty layers": plain | {"weights": wide * (many // 4), "biases": wide * (many // 4)},
        "residuals, too many but fine": plain | {"residuals": [0.1] * 100_000},
        "nothing finite": plain | {"residuals": [float("nan")]},
        "names": plain | {"feature_names": ["x"] * 100_000},
        "object": plain | {"report": Meter()},
        "half weights": plain | {"weights": [torch.zeros(2_000_000).half()] * 2},
        "format": plain | {"format": "2"},
        "of 2020": {"first_layer.weight": torch.empty(0, 10), "layers.0.weight": torch.empty(0, 0)},
        "wide of 2020": {f"layers.{n}.weight": torch.zeros(1, 1) for n in range(many)}
        | {"first_layer.weight": torch.zeros(1, 10)},
    }


def lies(folder: Path, many: int, zipped: bool) -> dict[str, bytes]:
    """Return `reader-name` -> content of files that describe what they do not hold."""
    found = {
        f"checkpoint-{name}": values for name, values in (lies_of_ours(many) | lies_of_release()).items()
    }
    found |= {f"predictor-{name}": values for name, values in lies_of_predictors(folder, many).items()}
    return {f"{name} {zipped}": torch_bytes(values, zipped) for name, values in found.items()}


def pickles(canary: str) -> dict[str, bytes]:
    return gadgets(canary) | persistent_ids(canary)
