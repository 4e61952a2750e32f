"""Hostile files: nothing they name happens, nothing they claim costs, and damage is a CheckpointError."""

import argparse
import collections
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import CONTAINERS, RAW, Meter, archive, both, gadgets, sequence, tensor_pickle, text, torch_bytes

from hat.errors import CheckpointError
from hat.files.pickle_machine import Opaque
from hat.files.unpickle import read_foreign

PATH = Path("foreign.pt")
ROOT = Path(__file__).resolve().parents[2]


def assert_inert(value: Any) -> None:
    """Only what the reader promises came out."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        for part in value:
            assert_inert(part)
    else:
        allowed = (str, bytes, bytearray, int, float, bool, type(None), torch.Tensor)
        assert type(value) in allowed or isinstance(value, Opaque), type(value)


@pytest.mark.parametrize("container", CONTAINERS)
def test_gadgets_do_nothing(container: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    refused = 0
    for name, body in gadgets(str(canary)).items():
        start = time.process_time()
        try:
            assert_inert(read_foreign(PATH, CONTAINERS[container](body)))
        except CheckpointError as error:
            refused += 1
            assert len(str(error)) < 600 and str(error).isascii() and str(error).isprintable()
        assert time.process_time() - start < 5, name
        assert not canary.exists(), name
    assert refused > 30


_AUDIT = """
import sys
from pathlib import Path
from hat.errors import CheckpointError
from hat.files.unpickle import read_foreign

def read(content):
    try:
        read_foreign(Path("x.pt"), content)
        return 1
    except CheckpointError:
        return 0

folder = Path(sys.argv[1])
contents = [path.read_bytes() for path in sorted(folder.glob("*.bin"))]
benign = [path.read_bytes() for path in sorted(folder.glob("*.ok"))]
assert all([read(content) for content in benign]), "warm-up"
seen, on = [], True
quiet = ("object.__", "builtins.id", "gc.", "code.__new__", "sys._getframe", "tensor.")

def hook(event, args):
    if on and not event.startswith(quiet):
        seen.append((event, repr(args)[:200]))

sys.addaudithook(hook)
modules = set(sys.modules)
results = [read(content) for content in contents]
on = False
print(len(results), sum(results), sorted(set(sys.modules) - modules), seen)
"""


def test_the_interpreter_sees_nothing(tmp_path: Path) -> None:
    """An audit hook reports every import, open, exec, socket and process; reading gadgets causes none."""
    count = 0
    for name, wrap in CONTAINERS.items():
        for body in gadgets(str(tmp_path / "canary")).values():
            (tmp_path / f"{count:04}.bin").write_bytes(wrap(body))
            count += 1
        warm = b"\x80\x02(V\\u00e9\nS'a'\nF1.5\nT\x01\x00\x00\x00a" + text("b") + b"t."
        (tmp_path / f"{name}.ok").write_bytes(wrap(warm))
        (tmp_path / f"{name}t.ok").write_bytes(both(tensor_pickle((4,), (1,)))[name == "sequence"])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _AUDIT, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    total, _, rest = done.stdout.split(" ", 2)
    assert int(total) == count
    assert rest.strip() == "[] []", rest
    assert not (tmp_path / "canary").exists()


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return `content` with a few bytes changed, cut, doubled or moved."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del changed[at : at + rng.randint(1, 20)]
        elif kind == 2:
            changed[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == 3:
            start = rng.randrange(len(changed) + 1)
            changed[at:at] = changed[start : start + rng.randint(1, 30)]
        else:
            changed[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 1 << 31, 0xFFFFFFFF)))
    return bytes(changed)


def survive(rounds: int, seed: int) -> int:
    value = {
        "args": argparse.Namespace(a=1, b=[1, 2], c="d"),
        "model": collections.OrderedDict(w=torch.ones(2, 3), b=torch.ones(3).half()),
        "extra": [Meter(), {1, 2}, (b"x", None, 2.5)],
    }
    files = [torch_bytes(value, zipped, protocol) for zipped in (True, False) for protocol in (2, 4)]
    bodies = [
        tensor_pickle((2, 2), (1, 2)),
        pickle.dumps(value["extra"][1:], 0),
        pickle.dumps(value["args"], 4),
    ]
    rng = random.Random(seed)
    read = 0
    for _ in range(rounds):
        if rng.random() < 0.5:
            content = mutated(rng.choice(files), rng)
        else:  # inside the container, where no checksum tells
            body = mutated(rng.choice(bodies), rng)
            content = rng.choice(
                (sequence(body, ("0",), struct.pack("<q", 4) + RAW), archive(body, data__0=RAW))
            )
        try:
            assert_inert(read_foreign(PATH, content))
            read += 1
        except CheckpointError:
            pass
    return read


def test_random_damage_is_a_checkpoint_error() -> None:
    assert 0 < survive(4_000, 1) < 4_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_much_random_damage_is_a_checkpoint_error(seed: int) -> None:
    assert 0 < survive(50_000, seed) < 50_000


_MEMORY = """
import json, resource, sys, time
from pathlib import Path
from hat.errors import CheckpointError
from hat.files.unpickle import read_foreign

path = Path(sys.argv[1])
content = path.read_bytes()
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    read_foreign(path, content)
except CheckpointError:
    pass
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([len(content), (after - before) * 1024, time.process_time() - start]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x04](" + b"\x8f" * 299_000 + b"e.",
        b"\x80\x02]" * 149_000 + b"a" * 148_999 + b".",
        b"\x80\x04X" + struct.pack("<I", 30_000_004) + "\U0001f600".encode() + b"a" * 30_000_000 + b".",
        b"\x80\x04](" + b"ca\nb\n" * 299_000 + b"e.",
        b"\x80\x04](" + b"(iargparse\nNamespace\n" * 149_000 + b"e.",
        b"\x80\x04](" + (b"\x8a\x10" + b"\x7f" * 16) * 299_000 + b"e.",
        b"\x80\x02(" + tensor_pickle((0,), (1,))[2:-1] * 20_000 + b"t.",
    ],
)
def test_memory_and_time_are_bounded(container: str, body: bytes, tmp_path: Path) -> None:
    """A file of n bytes takes less than 3n + 256 MiB beside its content, and 5 s."""
    (tmp_path / "bomb.pt").write_bytes(CONTAINERS[container](body))
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(tmp_path / "bomb.pt")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    size, used, seconds = json.loads(done.stdout)
    assert used < 3 * size + (256 << 20)
    assert seconds < 5
