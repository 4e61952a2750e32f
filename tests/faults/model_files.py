"""Model files to mutate, and whole files that claim more than they hold or cost more than they are."""

import argparse
import bz2
import collections
import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from foreign import (
    MAGIC,
    RAW,
    Meter,
    archive,
    both,
    gadgets,
    old_tar,
    sequence,
    tensor_pickle,
    text,
    torch_bytes,
)
from release_files import saved_by_the_release
from toy_rows import SMALL, rows_of

from hat.latency.predictor import LatencyPredictor
from hat.model.config import ModelConfig
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
    LatencyPredictor.fit(rows_of(30), SMALL, seed=1).save(folder / "p.pt")
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
    words = b"\x80\x02(V\\u00e9\nS'a'\nF1.5\nT\x01\x00\x00\x00a" + text("b") + b"t."
    ours = to_bytes(pack(model, state=STATE))
    predictor = predictor_bytes(folder)
    tensors = both(tensor_pickle((2, 2), (1, 2)))
    return {
        "foreign-zip": torch_bytes(value, True, 4),
        "foreign-sequence": torch_bytes(value, False, 2),
        "foreign-words": archive(words),
        "foreign-words-sequence": sequence(words),
        "foreign-tensor": tensors[0],
        "foreign-tensor-sequence": tensors[1],
        "checkpoint-ours": ours,
        "checkpoint-ours-sequence": torch_bytes(plain_of(ours), False, 2),
        "checkpoint-release": torch_bytes(released, False, 2),
        "checkpoint-release-zip": torch_bytes(released, True, 2),
        "predictor-ours": predictor,
        "predictor-ours-sequence": torch_bytes(plain_of(predictor), False, 2),
        "proof-zip.pt": ours,
        "proof-sequence.pt": torch_bytes(value, False, 2),
    }


def deflated(name: str, size: int, **others: bytes) -> bytes:
    """Return a zip archive with one entry of `size` zeros, packed a thousandfold."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for other, content in others.items():
            file.writestr(f"x/{other}.pkl", content)
        info = zipfile.ZipInfo(f"x/{name}")
        info.compress_type = zipfile.ZIP_DEFLATED
        with file.open(info, "w") as entry:
            for _ in range(size >> 20):
                entry.write(bytes(1 << 20))
    return buffer.getvalue()


def one_block_often(count: int) -> bytes:
    """Return a zip archive whose directory names one block of a MiB `count` times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps(1, 2))
        file.writestr("x/data/0", bytes(1 << 20))
        first = file.infolist()[1]
        for number in range(1, count):
            copy = zipfile.ZipInfo(f"x/data/{number}")
            copy.header_offset, copy.CRC, copy.file_size = first.header_offset, first.CRC, first.file_size
            copy.compress_size = first.compress_size
            file.filelist.append(copy)
    return buffer.getvalue()


