"""Reads `.pt` files of other programs without trusting them: tensors and plain values, nothing else.

Both containers that torch.save has written are read: the zip archive, and the sequence of pickles before
PyTorch 1.6 with the storages behind them. No size is believed before the bytes for it have been seen.
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from hat.errors import CheckpointError
from hat.files.pickle_machine import Opaque, run

MAX_PICKLE_BYTES = 1 << 25
MAX_TENSORS = 1 << 15
MAX_ENTRIES = 1 << 16
MAX_DIMS = 16
_SLACK_BYTES = 1 << 20
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_STORAGES = {
    f"{module}.{name}Storage": dtype for name, dtype in _DTYPES.items() for module in ("torch", "torch.cuda")
}


def read_foreign(path: Path, content: bytes) -> Any:
    """Return what `content` of the file `path` holds.

    Only tensors, numbers, text, bytes, None, lists, tuples, sets and dictionaries come out; a Namespace is
    the dictionary of its values, any other object an `Opaque`. Tensors that shared memory share it again.
    Raises CheckpointError, and nothing else, for what is damaged or not allowed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of text in the file with escapes that Python does not know
            return _read_zip(content) if content.startswith(b"PK\x03\x04") else _read_sequence(content)
    except Exception as error:  # damage makes the parsers and torch raise many kinds
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = ascii(f"{kind}{error}")[1:-1][:200]
        raise CheckpointError(
            f"{path} is damaged or cannot be read safely ({reason}); allowed are little-endian files of "
            "torch.save with tensors and plain values; fetch the file again, or save it anew with torch.save"
        ) from error


def foreign_name(value: Any) -> str | None:
    """Return the name of an object of another program anywhere in `value`, or None where there is none."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        node = todo.pop()
        if isinstance(node, Opaque):
            return node.name
        if isinstance(node, dict | list | tuple | set | frozenset) and id(node) not in seen:
            seen.add(id(node))
            todo.extend(node)
            if isinstance(node, dict):
                todo.extend(node.values())
    return None


class _Storage(Opaque):
    """One block of numbers, known from its description first, from its bytes later."""

    __slots__ = ("data", "dtype", "numel")

    def __init__(self, name: str, numel: int) -> None:
        super().__init__(name)
        self.dtype, self.numel = _STORAGES[name], numel
        self.data: Tensor | None = None

    def num_bytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass
class _Tensors:
    """Tensors and storages met in a pickle. The tensors are empty until `fill` gives them their memory."""

    storages: dict[str, _Storage] = field(default_factory=dict)
    pending: list[tuple[Tensor, _Storage, int, tuple, tuple]] = field(default_factory=list)

    def run(self, stream: io.BytesIO) -> Any:
        """Return the value of the pickle at the position of `stream`."""
        rebuild = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": _parameter,
        }
        return run(stream, rebuild, self._storage)

    def _storage(self, pid: Any) -> _Storage:
        """Return the storage of ('storage', type, key, device, count[, None])."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise ValueError("a persistent id that is no storage")
        kind, key, numel = pid[1], pid[2], pid[4]
        if not isinstance(kind, Opaque) or kind.name not in _STORAGES:
            raise ValueError(f"a storage of an unknown type {getattr(kind, 'name', '')}")
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError("a storage that is part of another one")
        if type(key) is not str or not _is_count(numel):
            raise ValueError("a storage without key or size")
        known = self.storages.setdefault(key, _Storage(kind.name, numel))
        if (known.dtype, known.numel) != (_STORAGES[kind.name], numel):
            raise ValueError(f"two descriptions of storage {key}")
        return known

    def _tensor(self, args: tuple) -> Tensor:
        """Note a tensor (storage, offset, size, stride, ...); what follows says nothing about its values."""
        if len(args) < 4 or not isinstance(args[0], _Storage):
            raise ValueError("a tensor without storage")
        storage, offset, size, stride = args[:4]
        if not (
            isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= MAX_DIMS
        ):
            raise ValueError("a tensor without a shape")
        if not all(_is_count(number) for number in (offset, *size, *stride)):
            raise ValueError("a tensor with a shape that is no shape")
        count, end = math.prod(size), offset
        if count:
            end += 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if max(end, count) > storage.numel:  # more values than numbers would repeat some, perhaps without end
            raise ValueError(f"a tensor of shape {size} in a storage of {storage.numel} numbers")
        if len(self.pending) == MAX_TENSORS:
            raise ValueError(f"more than {MAX_TENSORS} tensors")
        tensor = torch.empty(0, dtype=storage.dtype)
        stride = tuple(step if n > 1 else 1 for n, step in zip(size, stride, strict=True))
        self.pending.append((tensor, storage, offset, size, stride))
        return tensor

    def fill(self, key: str, raw: memoryview) -> None:
        """Give a storage its bytes."""
        storage = self.storages[key]
        if len(raw) != storage.num_bytes():
            raise ValueError(f"{len(raw)} bytes for storage {key} of {storage.num_bytes()}")
        data = torch.empty(len(raw), dtype=torch.uint8)
        data.numpy()[:] = np.frombuffer(raw, np.uint8)
        storage.data = data.ne(0) if storage.dtype == torch.bool else data.view(storage.dtype)

    def finish(self) -> None:
        """Give the tensors their memory, once every storage has its bytes."""
        viewed = sum(math.prod(size) * storage.dtype.itemsize for _, storage, _, size, _ in self.pending)
        stored = sum(storage.num_bytes() for storage in self.storages.values())
        if viewed > 2 * stored + _SLACK_BYTES:  # a shared matrix is stored once and seen twice
            raise ValueError(f"tensors of {viewed} bytes in storages of {stored}")
        for tensor, storage, offset, size, stride in self.pending:
            if storage.data is None:
                raise ValueError("a storage without bytes")
            tensor.set_(storage.data.untyped_storage(), offset, size, stride)


