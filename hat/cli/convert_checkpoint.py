"""The command `scripts/convert_checkpoint.py`."""

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from hat.cli.options import command, parse
from hat.cli.restore import find_checkpoint
from hat.errors import ConfigError
from hat.files.atomic import write_atomic
from hat.log import say
from hat.space import ArchOptions, arch_of, space_to_plain
from hat.train.checkpoint import Checkpoint, load, pack, save

_SAFETENSORS_TYPES = {torch.float32: "F32", torch.float16: "F16"}


@dataclass(frozen=True)
class ConvertOptions:
    """Conversion"""

    input: str
    """checkpoint of the 2020 release, or of this system"""
    output: str | None = None
    """checkpoint to write"""
    safetensors: str | None = None
    """safetensors file to write: the weights under our names, the description as metadata"""
    fp16: bool = False
    """write weights in half precision; they are read as float32 again"""
    json: bool = False
    """print one machine-readable JSON line last"""

    def __post_init__(self) -> None:
        written = [path for path in (self.output, self.safetensors) if path]
        if not written:
            raise ConfigError("nothing to write; give --output OUT.pt, --safetensors OUT.safetensors or both")
        if len({Path(path).resolve() for path in (self.input, *written)}) <= len(written):
            raise ConfigError("--input, --output and --safetensors must be different files")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Convert one checkpoint; return the exit status."""
    cfg, arch_options = parse(
        argv,
        ConvertOptions,
        ArchOptions,
        prog="convert_checkpoint.py",
        description="Turn a checkpoint of the 2020 release into one of this system. With --configs ARCH.yml "
        "the SubTransformer is cut out, which is all that is trained in a released SubTransformer.",
        config_flags=("--configs",),
    )
    before = load(find_checkpoint(cfg.input), say)
    arch = arch_of(arch_options)
    after = before if arch is None else pack(before.sub(arch), before.vocab_digests)
    if cfg.fp16:
        halves = {name: weight.half() for name, weight in after.weights.items()}
        after = replace(after, weights=halves, state={}, master=None)
    report = {"input": _sizes(cfg.input, before)}
    if cfg.output:
        save(after, Path(cfg.output))
        report["output"] = _sizes(cfg.output, after)
    if cfg.safetensors:
        write_safetensors(after, Path(cfg.safetensors))
        report["safetensors"] = _sizes(cfg.safetensors, after)
    for what, size in report.items():
        print(f"{what} {size['path']}: {size['bytes']} bytes, {size['params']} parameters")
    if cfg.json:
        print(json.dumps(report))
    return 0


def write_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    """Write the weights in the safetensors format: length of the header, header, numbers back to back."""
    header: dict[str, Any] = {"__metadata__": {"hat": json.dumps(_description(checkpoint))}}
    at = 0
    for name, weight in checkpoint.weights.items():
        end = at + weight.numel() * weight.element_size()
        kind = _SAFETENSORS_TYPES[weight.dtype]
        header[name] = {"dtype": kind, "shape": list(weight.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned

    def fill(file: BinaryIO) -> None:
        file.write(struct.pack("<Q", len(text)) + text)
        for weight in checkpoint.weights.values():
            file.write(weight.contiguous().numpy().tobytes())

    write_atomic(path, fill)


def _description(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "space": space_to_plain(checkpoint.space),
        "arch": checkpoint.arch.to_yaml() if checkpoint.arch else None,
        "model_config": asdict(checkpoint.model_config),
        "vocab_sizes": list(checkpoint.vocab_sizes),
        "vocab_digests": list(checkpoint.vocab_digests),
    }


def _sizes(path: str, checkpoint: Checkpoint) -> dict[str, Any]:
    params = sum(weight.numel() for weight in checkpoint.weights.values())
    return {"path": path, "bytes": Path(path).stat().st_size, "params": params}