def claims(size: int) -> bytes:
    """Return a zip archive whose only entry claims `size` bytes."""
    content = archive(tensor_pickle((size // 4,), (1,), 0, size // 4), data__0=RAW)
    wrong = struct.pack("<I", min(size, 0xFFFFFFFE))
    return content.replace(
        struct.pack("<III", zlib.crc32(RAW), 16, 16), struct.pack("<I", zlib.crc32(RAW)) + 2 * wrong
    )


def giants() -> dict[str, bytes]:
    """Return tensors that claim far more numbers than their file has bytes."""
    found = {}
    for kind in ("FloatStorage", "ByteStorage", "BoolStorage", "ComplexDoubleStorage", "HalfStorage"):
        shapes = {
            "zero stride": ((1 << 40,), (0,), 0, 4),
            "zero strides": ((1 << 20, 1 << 20), (0, 0), 0, 4),
            "one zero stride": ((4, 1 << 40), (1, 0), 0, 4),
            "giant storage": ((4,), (1,), 0, 1 << 40),
            "overflow": ((1 << 32, 1 << 32), (1 << 32, 1 << 32), 0, 4),
            "offset": ((1,), (1,), 1 << 62, 4),
            "negative": ((-1,), (-1,), -1, -4),
        }
        for name, shape in shapes.items():
            zipped, plain = both(tensor_pickle(*shape, kind), numel=shape[3])
            found |= {f"{name} {kind} zip": zipped, f"{name} {kind} sequence": plain}
    return found


def persistent_ids(canary: str) -> dict[str, bytes]:
    """Return pickles whose persistent ids are none that torch.save writes."""
    touch = text(f"touch {canary}")
    storage = b"(" + text("storage") + b"%s" + text("0") + text("cpu") + b"K\x04tQ."
    return {
        "persistent number": b"\x80\x02K\x01Q.",
        "persistent name": b"cposix\nsystem\nQ.",
        "persistent call": b"cposix\nsystem\n(" + touch + b"tRQ.",
        "persistent list": b"](" + text("storage") + b"cposix\nsystem\n" + touch + b"eQ.",
        "persistent of a persistent": b"(" + text("storage") + b"(" + text("storage") + b"tQtQ.",
        "persistent module": b"(" + text("module") + b"cposix\nsystem\n" + text("x.py") + touch + b"tQ.",
        "persistent source": b"P(module\n.",
        "persistent system": storage % b"cposix\nsystem\n",
        "persistent text as type": storage % text("torch.FloatStorage"),
        "persistent giant key": b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text("k" * 1_000_000)
        + b"NK\x04tQ.",
        "persistent path key": b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text("../../" + canary)
        + b"NK\x04tQ.",
        "persistent view": storage[:-2] % b"ctorch\nFloatStorage\n" + b"(K\x00K\x01tt" + b"Q.",
    }


def lies_of_ours(many: int) -> dict[str, Any]:
    """Return contents of checkpoints of this system that describe what no file of their size can hold."""
    plain = plain_of(to_bytes(pack(small_model(), state=STATE)))
    encoder, decoder = plain["space"]["encoder"], plain["space"]["decoder"]
    weights, huge = plain["weights"], 1 << 40

    def space(**changes: Any) -> dict[str, Any]:
        return plain | {"space": plain["space"] | {"encoder": encoder | changes}}

    def config(**changes: Any) -> dict[str, Any]:
        return plain | {"model_config": plain["model_config"] | changes}

    first = next(iter(weights))
    nested: Any = []
    for _ in range(200):
        nested = [nested]
    return {
        "layers": space(super_layers=1_000_000),
        "layers without end": space(super_layers=huge),
        "choices, too many but fine": space(layers_choice=list(range(1, 3)) * 50_000),
        "both layers": plain
        | {"space": plain["space"] | {"encoder": encoder | {"super_layers": 60}, "decoder": decoder}},
        "width": space(super_embed_dim=huge),
        "no width": space(super_embed_dim=None),
        "negative width": space(super_embed_dim=-8),
        "qkv": plain | {"space": plain["space"] | {"qkv_dim": huge}},
        "positions": config(max_source_positions=huge),
        "many positions": config(max_target_positions=10_000_000),
        "no number of positions": config(max_target_positions=2.5),
        "text as dropout": config(dropout="0.1"),
        "unknown option": config(run="os.system"),
        "vocabulary": plain | {"vocab_sizes": [huge, huge]},
        "vocabularies": plain | {"vocab_sizes": [9] * 100_000},
        "digests": plain | {"vocab_digests": [nested[0], 1]},
        "deep state": plain | {"state": {"trainer": nested}},
        "no state": plain | {"state": 7},
        "object in state": plain | {"state": {"trainer": Meter()}},
        "object as weight": plain | {"weights": weights | {first: Meter()}},
        "whole numbers": plain | {"weights": {n: w.to(torch.int8) for n, w in weights.items()}},
        "number as weight": plain | {"weights": weights | {first: 1.0}},
        "weights of lists": plain | {"weights": [*weights.values()]},
        "many weights": plain | {"weights": {str(n): torch.empty(0) for n in range(many)}},
        "format": plain | {"hat_format": [1]},
        "format of text": plain | {"hat_format": "x" * 100_000},
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
        "bytes as weights": plain | {"weights": [weight.to(torch.uint8) for weight in plain["weights"]]},
        "half weights": plain | {"weights": [torch.zeros(2_000_000).half()] * 2},
        "format": plain | {"format": "2"},
        "of 2020": {"first_layer.weight": torch.empty(0, 10), "layers.0.weight": torch.empty(0, 0)},
        "wide of 2020": {f"layers.{n}.weight": torch.zeros(1, 1) for n in range(many)}
        | {"first_layer.weight": torch.zeros(1, 10)},
    }


def whole_files(folder: Path, bomb_bytes: int, many: int, containers: Sequence[bool]) -> dict[str, bytes]:
    """Return `reader-name` -> content of files that are hostile as a whole; bombs unpack to `bomb_bytes`.

    Descriptions of models say `many` weights, in the containers of both kinds that `containers` lists.
    """
    model = to_bytes(pack(small_model()))
    bomb = bomb_bytes & ~0xFFFFF
    pickle_bomb = deflated("data.pkl", bomb)
    links = io.BytesIO()
    with tarfile.open(fileobj=links, mode="w") as file:
        for name, kind in (("pickle", tarfile.SYMTYPE), ("storages", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    shapes = {
        "deflated pickle": pickle_bomb,
        "deflated storage": deflated("data/0", bomb, data=tensor_pickle((bomb // 4,), (1,), 0, bomb // 4)),
        "deflated model": deflated("data/999", bomb, data=model),
        "archive in an archive": archive(pickle_bomb, data__0=pickle_bomb),
        "gzip": gzip.compress(model),
        "bzip2": bz2.compress(bytes(bomb)),
        "one block often": one_block_often(30_000),
        "claims 4 GiB": claims((4 << 30) - 64),
        "links": links.getvalue(),
        "tar": old_tar(pickle.dumps([1], 2)),
        "storages without end": MAGIC
        + pickle.dumps(1001, 2)
        + pickle.dumps({}, 2)
        + pickle.dumps([1], 2)
        + pickle.dumps([str(n) for n in range(250_000)], 2),
        "magic only": MAGIC * 100_000,
    }
    found = {
        f"{reader}-{name}": content
        for reader in ("foreign", "checkpoint", "predictor")
        for name, content in shapes.items()
    }
    found |= {f"foreign-{name}": content for name, content in giants().items()}
    for zipped in containers:
        for name, values in (lies_of_ours(many) | lies_of_release()).items():
            found[f"checkpoint-{name} {zipped}"] = torch_bytes(values, zipped)
        for name, values in lies_of_predictors(folder, many).items():
            found[f"predictor-{name} {zipped}"] = torch_bytes(values, zipped)
    return found


def heavy() -> dict[str, bytes]:
    """Return pickles whose values take far more memory than their bytes in a reader without limits."""
    wide = "\U0001f600".encode() + b"a" * 30_000_000
    return {
        "sets": b"\x80\x04](" + b"\x8f" * 299_000 + b"e.",
        "deep": b"\x80\x02]" * 149_000 + b"a" * 148_999 + b".",
        "wide text": b"\x80\x04X" + struct.pack("<I", len(wide)) + wide + b".",
        "names": b"\x80\x04](" + b"ca\nb\n" * 299_000 + b"e.",
        "namespaces": b"\x80\x04](" + b"(iargparse\nNamespace\n" * 149_000 + b"e.",
        "numbers": b"\x80\x04](" + (b"\x8a\x10" + b"\x7f" * 16) * 299_000 + b"e.",
        "tensors": b"\x80\x02(" + tensor_pickle((0,), (1,))[2:-1] * 20_000 + b"t.",
    }


def pickles(canary: str) -> dict[str, bytes]:
    return gadgets(canary) | persistent_ids(canary)
