"""The table and the picture of a rank study: no depth is missing, and its sentences read right."""

from typing import Any

import pytest

from hat.arch.config import Arch, DecoderArch, EncoderArch
from hat.report.ranking import draw_rank
from hat.search.ranking import Judged, Score, rank_summary


def judged(depth: int) -> Judged:
    arch = Arch(EncoderArch(8, (16,), (2,)), DecoderArch(8, *((value,) * depth for value in (16, 2, 2, 1))))
    losses = (Score(9.0 - depth, None), Score(9.5 - depth, None))
    return Judged(arch, depth, depth, None, losses, {"super": Score(10.0 - depth, None)})


def summary(studied: list[Judged]) -> dict[str, Any]:
    return rank_summary(studied) | {"scratch_updates": 1000}


@pytest.mark.parametrize("depths", [1, 6, 12])
def test_every_decoder_depth_has_a_colour_of_its_own(depths: int) -> None:
    figure_of = pytest.importorskip("matplotlib.figure").Figure
    studied = [judged(depth) for depth in range(1, depths + 1)]
    figure = figure_of()
    draw_rank(figure, studied, summary(studied))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    assert labels == [str(depth) for depth in range(1, depths + 1)]
    assert len({handle.lines[0].get_color() for handle in handles}) == depths
    drawn = [tuple(handle.lines[0].get_xydata()[0]) for handle in handles]
    assert drawn == [(10.0 - depth, 9.25 - depth) for depth in range(1, depths + 1)]
