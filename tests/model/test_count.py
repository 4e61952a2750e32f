"""Parameters and FLOPs: the closed forms, torchprofile and the figures of the release agree."""

import csv
import warnings
from pathlib import Path

import pytest
import torch
import torchprofile
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import spaces_with_archs

from hat.model.layers import ModelConfig, count_macs, count_params, profile_length
from hat.model.transformer import SubTransformer
from hat.space import DIMS, Arch, SearchSpace

ROOT = Path(__file__).parents[2]
RELEASED = ROOT.parent / "shared" / "hat_release" / "models.csv"


def released() -> list[tuple[dict[str, str], SearchSpace, Arch, int]]:
    """Return row, space and architecture of each released model, and the length of its profile."""
    found = []
    for row in csv.DictReader(RELEASED.read_text("utf-8").splitlines()) if RELEASED.exists() else ():
        values = {dim: row[dim.key.replace("-", "_")].split() for dim in DIMS}
        if row["params_m"]:
            arch = Arch.of({dim: dim.decode(tuple(map(int, v)), dim.key) for dim, v in values.items()})
            (path,) = (ROOT / "configs" / row["task_name"] / "supertransformer").iterdir()
            space = SearchSpace.from_yaml(path)
            found.append((row, space, space.check(arch), profile_length(row["task_name"])))
    return found


class States(SubTransformer):
    """Everything but the output matrix."""

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.decode(target, self.encode(source))


def profiled(space: SearchSpace, arch: Arch, cfg: ModelConfig, length: int) -> int:
    model, ids = States(space, arch, (11, 13), cfg), torch.full((1, length), 4)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # unknown operators count 0; none of them multiplies
        for weight in model.parameters():
            weight.zero_()
        return int(torchprofile.profile_macs(model.eval(), (ids, ids)))


needs_release = pytest.mark.skipif(not released(), reason=f"{RELEASED} is not there")


@needs_release
def test_all_released_figures_follow_from_the_closed_forms() -> None:
    assert len(released()) == 44
    for row, space, arch, length in released():
        assert f"{count_params(arch, space) / 1e6:.2f}" == row["params_m"], row["model_name"]
        flops_g = 2 * count_macs(arch, space, length) / 1e9
        assert abs(flops_g - float(row["flops_g"])) < 0.006, row["model_name"]


@needs_release
@pytest.mark.parametrize("index", [0, 43])
def test_torchprofile_gives_released_figures(index: int) -> None:
    row, space, arch, length = released()[index]
    found = profiled(space, arch, ModelConfig(), length)
    assert abs(2 * found / 1e9 - float(row["flops_g"])) < 0.006
    assert found == count_macs(arch, space, length, ModelConfig())


@settings(max_examples=4)
@given(spaces_with_archs(), st.booleans(), st.booleans())
def test_torchprofile_equals_the_closed_form(
    pair: tuple[SearchSpace, Arch], enc_first: bool, dec_first: bool
) -> None:
    space, arch = pair
    cfg = ModelConfig(encoder_normalize_before=enc_first, decoder_normalize_before=dec_first)
    assert profiled(space, arch, cfg, 7) == count_macs(arch, space, 7, cfg)
