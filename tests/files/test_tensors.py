"""Model files of other programs: tensors and plain values come back, anything else is refused or inert."""

import argparse
import collections
import io
import json
import pickle
from fractions import Fraction
from pathlib import Path

import pytest
import safetensors
import torch
from foreign import Meter, archive, assert_inert, sequence, torch_bytes

from hat.errors import CheckpointError
from hat.files.tensors import Opaque, read_foreign, write_safetensors

PATH = Path("foreign.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_comes_back(zipped: bool) -> None:
    base = torch.arange(24, dtype=torch.float).view(4, 6)
    dtypes = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    tensors = {name: torch.tensor([0, 1, 1, 0]).to(getattr(torch, name)) for name in dtypes}
    tensors |= {"complex": torch.tensor([1 + 2j]), "empty": torch.empty(0, 3), "scalar": torch.tensor(7)}
    tensors |= {"base": base, "turned": base.t(), "part": base[1:3, 2:4], "column": base[:, 5]}
    tensors |= {"parameter": torch.nn.Parameter(base)}
    plain = {"a": [1, -2, 10**30, 2.5, True, None, "\u00e9\x00"], "b": (b"\x00\xff", (), {1, 2}), 3: {}}
    value = {
        "tensors": collections.OrderedDict(tensors),
        "plain": plain,
        "args": argparse.Namespace(lr=[0.1], name="n"),
        "meter": Meter(),
        "size": torch.Size([2, 3]),
    }
    read = read_foreign(PATH, torch_bytes(value, zipped))
    assert list(read["tensors"]) == list(tensors)
    for name, tensor in tensors.items():
        assert read["tensors"][name].dtype == tensor.dtype
        assert torch.equal(read["tensors"][name], tensor), name
    assert read["plain"] == plain and read["size"] == (2, 3)
    assert read["args"] == {"lr": [0.1], "name": "n"} and isinstance(read["args"], dict)
    assert isinstance(read["meter"], Opaque) and not vars(read["meter"])
    read["tensors"]["turned"][0, 0] = 99.0
    assert read["tensors"]["base"][0, 0] == 99.0  # shared memory stays shared


@pytest.mark.parametrize("pack", [archive, sequence])
def test_what_is_refused_is_named(pack) -> None:
    many = b"\x80\x02(" + b"".join(b"cm\nC%d\n" % n for n in range(30)) + b"t."
    for body, said in (
        (pickle.dumps(Fraction(1, 3), 4), "Unsupported operand"),
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "os.system whose module os is blocked"),
        (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", "eval"),
        (many, "m.C"),
    ):
        with pytest.raises(CheckpointError, match=said) as refused:
            read_foreign(PATH, pack(body))
        text = str(refused.value)
        assert text.startswith("foreign.pt ") and "add_safe_globals" not in text and text.isprintable()
        assert "fetch it again, or save its weights with torch.save" in text


def test_what_is_allowed_is_allowed_while_reading_only() -> None:
    content = torch_bytes({"args": argparse.Namespace(a=1)}, True)
    read_foreign(PATH, content)
    assert not [each for each in torch.serialization.get_safe_globals() if "Namespace" in str(each)]
    with pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(content), weights_only=True)


def test_damage_is_one_error() -> None:
    whole = torch_bytes({"w": torch.arange(1000.0)}, True)
    flipped = bytearray(whole)
    flipped[whole.index(torch.arange(1000.0).numpy().tobytes()) + 2000] ^= 4
    old = torch_bytes({"w": torch.arange(1000.0)}, False)
    for content in (bytes(flipped), whole[:-10], old[:-10], b"", b"text\n" * 100, b"PK\x03\x04", old[:60]):
        with pytest.raises(CheckpointError, match=r"foreign\.pt is damaged or cannot be read safely"):
            read_foreign(PATH, content)


def test_sample_files_of_the_release() -> None:
    """Every value is what torch's own reader makes of it when it is trusted with the same classes."""
    files = sorted((Path(__file__).parents[3] / "shared" / "compat").glob("*/checkpoint.pt"))
    if not files:
        pytest.skip("the sample files are not here")
    for path in files:
        values = read_foreign(path, path.read_bytes())
        assert_inert(values)
        assert len(values["model"]) > 90 and values["args"]["arch"].startswith("transformersuper")


def test_safetensors_round_trip(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    weights = {"a": base.view(2, 3).t(), "b": base, "half": base.half(), "bf": base.bfloat16()}
    write_safetensors(tmp_path / "a.safetensors", weights, {"hat": json.dumps({"a": 1})})
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"hat": '{"a": 1}'} and set(file.keys()) == weights.keys()
        assert all(torch.equal(file.get_tensor(name), weights[name]) for name in weights)
