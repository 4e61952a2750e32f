"""Architectures refuse values that contradict themselves."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from strategies import spaces_with_archs

from hat.errors import ArchError
from hat.space import Arch, DecoderArch, EncoderArch

ENCODER = {"embed_dim": 8, "ffn_dims": (4, 8), "self_heads": (1, 2)}
DECODER = {"embed_dim": 8, "ffn_dims": (4,), "self_heads": (1,), "cross_heads": (2,), "cross_span": (2,)}


def test_depth_is_the_length_of_the_lists() -> None:
    arch = Arch(EncoderArch(**ENCODER), DecoderArch(**DECODER))
    assert (arch.encoder.num_layers, arch.decoder.num_layers) == (2, 1)
    with pytest.raises(FrozenInstanceError):
        arch.encoder.embed_dim = 4  # type: ignore[misc]


@pytest.mark.parametrize("field", list(ENCODER))
@pytest.mark.parametrize("value", [0, -1, (), (0, 1), (True, 1), (1.0, 1), ("1", 1), None, 1.5, [4, 4]])
def test_encoder_values(field: str, value: object) -> None:
    with pytest.raises(ArchError, match=f"EncoderArch.{field} must hold positive whole numbers"):
        EncoderArch(**(ENCODER | {field: value}))


@pytest.mark.parametrize("field", ["ffn_dims", "self_heads", "cross_heads", "cross_span"])
def test_decoder_lists_of_unequal_length(field: str) -> None:
    with pytest.raises(ArchError, match=f"equal length, got .*'{field}': 2"):
        DecoderArch(**(DECODER | {field: (1, 1)}))


def test_encoder_lists_of_unequal_length() -> None:
    with pytest.raises(ArchError, match=r"EncoderArch must have equal length, got \{'ffn_dims': 2"):
        EncoderArch(8, (4, 4), (1, 1, 1))


def test_span_beyond_the_encoder() -> None:
    with pytest.raises(ArchError, match="last 3 encoder layers, but the encoder has 2.*arbitrary-ende-attn"):
        Arch(EncoderArch(**ENCODER), DecoderArch(**(DECODER | {"cross_span": (3,)})))


@given(spaces_with_archs())
def test_architectures_are_values(drawn) -> None:
    _, arch = drawn
    twin = Arch(EncoderArch(**vars(arch.encoder)), DecoderArch(**vars(arch.decoder)))
    assert arch == twin and hash(arch) == hash(twin)
    assert max(arch.decoder.cross_span) <= arch.encoder.num_layers
