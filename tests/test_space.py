"""Architectures and spaces: what they refuse, draws; genes, YAML, features and plain values agree."""

import hashlib
import json
import random
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import spaces, spaces_with_archs

import hat.space as hs
from hat.errors import ArchError
from hat.rng import rng_for, seed_for
from hat.space import Arch, DecoderArch, DecoderSpace, EncoderArch, EncoderSpace, SearchSpace

ROOT = Path(__file__).parents[1]
STREAMS = ["c1b4dd96a2ae", "d441c7dd79fe"]  # of version 0.1
SPACE = SearchSpace(
    EncoderSpace(12, 16, 4, (12, 8), (16, 8), (4, 2), (4, 2)),
    DecoderSpace(10, 14, 3, (10, 6), (14, 7), (3, 1), (4, 1), (2, 1), (1, 2, 3)),
    8,
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


def changed(side: str, field: str, value: object, **more: object) -> SearchSpace:
    return replace(SPACE, **{side: replace(getattr(SPACE, side), **{field: value})}, **more)


@pytest.mark.parametrize("field", ["embed_dim", "ffn_dims", "self_heads"])
@pytest.mark.parametrize("value", [0, (), (0, 1), (True, 1), (1.0, 1), ("1", 1), None, 1.5, [4, 4]])
def test_an_architecture_holds_whole_positive_numbers(field: str, value: object) -> None:
    with pytest.raises(ArchError, match=f"EncoderArch.{field} must hold positive whole numbers"):
        EncoderArch(**{"embed_dim": 8, "ffn_dims": (4, 8), "self_heads": (1, 2), field: value})


@pytest.mark.parametrize("field", ["ffn_dims", "self_heads", "cross_heads", "cross_span"])
def test_lists_have_one_length_which_is_the_depth(field: str) -> None:
    assert ARCH.decoder.num_layers == 3
    with pytest.raises(ArchError, match=f"DecoderArch must have equal length, got .*'{field}': 2"):
        replace(ARCH.decoder, **{field: (1, 1)})


@pytest.mark.parametrize("dim", hs.DIMS, ids=lambda dim: dim.label)
@pytest.mark.parametrize("kind", ["empty", "zero", "too large", "no whole number"])
def test_choices_name_their_key(dim, kind: str) -> None:
    limit = SPACE.sizes[dim.limit] if isinstance(dim.limit, str) else dim.limit
    value = {"empty": (), "zero": (1, 0), "too large": (1, limit + 1), "no whole number": (1, 2.5)}[kind]
    with pytest.raises(ArchError, match=f"^{dim.choice_key} "):
        changed(dim.side, dim.choice_attr, value)


@pytest.mark.parametrize(
    ("field", "choice", "message"),
    [
        ("self_heads_choice", (4, 3), "heads-choice: 3 heads do not divide qkv-dim of the decoder 8"),
        ("cross_heads_choice", (4, 3), "heads-choice: 3 heads do not divide qkv-dim of the decoder 8"),
        ("cross_span_choice", (3,), "2 layers, but every choice of decoder-arbitrary-ende-attn-choice"),
    ],
)
def test_choices_that_cannot_be_served(field: str, choice: tuple[int, ...], message: str) -> None:
    with pytest.raises(ArchError, match=message):
        changed("decoder", field, choice)
    if field != "cross_span_choice":
        changed("decoder", field, choice, decoder_qkv=12)


@pytest.mark.parametrize(
    ("side", "values", "message"),
    [
        ("encoder", {"embed_dim": 9}, r"encoder embed dim: 9 is not in the space \{8, 12\}; see encoder-em"),
        ("encoder", {"ffn_dims": (8, 9, 8, 8)}, "ffn dim at layer 1: 9 .*encoder-ffn-embed-dim-choice"),
        ("decoder", {"self_heads": (2, 4, 4)}, "self heads at layer 0: 2 .*decoder-self-attention-heads-"),
        ("decoder", {"cross_heads": (4, 1, 1)}, "cross heads at layer 0: 4 .*decoder-ende-attention-heads-"),
        ("encoder", {"ffn_dims": (8,) * 3, "self_heads": (4,) * 3}, r"layers: 3 is not in the .* \{2, 4\}"),
    ],
)
def test_check_names_value_layer_and_key(side: str, values: dict[str, object], message: str) -> None:
    arch = SPACE.largest()
    assert SPACE.check(arch) is arch
    with pytest.raises(ArchError, match=message):
        SPACE.check(replace(arch, **{side: replace(getattr(arch, side), **values)}))
    with pytest.raises(ArchError, match="cross span at layer 0: 3 .*decoder-arbitrary-ende-attn-choice"):
        changed("decoder", "cross_span_choice", (1, 2)).check(arch)


def test_size_counts_every_architecture() -> None:
    space = SearchSpace(
        EncoderSpace(4, 4, 2, (4, 2), (4,), (2, 1), (1,)),
        DecoderSpace(4, 4, 2, (4,), (4, 2), (1, 2), (1,), (1,), (1, 2)),
        4,
    )
    genes = hs.gene_choices(space)
    drawn = {hs.arch_of_gene(tuple(map(random.Random(n).choice, genes)), space) for n in range(3000)}
    assert space.size() == len(drawn) == 2 * (2 + 2**2) + 2 * (4 + 4**2)
    depths = Counter((arch.encoder.num_layers, arch.decoder.num_layers) for arch in drawn)
    assert space.sizes_by_depth() == depths == {(2, 2): 32, (2, 1): 8, (1, 2): 8, (1, 1): 4}
    assert space.sizes_by_dim() == {dim: len({arch[dim] for arch in drawn}) for dim in hs.DIMS}


@given(spaces_with_archs())
def test_round_trips(drawn) -> None:
    space, arch = drawn
    assert space.check(arch) is arch
    assert hs.arch_of_gene(hs.gene_of(arch, space), space) == arch
    assert Arch.from_yaml(json.loads(json.dumps(arch.to_yaml()))) == arch
    assert hs.space_from_plain(json.loads(json.dumps(asdict(space)))) == space
    assert len(hs.layer_columns(arch, space)) == len(hs.layer_columns(space.smallest(), space))


@given(spaces(), st.data())
def test_every_gene_is_an_architecture_of_the_space(space, data) -> None:
    choices = hs.gene_choices(space)
    drawn = tuple(data.draw(st.sampled_from(choice)) for choice in choices)
    arch = space.check(hs.arch_of_gene(drawn, space))
    again = hs.gene_of(arch, space)
    assert all(value in choice for value, choice in zip(again, choices, strict=True))
    assert hs.arch_of_gene(again, space) == arch
    gene, layers = list(again), arch.encoder.num_layers
    if layers < space.encoder.super_layers:
        gene[2 + layers] = data.draw(st.sampled_from(space.encoder.ffn_choice))  # FFN of a layer not used
    assert hs.arch_of_gene(tuple(gene), space) == arch


def test_gene_order_of_the_release() -> None:
    space = SearchSpace(
        EncoderSpace(640, 3072, 2, (512,), (3072, 1024), (2, 1), (8, 4)),
        DecoderSpace(640, 2048, 3, (640,), (2048, 1024), (3, 1), (8, 4), (8, 4), (1, 2)),
        512,
    )
    gene = (512, 2, 3072, 1024, 8, 4, 640, 3, 2048, 1024, 2048, 8, 8, 4, 4, 4, 8, 1, 2, 1)
    assert hs.gene_of(space.check(ARCH), space) == gene
    shallow = (512, 1, *gene[2:])
    assert hs.arch_of_gene(shallow, space).decoder.cross_span == (1, 1, 1)  # the deepest span that fits


def test_release_yaml(tmp_path: Path) -> None:
    assert ARCH.to_yaml() == RELEASE and list(ARCH.to_yaml()) == list(RELEASE)
    assert Arch.from_yaml(RELEASE | {"unrelated": 1}) == ARCH
    (tmp_path / "a.yml").write_text(json.dumps(RELEASE))  # JSON is YAML
    assert Arch.from_yaml(tmp_path / "a.yml") == ARCH
    sizes = {"decoder-embed-dim": 640, "encoder-ffn-embed-dim": 3072, "qkv-dim": 512}
    around = SearchSpace.from_yaml(RELEASE | sizes)  # a file of an architecture gives no choices
    options = hs.SpaceOptions(**{key.replace("-", "_"): value for key, value in sizes.items()})
    assert around == hs.space_of(options, ARCH) and around.size() == 4**2 * (2**4) ** 3 and around.check(ARCH)
    assert around.decoder.cross_span_choice == (2, 1)
    (shipped,) = ROOT.glob("configs/wmt14.en-de/supertransformer/space0.yml")
    assert SearchSpace.from_yaml(shipped).decoder.cross_span_choice == (1, 2, 3)


@pytest.mark.parametrize("key", list(RELEASE))
def test_a_wrong_value_names_its_key(key: str) -> None:
    with pytest.raises(ArchError, match=f"lacks {key}; give all ten"):
        Arch.from_yaml({k: v for k, v in RELEASE.items() if k != key})
    for wrong in ("x", True, [1.5], {}, [[1]]):
        with pytest.raises(ArchError, match=f"{key}: .*(is not a whole number|takes one value)"):
            Arch.from_yaml(RELEASE | {key: wrong})
    if "-all-" not in key:
        return
    depth = RELEASE[f"{key[:7]}-layer-num-subtransformer"]
    for wrong in (RELEASE[key][:-1], [*RELEASE[key], RELEASE[key][0]]):
        with pytest.raises(ArchError, match=f"^{key} lists {len(wrong)} layers, but the depth is {depth}"):
            Arch.from_yaml(RELEASE | {key: wrong})


@pytest.mark.parametrize("code", [0, 3, -2])
def test_span_codes(code: int) -> None:
    key = "decoder-arbitrary-ende-attn-all-subtransformer"
    with pytest.raises(ArchError, match=f"{key} allows -1, 1 and 2 .*got {code}"):
        Arch.from_yaml(RELEASE | {key: [-1, 1, code]})
    with pytest.raises(ArchError, match=f"arbitrary-ende-attn-choice allows -1, 1 and 2 .*got {code}"):
        SearchSpace.from_yaml({"decoder-arbitrary-ende-attn-choice": [-1, code]})
    with pytest.raises(ArchError, match="no \\*-subtransformer key found"):
        Arch.from_yaml({"encoder-embed-dim": 3})


def test_choices_left_out_hold_the_super_size() -> None:
    space = SearchSpace.from_yaml({"encoder-embed-dim": 640, "encoder-attention-heads": 4})
    assert space.largest() == space.smallest()
    assert (space.qkv_dim, space.encoder.embed_choice, space.encoder.self_heads_choice) == (640, (640,), (4,))
    assert (space.decoder_qkv_dim, space.decoder.cross_span_choice) == (512, (1,))


def test_features_by_hand() -> None:
    assert hs.features(ARCH) == pytest.approx([512, 2, 2048, 6, 640, 3, 5120 / 3, 20 / 3, 16 / 3, 4 / 3])
    layered = hs.layer_features(ARCH)
    assert len(hs.FEATURE_NAMES) == 10 and len(set(hs.LAYER_FEATURE_NAMES)) == len(layered) == 17
    assert layered[10:12] == [(3072**2 + 1024**2) / 2, 40] and layered[-1] == 20 / 3


@given(spaces(), st.integers(0, 1 << 32), st.integers(0, 10_000))
def test_draws_are_functions_of_seed_and_update(space: SearchSpace, seed: int, n: int) -> None:
    space.check(hs.sample(space, random.Random(seed)))
    for name, arch in hs.validation_archs(space).items():
        two = 2 in space.decoder.cross_span_choice and arch.encoder.num_layers >= 2
        assert set(arch.decoder.cross_span) == {2} if two else arch == getattr(space, name)()
    for draw in (hs.draw_arch, hs.draw_fair_arch):
        first = space.check(draw(space, seed, n))
        random.random()
        draw(space, seed, n + 1)
        assert draw(space, seed, n) == first


def test_the_streams_of_draws_stay_as_they_are() -> None:
    """A change would break every resume of older runs."""
    by_hand = int.from_bytes(hashlib.sha256(b"7:('arch', 3)").digest()[:8], "little") // 2
    assert seed_for(7, "arch", 3) == by_hand
    streams = [(7, "arch", 3), (7, "arch", "3"), (8, "arch", 3), (7, "arch"), (7, "a", 3)]
    assert len({seed_for(*stream) for stream in streams}) == len(streams)
    assert rng_for(7, "x").random() == rng_for(7, "x").random() != rng_for(7, "y").random()
    for draw, expected in zip((hs.draw_arch, hs.draw_fair_arch), STREAMS, strict=True):
        genes = [hs.gene_of(draw(SPACE, 7, n), SPACE) for n in range(50)]
        assert hashlib.sha256(repr(genes).encode()).hexdigest()[:12] == expected
