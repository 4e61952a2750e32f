"""Search spaces: what they refuse, their extremes, and `check`."""

from dataclasses import replace

import pytest
from hypothesis import given
from strategies import archs, spaces, spaces_with_archs

from hat.errors import ArchError
from hat.space import DecoderSpace, EncoderSpace, SearchSpace, validation_archs

SPACE = SearchSpace(
    EncoderSpace(12, 16, 4, (12, 8), (16, 8), (4, 2), (4, 2)),
    DecoderSpace(10, 14, 3, (10, 6), (14, 7), (3, 1), (4, 1), (2, 1), (1, 2, 3)),
    8,
)
KEYS = {
    ("encoder", "embed_choice"): ("encoder-embed-choice", 13),
    ("encoder", "ffn_choice"): ("encoder-ffn-embed-dim-choice", 17),
    ("encoder", "layers_choice"): ("encoder-layer-num-choice", 5),
    ("encoder", "self_heads_choice"): ("encoder-self-attention-heads-choice", 16),
    ("decoder", "embed_choice"): ("decoder-embed-choice", 11),
    ("decoder", "ffn_choice"): ("decoder-ffn-embed-dim-choice", 15),
    ("decoder", "layers_choice"): ("decoder-layer-num-choice", 4),
    ("decoder", "self_heads_choice"): ("decoder-self-attention-heads-choice", 16),
    ("decoder", "cross_heads_choice"): ("decoder-ende-attention-heads-choice", 16),
    ("decoder", "cross_span_choice"): ("decoder-arbitrary-ende-attn-choice", 4),
}


def changed(side: str, field: str, value: object, **more: object) -> SearchSpace:
    return replace(SPACE, **{side: replace(getattr(SPACE, side), **{field: value})}, **more)


@pytest.mark.parametrize(("side", "field"), KEYS, ids=str)
@pytest.mark.parametrize("kind", ["empty", "zero", "too large", "no whole number"])
def test_choices_name_their_key(side: str, field: str, kind: str) -> None:
    key, beyond = KEYS[side, field]
    value = {"empty": (), "zero": (1, 0), "too large": (1, beyond), "no whole number": (1, 2.5)}[kind]
    with pytest.raises(ArchError, match=f"^{key} "):
        changed(side, field, value)


@pytest.mark.parametrize("field", ["self_heads_choice", "cross_heads_choice"])
def test_heads_must_divide_qkv_dim(field: str) -> None:
    key = KEYS["decoder", field][0]
    with pytest.raises(ArchError, match=f"{key}: 3 heads do not divide qkv-dim 8"):
        changed("decoder", field, (4, 3))
    changed("decoder", field, (4, 3), qkv_dim=12)


def test_shallow_encoder_needs_a_span_it_can_serve() -> None:
    with pytest.raises(ArchError, match="2 layers, but every choice of decoder-arbitrary-ende-attn-choice"):
        changed("decoder", "cross_span_choice", (3,))


@pytest.mark.parametrize(
    ("side", "field", "value", "message"),
    [
        (
            "encoder",
            "embed_dim",
            9,
            r"encoder embed dim: 9 is not in the space \{8, 12\}; see encoder-embed-",
        ),
        ("encoder", "ffn_dims", (8, 9, 8, 8), "encoder ffn dim at layer 1: 9 .*encoder-ffn-embed-dim-choice"),
        ("encoder", "self_heads", (4, 4, 4, 1), "heads at layer 3: 1 .*encoder-self-attention-heads-choice"),
        ("decoder", "embed_dim", 12, "decoder embed dim: 12 .*decoder-embed-choice"),
        ("decoder", "ffn_dims", (7, 7, 8), "decoder ffn dim at layer 2: 8 .*decoder-ffn-embed-dim-choice"),
        (
            "decoder",
            "self_heads",
            (2, 4, 4),
            "self heads at layer 0: 2 .*decoder-self-attention-heads-choice",
        ),
        ("decoder", "cross_heads", (4, 1, 1), "cross heads at layer 0: 4 .*decoder-ende-attention-heads-"),
    ],
)
def test_check_names_value_layer_and_key(side: str, field: str, value: object, message: str) -> None:
    arch = SPACE.largest()
    assert SPACE.check(arch) is arch
    wrong = replace(arch, **{side: replace(getattr(arch, side), **{field: value})})
    with pytest.raises(ArchError, match=message):
        SPACE.check(wrong)


def test_check_refuses_depths_and_spans() -> None:
    arch = SPACE.largest()
    enc = replace(arch.encoder, ffn_dims=(8,) * 3, self_heads=(4,) * 3)
    with pytest.raises(ArchError, match=r"encoder layers: 3 is not in the space \{2, 4\}"):
        SPACE.check(replace(arch, encoder=enc))
    dec = replace(arch.decoder, **{f: v[:2] for f, v in vars(arch.decoder).items() if isinstance(v, tuple)})
    with pytest.raises(ArchError, match=r"decoder layers: 2 is not in the space \{1, 3\}"):
        SPACE.check(replace(arch, decoder=dec))
    narrow = changed("decoder", "cross_span_choice", (1, 2))
    with pytest.raises(ArchError, match="cross span at layer 0: 3 .*decoder-arbitrary-ende-attn-choice"):
        narrow.check(arch)


@given(spaces())
def test_extremes_bound_the_space(space: SearchSpace) -> None:
    largest, smallest = space.check(space.largest()), space.check(space.smallest())
    enc = space.encoder
    assert largest.encoder.embed_dim == max(enc.embed_choice)
    assert largest.encoder.ffn_dims == (max(enc.ffn_choice),) * max(enc.layers_choice)
    assert smallest.decoder.num_layers == min(space.decoder.layers_choice)
    assert set(smallest.decoder.cross_span) == {min(space.decoder.cross_span_choice)}
    assert max(largest.decoder.cross_span) == max(
        span for span in space.decoder.cross_span_choice if span <= largest.encoder.num_layers
    )
    for name, arch in validation_archs(space).items():
        space.check(arch)
        if 2 in space.decoder.cross_span_choice and arch.encoder.num_layers >= 2:
            assert set(arch.decoder.cross_span) == {2}
        else:
            assert arch == getattr(space, name)()


@given(spaces_with_archs())
def test_drawn_architectures_pass(drawn) -> None:
    space, arch = drawn
    assert space.check(arch) is arch


@given(spaces().flatmap(lambda space: archs(space).map(lambda arch: (space, arch))))
def test_spans_for(drawn) -> None:
    space, arch = drawn
    allowed = space.spans_for(arch.encoder.num_layers)
    assert allowed and set(allowed) <= set(space.decoder.cross_span_choice)
    assert set(arch.decoder.cross_span) <= set(allowed)
