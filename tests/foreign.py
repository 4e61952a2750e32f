"""Foreign checkpoint files written by hand: both containers, single tensors, and pickles that mean harm."""

import io
import os
import pickle
import random
import struct
import subprocess
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from hat.files.tensors import Opaque

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)


def sequence(body: bytes) -> bytes:
    """Return `body` in the container of PyTorch before 1.6."""
    return MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2) + body + NO_KEYS


def archive(body: bytes, **entries: bytes) -> bytes:
    """Return `body` in the zip container."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x/data.pkl", body)
        for name, content in {"version": b"3\n", "byteorder": b"little", **entries}.items():
            file.writestr(f"x/{name.replace('__', '/')}", content)
    return buffer.getvalue()


NONE, NO_KEYS = pickle.dumps({}, 2), pickle.dumps([], 2)
CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "sequence": sequence,
    "sequence keys": lambda body: sequence(NONE)[: -len(NO_KEYS)] + body,
    "zip": archive,
    "raw": bytes,
}


def torch_bytes(value: Any, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
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
        size, moved = struct.pack("<I", rng.choice((1 << 31, 0xFFFFFFFF))), changed[start : start + 20]
        cuts = [(1, rng.randbytes(1)), (rng.randint(1, 20), b""), (0, moved), (4, size)]
        length, content = rng.choice(cuts)
        changed[at : at + length] = content
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


def text(content: str) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content.encode()


def gadgets(canary: str) -> dict[str, bytes]:
    """Return pickles that would act in a trusting reader, and some that are damaged."""
    touch = f"touch {canary}"
    call, named = text(touch), b"cposix\nsystem\n"
    storage, end = b"(" + text("storage"), text("0") + text("cpu") + b"K\x04tQ."
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
        "newobj": named + b"(" + call + b"t\x81.",
        "partial": b"cfunctools\npartial\n(" + named + call + b"tR)R.",
        "torch load": b"ctorch\nload\n(" + text(canary) + b"tR.",
        "hub": b"ctorch.hub\nload\n(" + text("evil/repo") + text("model") + b"tR.",
        "add_extension": b"ccopyreg\nadd_extension\n(" + text("os") + text("system") + b"K\x01tR\x82\x01.",
        "build": named + b"(" + text("__setstate__") + named + b"db" + call + b"\x85R.",
        "rebuild of names": b"ctorch._utils\n_rebuild_tensor_v2\n(" + named + b"K\x00))tR.",
        "persistent module": b"(" + text("module") + named + text("x.py") + call + b"tQ.",
        "persistent system": storage + named + end,
        "recursive list": b"]q\x00h\x00a.",
        "no end": b"N",
    }
