"""Parameters and FLOPs: the closed forms, torchprofile and the figures of the release agree."""

import csv
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from strategies import spaces_with_archs

from hat.model.count import count_macs, count_params, profile_macs
from hat.model.layers import ModelConfig
from hat.model.transformer import SubTransformer
from hat.space import Arch, DecoderArch, DecoderSpace, EncoderArch, EncoderSpace, SearchSpace

RELEASED = Path(__file__).parents[2].parent / "shared" / "hat_release" / "models.csv"


def release_space(ffn: tuple[int, ...], heads: tuple[int, ...]) -> SearchSpace:
    depths = (6, 5, 4, 3, 2, 1)
    return SearchSpace(
        EncoderSpace(640, ffn[0], 6, (640, 512), ffn, (6,), heads),
        DecoderSpace(640, ffn[0], 6, (640, 512), ffn, depths, heads, heads, (1, 2, 3)),
        512,
    )


SPACES = {"wmt": release_space((3072, 2048, 1024), (8, 4)), "iwslt": release_space((2048, 1024, 512), (4, 2))}


def released() -> list[dict[str, str]]:
    if not RELEASED.exists():
        return []
    with open(RELEASED, encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["params_m"]]


def case(row: dict[str, str]) -> tuple[SearchSpace, Arch, int]:
    def ints(key: str) -> tuple[int, ...]:
        return tuple(int(word) for word in row[key].split())

    encoder = EncoderArch(
        int(row["encoder_embed_dim"]), ints("encoder_ffn_embed_dim"), ints("encoder_self_attention_heads")
    )
    decoder = DecoderArch(
        int(row["decoder_embed_dim"]),
        ints("decoder_ffn_embed_dim"),
        ints("decoder_self_attention_heads"),
        ints("decoder_ende_attention_heads"),
        tuple({-1: 1, 1: 2, 2: 3}[code] for code in ints("decoder_arbitrary_ende_attn")),
    )
    arch, task = Arch(encoder, decoder), row["task_name"].partition("14")[0].partition("19")[0]
    assert (arch.encoder.num_layers, arch.decoder.num_layers) == (
        int(row["encoder_layer_num"]),
        int(row["decoder_layer_num"]),
    )
    return SPACES[task], SPACES[task].check(arch), 23 if task == "iwslt" else 30


def profiled_g(row: dict[str, str]) -> float:
    space, arch, length = case(row)
    model = SubTransformer(space, arch, (8, 8), ModelConfig())
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    return 2 * profile_macs(model, length) / 1e9


needs_release = pytest.mark.skipif(not released(), reason=f"{RELEASED} is not there")


@needs_release
def test_all_released_figures_follow_from_the_closed_forms() -> None:
    rows = released()
    assert len(rows) == 44
    for row in rows:
        space, arch, length = case(row)
        assert f"{count_params(arch, space) / 1e6:.2f}" == row["params_m"], row["model_name"]
        flops_g = 2 * count_macs(arch, space, length) / 1e9
        assert abs(flops_g - float(row["flops_g"])) < 0.006, row["model_name"]


@needs_release
@pytest.mark.parametrize("index", [0, 15, 33, 43])
def test_torchprofile_gives_released_figures(index: int) -> None:
    row = released()[index]
    space, arch, length = case(row)
    assert abs(profiled_g(row) - float(row["flops_g"])) < 0.006
    # the tracer also sees one integer product for each token, where positions skip pads
    assert profiled_g(row) == 2 * (count_macs(arch, space, length) + 2 * length) / 1e9


@needs_release
@pytest.mark.slow
def test_torchprofile_gives_all_released_figures() -> None:
    for row in released():
        assert abs(profiled_g(row) - float(row["flops_g"])) < 0.006, row["model_name"]


@settings(max_examples=8)
@given(spaces_with_archs())
def test_torchprofile_equals_the_closed_form(pair: tuple[SearchSpace, Arch]) -> None:
    space, arch = pair
    model = SubTransformer(space, arch, (11, 13), ModelConfig())
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert profile_macs(model, 7) == count_macs(arch, space, 7) + 2 * 7  # the positions


def test_one_layer_by_hand() -> None:
    space = SearchSpace(
        EncoderSpace(4, 6, 1, (4,), (6,), (1,), (2,)),
        DecoderSpace(2, 3, 1, (2,), (3,), (1,), (2,), (2,), (1,)),
        8,
    )
    encoder = (4 + 1) * 24 + (8 + 1) * 4 + (4 + 1) * 6 + (6 + 1) * 4 + 2 * 8
    attention = (2 + 1) * 24 + (8 + 1) * 2
    cross = (2 + 1) * 8 + (4 + 1) * 16 + (8 + 1) * 2
    decoder = attention + cross + (2 + 1) * 3 + (3 + 1) * 2 + 3 * 4
    assert count_params(space.largest(), space) == encoder + decoder
