"""Files of tensors: `.pt` of any program, read without trusting them, and `.safetensors`."""

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hat.errors import CheckpointError, brief
from hat.files.atomic import digest_matches, digest_path, write_atomic


class Namespace(dict[str, Any]):
    """Stands for an `argparse.Namespace`: the dictionary of its values."""

    def __init__(self, *args: object) -> None:
        super().__init__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state)


class Opaque:
    """Stands for an object of another program, such as a meter of fairseq; nothing of it is kept."""

    def __new__(cls, *args: object) -> "Opaque":
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def read_foreign(path: Path, content: bytes) -> Any:
    """Return the tensors and plain values in `content` of the `.pt` file `path`, by torch's restricted
    reader: nothing that the file names is imported or called; its objects become `Namespace` or `Opaque`.
    Raises nothing but CheckpointError.
    """
    try:
        if content.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(content)) as file:
                if wrong := file.testzip():  # torch does not compare checksums
                    raise ValueError(f"the checksum of {wrong} is wrong")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols of pickle
            return _read(content)
    except Exception as error:  # damage makes the parsers raise many kinds
        text = str(error).partition("Check the documentation of torch.load")[0].strip()  # to trust the file
        why = text.rpartition("\n")[2].rpartition("WeightsUnpickler error: ")[2].partition(" Please use ")[0]
        why = why if isinstance(error, ValueError | pickle.UnpicklingError) else ""
        found = f"{path} is damaged or cannot be read safely ({brief(why or repr(error))})"
        allowed = "allowed are files of torch.save with tensors and plain values"
        advice = "fetch it again, or save its weights with torch.save"
        raise CheckpointError(f"{found}; {allowed}; {advice}") from error


def read_verified(path: Path, what: str, advice: str) -> tuple[Any, bool]:
    """Return what the `.pt` file holds, see `read_foreign`, and whether a digest beside it vouches for it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {what} {path}: {error.strerror}; {advice}") from error
    intact, digest = digest_matches(path, content), digest_path(path).name
    if intact is False:
        raise CheckpointError(f"{path} is damaged: its SHA-256 differs from {digest}; restore it from a copy")
    return read_foreign(path, content), bool(intact)


def _read(content: bytes) -> Any:
    stubs: dict[str, type] = {"argparse.Namespace": Namespace}
    while True:
        try:
            # The list of allowed names holds within the block only.
            with torch.serialization.safe_globals([(stub, name) for name, stub in stubs.items()]):
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            unknown = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
            if unknown is None or unknown[1] in stubs or len(stubs) > 20:  # classes of other programs
                raise
            stubs[unknown[1]] = Opaque


def write_safetensors(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `weights` and `metadata` to a `.safetensors` file, whole or not at all."""
    plain = {name: weight.detach().contiguous().clone() for name, weight in weights.items()}
    write_atomic(path, lambda file: file.write(safetensors.torch.save(plain, dict(metadata))))
