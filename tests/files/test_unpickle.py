"""The restricted reader: what torch.save writes comes back, what contradicts itself is refused."""

import argparse
import collections
import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from foreign import RAW, Meter, archive, both, sequence, tensor_pickle, torch_bytes

from hat.errors import CheckpointError
from hat.files.pickle_machine import Opaque
from hat.files.unpickle import read_foreign

PATH = Path("foreign.pt")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_comes_back(zipped: bool, protocol: int) -> None:
    base = torch.arange(24, dtype=torch.float).view(4, 6)
    dtypes = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    tensors = {name: torch.tensor([0, 1, 1, 0]).to(getattr(torch, name)) for name in dtypes}
    tensors |= {"complex": torch.tensor([1 + 2j]), "empty": torch.empty(0, 3), "scalar": torch.tensor(7)}
    tensors |= {"base": base, "turned": base.t(), "part": base[1:3, 2:4], "column": base[:, 5]}
    tensors |= {"parameter": torch.nn.Parameter(base)}
    plain = {
        "a": [1, -2, 10**30, 2.5, True, None, "\u00e9\x00"],
        "b": (b"\x00\xff", (), {1, 2}, frozenset("x")),
        3: {},
    }
    value = {
        "tensors": collections.OrderedDict(tensors),
        "plain": plain,
        "args": argparse.Namespace(lr=[0.1], name="n"),
        "meter": Meter(),
        "size": torch.Size([2, 3]),
    }
    read = read_foreign(PATH, torch_bytes(value, zipped, protocol))
    assert list(read["tensors"]) == list(tensors) and type(read["tensors"]) is dict
    for name, tensor in tensors.items():
        assert read["tensors"][name].dtype == tensor.dtype
        assert torch.equal(read["tensors"][name], tensor), name
    assert read["plain"] == plain
    assert read["args"] == {"lr": [0.1], "name": "n"} and type(read["args"]) is dict
    assert isinstance(read["meter"], Opaque) and read["meter"].name.endswith("Meter")
    assert read["size"] == (2, 3)
    read["tensors"]["turned"][0, 0] = 99.0
    assert read["tensors"]["base"][0, 0] == 99.0  # shared memory stays shared
    assert read["tensors"]["base"].data_ptr() % 64 == 0


def test_a_tensor_written_by_hand() -> None:
    for content in both(tensor_pickle((2, 2), (1, 2))):
        assert read_foreign(PATH, content).tolist() == [[1, 3], [2, 4]]
    for content in both(tensor_pickle((4,), (1,))):
        with pytest.raises(CheckpointError):
            read_foreign(PATH, content[: len(content) - 5])


@pytest.mark.parametrize(
    ("size", "stride", "offset", "numel"),
    [
        ((5,), (1,), 0, 4),
        ((4,), (1,), 1, 4),
        ((2, 2), (3, 1), 0, 4),
        ((1 << 40,), (0,), 0, 4),  # one number seen a trillion times
        ((5,), (0,), 0, 4),
        ((4,), (-1,), 3, 4),
        ((-1,), (1,), 0, 4),
        ((4,), (1,), -1, 4),
        ((4,), (1, 1), 0, 4),
        ((1,) * 40, (1,) * 40, 0, 4),
        ((1 << 62, 4), (1, 1), 0, 4),
        ((4,), (1 << 62,), 0, 4),
        ((4,), (1,), 0, 1 << 40),
        ((4,), (1,), 0, 1 << 62),
        ((4,), (1,), 0, 5),
        ((4,), (1,), 0, -4),
    ],
)
def test_shapes_beyond_the_storage_are_refused(size: tuple, stride: tuple, offset: int, numel: int) -> None:
    for content in both(tensor_pickle(size, stride, offset, numel), numel=numel):
        with pytest.raises(CheckpointError, match=r"foreign\.pt .*(allowed).*(fetch|save)"):
            read_foreign(PATH, content)


def test_unknown_storages_are_refused() -> None:
    good = tensor_pickle((4,), (1,))
    changes = [
        (b"FloatStorage", b"QUInt8Storage"),
        (b"storage", b"module."),
        (b"cpu", b"cpu0"),  # a length that does not fit
        (b"tQ", b"Nt0NQ"),
        (b"(X\x07", b"(NX\x07"),
        (b"\x000X\x03", b"\x001X\x03"),  # another key
    ]
    for old, new in changes:
        assert old in good
        for content in both(good.replace(old, new)):
            with pytest.raises(CheckpointError):
                read_foreign(PATH, content)


def test_many_views_of_one_storage_are_refused() -> None:
    """Each costs nothing here, but a converter would copy each."""
    one = torch.zeros(100_000)
    for zipped in (True, False):
        with pytest.raises(CheckpointError, match="tensors of"):
            read_foreign(PATH, torch_bytes([one.view(-1) for _ in range(8)], zipped))
        assert len(read_foreign(PATH, torch_bytes([one, one.view(100, 1000)], zipped))) == 2


def test_zip_archives_that_torch_does_not_write() -> None:
    body = pickle.dumps([1], 2)
    assert read_foreign(PATH, archive(body, byteorder=b"little")) == [1]
    bad = {
        "compressed": archive(b"\x80\x02" + b"N0" * 99 + b"N.", zipfile.ZIP_DEFLATED),
        "big": archive(body, byteorder=b"big"),
        "big sequence": sequence(body, little=False),
        "no root": archive(body).replace(b"x/data.pkl", b"x/data.pkx"),
        "two roots": archive(body, **{"..__y__data.pkl": body}).replace(b"x/../y", b"z12345"),
        "no storage": archive(tensor_pickle((4,), (1,))),
        "long storage": archive(tensor_pickle((4,), (1,)), data__0=RAW + RAW),
        "flipped": archive(body).replace(b"K\x01a.", b"K\x02a."),
        "bomb count": archive(body)[:-12] + struct.pack("<HIIH", 65535, 1 << 31, 0, 0),
        "cut": archive(body)[:-10],
        "empty": b"",
        "text": b"not a checkpoint\n" * 100,
        "tar": bytes(257) + b"ustar" + bytes(500),
        "plain pickle": body,
    }
    for name, content in bad.items():
        with pytest.raises(CheckpointError):
            print(name, read_foreign(PATH, content))


def test_entries_over_each_other_are_refused() -> None:
    """Two directory entries for one block would double the memory, and a thousand a thousandfold."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps(1, 2))
        file.writestr("x/data/0", bytes(10_000))
        first = file.infolist()[1]
        for number_ in range(5):
            copy = zipfile.ZipInfo(f"x/data/{number_ + 1}")
            copy.header_offset, copy.CRC, copy.file_size = first.header_offset, first.CRC, first.file_size
            copy.compress_size = first.compress_size
            file.filelist.append(copy)
    with pytest.raises(CheckpointError, match="overlap"):
        read_foreign(PATH, buffer.getvalue())