def _parameter(args: tuple) -> Tensor:
    if not args or not isinstance(args[0], Tensor):
        raise ValueError("a parameter without tensor")
    return args[0]


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 48


def _no_storage(pid: Any) -> NoReturn:
    raise ValueError("a storage in the head of the file")


def _read_sequence(content: bytes) -> Any:
    """Read magic number, protocol, system, values and keys, then each storage: its count and its numbers."""
    if content[257:262] == b"ustar":
        raise ValueError("the tar format of PyTorch 0.1, which is not read")
    if content[:1] != b"\x80":
        raise ValueError("no container that torch.save writes")
    at = 0

    def next_pickle(load: Callable[[io.BytesIO], Any]) -> Any:
        nonlocal at
        stream = io.BytesIO(content[at : at + MAX_PICKLE_BYTES])
        value = load(stream)
        at += stream.tell()
        return value

    def plain(stream: io.BytesIO) -> Any:
        return run(stream, {}, _no_storage)

    if next_pickle(plain) != _MAGIC or next_pickle(plain) != _PROTOCOL:
        raise ValueError("a pickle that torch.save did not write")
    system = next_pickle(plain)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("another byte order than little-endian")
    tensors = _Tensors()
    values = next_pickle(tensors.run)
    keys = next_pickle(plain)
    if not isinstance(keys, list) or any(type(key) is not str for key in keys):
        raise ValueError("a list of storages without their keys")
    if sorted(keys) != sorted(tensors.storages):
        raise ValueError("a list of storages that are not those of its tensors")
    view = memoryview(content)
    for key in keys:
        storage = tensors.storages[key]
        if struct.unpack_from("<q", content, at) != (storage.numel,):
            raise ValueError(f"another size of storage {key} than it says")
        start, at = at + 8, at + 8 + storage.num_bytes()
        tensors.fill(key, view[start:at])
    tensors.finish()
    return values


def _read_zip(content: bytes) -> Any:
    """Read data.pkl of a zip archive and the entries data/<key> it needs."""
    entries = _entries(content)
    view = memoryview(content)

    def entry(name: str) -> memoryview:
        if name not in entries:
            raise ValueError(f"no entry {name}")
        start, size, crc = entries[name]
        if zlib.crc32(view[start : start + size]) != crc:
            raise ValueError(f"a wrong checksum of {name}")
        return view[start : start + size]

    suffix = "/data.pkl"
    roots = [name[: -len(suffix)] for name in entries if name.endswith(suffix) and name.count("/") == 1]
    if len(roots) != 1:
        raise ValueError(f"{len(roots)} entries data.pkl")
    root = f"{roots[0]}/"
    if f"{root}byteorder" in entries and bytes(entry(f"{root}byteorder")[:16]) != b"little":
        raise ValueError("another byte order than little-endian")
    pickle = entry(f"{root}data.pkl")
    if len(pickle) > MAX_PICKLE_BYTES:
        raise ValueError(f"a pickle of {len(pickle)} bytes")
    tensors = _Tensors()
    values = tensors.run(io.BytesIO(pickle))
    for key in tensors.storages:
        tensors.fill(key, entry(f"{root}data/{key}"))
    tensors.finish()
    return values


def _entries(content: bytes) -> dict[str, tuple[int, int, int]]:
    """Return start, size and CRC-32 of each entry of a zip archive: stored, whole, none over another."""
    end = content.rfind(b"PK\x05\x06", -(1 << 16) - 22)
    if end < 0:
        raise ValueError("a zip archive without its end")
    count, size, at = struct.unpack_from("<10xHII", content, end)
    if content[end - 20 : end - 16] == b"PK\x06\x07":
        (far_end,) = struct.unpack_from("<8xQ", content, end - 20)
        signature, count, size, at = struct.unpack_from("<4s28xQQQ", content, far_end)
        if signature != b"PK\x06\x06":
            raise ValueError("a zip archive without its end")
    if count > MAX_ENTRIES or at + size > end:
        raise ValueError(f"a zip directory of {count} entries and {size} bytes")
    found: dict[str, tuple[int, int, int]] = {}
    for _ in range(count):
        signature, flags, method, crc, packed, length, n_name, n_extra, n_note, local = struct.unpack_from(
            "<4s4xHH4xIIIHHH8xI", content, at
        )
        name = content[at + 46 : at + 46 + n_name].decode("ascii")
        extra = content[at + 46 + n_name : at + 46 + n_name + n_extra]
        length, packed, local = _wide([length, packed, local], extra)
        if signature != b"PK\x01\x02" or flags & 1 or method or packed != length or name in found:
            raise ValueError(f"the zip entry {name}, which is compressed, doubled or damaged")
        head, n_name, n_extra = struct.unpack_from("<4s22xHH", content, local)
        start = local + 30 + n_name + n_extra
        if head != b"PK\x03\x04" or start + length > len(content):
            raise ValueError(f"the zip entry {name}, whose data is not there")
        found[name] = (start, length, crc)
        at += 46 + len(name) + len(extra) + n_note
    if sum(length for _, length, _ in found.values()) > len(content):
        raise ValueError("zip entries that overlap")
    return found


def _wide(values: list[int], extra: bytes) -> list[int]:
    """Return the values with those that need 64 bits taken from the extra field of a zip entry."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{size // 8}Q", extra, at + 4))
            return [next(wide) if value == 0xFFFFFFFF else value for value in values]
        at += 4 + size
    return values
