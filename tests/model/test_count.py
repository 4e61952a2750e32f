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
from hat.space import DIMS, Arch, DecoderSpace, EncoderSpace, SearchSpace

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
    """Return space and architecture of a released model, and the length at which it was profiled."""
    task = row["task_name"].partition("14")[0].partition("19")[0]
    values = {}
    for dim in DIMS:
        name = dim.key.replace("-", "_")
        values[dim] = dim.decode(tuple(map(int, row[name].split())), name)
    return SPACES[task], SPACES[task].check(Arch.of(values)), 23 if task == "iwslt" else 30


def profiled(space: SearchSpace, arch: Arch, length: int) -> int:
    model = SubTransformer(space, arch, (11, 13), ModelConfig())
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    return profile_macs(model, length)


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
    space, arch, length = case(released()[index])
    found = profiled(space, arch, length)
    assert abs(2 * found / 1e9 - float(released()[index]["flops_g"])) < 0.006
    assert found == count_macs(arch, space, length) + 2 * length  # integer products of the positions


@settings(max_examples=8)
@given(spaces_with_archs())
def test_torchprofile_equals_the_closed_form(pair: tuple[SearchSpace, Arch]) -> None:
    space, arch = pair
    assert profiled(space, arch, 7) == count_macs(arch, space, 7) + 2 * 7


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
