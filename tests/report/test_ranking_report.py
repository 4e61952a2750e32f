"""The table and the picture of a rank study: no depth is missing, and its sentences read right."""

from typing import Any

import pytest

from hat.report.ranking import draw_rank, rank_table
from hat.search.ranking import Judged, Score, rank_summary
from hat.space import Arch, DecoderArch, EncoderArch


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


@pytest.mark.parametrize(
    ("equal", "sentence"),
    [
        (200.4, "single: 200 updates of fine-tuning equal 1000 updates from scratch (loss 3.000; by"),
        (0.4, "single: 1 update of fine-tuning equals 1000 updates from scratch (loss"),
        (0.0, "single: without any fine-tuning its slices equal 1000 updates from scratch (loss"),
        (
            None,
            "single: none of the tried fine-tunings (up to 400 updates) reaches 1000 updates from scratch (",
        ),
    ],
)
def test_the_sentence_on_fine_tuning(equal: float | None, sentence: str) -> None:
    tuned = {"updates_equal_to_scratch": equal, "scratch_updates": 1000, "scratch_loss": 3.0}
    tuned |= {"curve": [(0, 5.0), (400, 3.25)]}
    text = rank_table(summary([judged(1), judged(2)]) | {"finetuning": {"single": tuned}})
    assert text.splitlines()[-1].startswith(sentence)
