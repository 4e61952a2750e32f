"""Genes, release YAML, options, features and plain values describe the same architecture."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import spaces, spaces_with_archs

from hat.errors import ArchError
from hat.space import (
    FEATURE_NAMES,
    Arch,
    ArchOptions,
    DecoderArch,
    EncoderArch,
    SpaceOptions,
    arch_of,
    arch_of_gene,
    features,
    gene_choices,
    gene_of,
    space_from_plain,
    space_of,
    space_to_plain,
)

ARCH = Arch(
    EncoderArch(512, (3072, 1024), (8, 4)),
    DecoderArch(640, (2048, 1024, 2048), (8, 8, 4), (4, 4, 8), (1, 2, 1)),
)
RELEASE = {
    "encoder-embed-dim-subtransformer": 512,
    "decoder-embed-dim-subtransformer": 640,
    "encoder-ffn-embed-dim-all-subtransformer": [3072, 1024],
    "decoder-ffn-embed-dim-all-subtransformer": [2048, 1024, 2048],
    "encoder-layer-num-subtransformer": 2,
    "decoder-layer-num-subtransformer": 3,
    "encoder-self-attention-heads-all-subtransformer": [8, 4],
    "decoder-self-attention-heads-all-subtransformer": [8, 8, 4],
    "decoder-ende-attention-heads-all-subtransformer": [4, 4, 8],
    "decoder-arbitrary-ende-attn-all-subtransformer": [-1, 1, -1],
}


@given(spaces_with_archs())
def test_round_trips(drawn) -> None:
    space, arch = drawn
    assert arch_of_gene(gene_of(arch, space), space) == arch
    assert Arch.from_yaml(json.loads(json.dumps(arch.to_yaml()))) == arch
    assert space_from_plain(json.loads(json.dumps(space_to_plain(space)))) == space


@given(spaces(), st.data())
def test_every_gene_is_an_architecture_of_the_space(space, data) -> None:
    choices = gene_choices(space)
    gene = tuple(data.draw(st.sampled_from(choice)) for choice in choices)
    arch = space.check(arch_of_gene(gene, space))
    again = gene_of(arch, space)
    assert len(again) == len(choices)
    assert all(value in choice for value, choice in zip(again, choices, strict=True))
    assert arch_of_gene(again, space) == arch


@given(spaces(), st.data())
def test_dormant_genes_do_not_matter(space, data) -> None:
    gene = list(gene_of(space.smallest(), space))
    layers = space.smallest().encoder.num_layers
    if layers < space.encoder.super_layers:
        gene[2 + layers] = data.draw(st.sampled_from(space.encoder.ffn_choice))  # FFN of a layer not used
    assert arch_of_gene(tuple(gene), space) == space.smallest()


def test_gene_order_of_the_release() -> None:
    options = SpaceOptions(
        encoder_layers=2, encoder_layer_num_choice=(2, 1), decoder_layers=3, decoder_layer_num_choice=(3, 1),
        encoder_embed_dim=640, encoder_embed_choice=(512,), decoder_embed_dim=640,
        encoder_ffn_embed_dim=3072, encoder_ffn_embed_dim_choice=(3072, 1024), qkv_dim=512,
        encoder_self_attention_heads_choice=(8, 4), decoder_self_attention_heads_choice=(8, 4),
        decoder_ende_attention_heads_choice=(8, 4), decoder_ffn_embed_dim_choice=(2048, 1024),
        decoder_arbitrary_ende_attn_choice=(-1, 1),
    )  # fmt: skip
    space = space_of(options)
    gene = (512, 2, 3072, 1024, 8, 4, 640, 3, 2048, 1024, 2048, 8, 8, 4, 4, 4, 8, 1, 2, 1)
    assert gene_of(space.check(ARCH), space) == gene
    shallow = (512, 1, *gene[2:])
    assert arch_of_gene(shallow, space).decoder.cross_span == (1, 1, 1)  # the deepest span that fits


def test_release_yaml() -> None:
    assert ARCH.to_yaml() == RELEASE
    assert list(ARCH.to_yaml()) == list(RELEASE)
    assert Arch.from_yaml(RELEASE | {"unrelated": 1}) == ARCH


@pytest.mark.parametrize("key", [key for key in RELEASE if key.endswith("all-subtransformer")])
def test_wrong_list_length_names_the_key(key: str) -> None:
    depth = RELEASE[f"{key[:7]}-layer-num-subtransformer"]
    for wrong in (RELEASE[key][:-1], [*RELEASE[key], RELEASE[key][0]]):
        with pytest.raises(ArchError, match=f"^{key} lists {len(wrong)} layers, but the depth is {depth}"):
            Arch.from_yaml(RELEASE | {key: wrong})


@pytest.mark.parametrize("key", list(RELEASE))
def test_missing_key_is_named(key: str) -> None:
    with pytest.raises(ArchError, match=f"lacks {key}; give all ten"):
        Arch.from_yaml({k: v for k, v in RELEASE.items() if k != key})


def test_no_architecture() -> None:
    assert arch_of(ArchOptions()) is None
    with pytest.raises(ArchError, match="no \\*-subtransformer key found"):
        Arch.from_yaml({"encoder-embed-dim": 3})


@pytest.mark.parametrize("code", [0, 3, -2])
def test_span_codes(code: int) -> None:
    key = "decoder-arbitrary-ende-attn-all-subtransformer"
    with pytest.raises(ArchError, match=f"{key} allows -1, 1 and 2 .*got {code}"):
        Arch.from_yaml(RELEASE | {key: [-1, 1, code]})
    with pytest.raises(ArchError, match=f"arbitrary-ende-attn-choice allows -1, 1 and 2 .*got {code}"):
        space_of(SpaceOptions(decoder_arbitrary_ende_attn_choice=(-1, code)))


def test_choices_left_out_hold_the_super_size() -> None:
    space = space_of(SpaceOptions(encoder_embed_dim=640, encoder_attention_heads=4))
    assert space.largest() == space.smallest()
    assert (space.qkv_dim, space.encoder.embed_choice, space.encoder.self_heads_choice) == (640, (640,), (4,))
    assert space.decoder.cross_span_choice == (1,)
    wider = space_of(SpaceOptions(qkv_dim=64, decoder_arbitrary_ende_attn_choice=(-1, 1, 2)))
    assert (wider.qkv_dim, wider.decoder.cross_span_choice) == (64, (1, 2, 3))


def test_features_by_hand() -> None:
    expected = [512, 2, 2048, 6, 640, 3, 5120 / 3, 20 / 3, 16 / 3, 4 / 3]
    assert features(ARCH) == pytest.approx(expected)
    assert len(FEATURE_NAMES) == 10 == len(set(FEATURE_NAMES))


@given(spaces_with_archs())
def test_features_see_every_field(drawn) -> None:
    _, arch = drawn
    vector = features(arch)
    assert len(vector) == 10 and all(type(value) is float for value in vector)
    dec = arch.decoder
    for position, field in ((6, "ffn_dims"), (7, "self_heads"), (8, "cross_heads")):
        values = getattr(dec, field)
        more = replace(arch, decoder=replace(dec, **{field: (values[0] + 1, *values[1:])}))
        moved = [i for i, pair in enumerate(zip(vector, features(more), strict=True)) if pair[0] != pair[1]]
        assert moved == [position]
