"""Agreement of rankings with the truth, by hand; designs of architectures."""

from collections import Counter

import pytest

from benchmarks.ranking import (
    Judged,
    Score,
    design,
    equal_depth_pairs,
    pair_accuracy,
    rank_summary,
    updates_to_match,
)
from hat.model.count import count_params
from hat.space import Arch, DecoderArch, DecoderSpace, EncoderArch, EncoderSpace, SearchSpace

SPACE = SearchSpace(
    EncoderSpace(8, 16, 3, (8, 4), (16, 8), (3, 2), (4, 2)),
    DecoderSpace(8, 16, 3, (8, 4), (16, 8), (3, 2, 1), (4, 2), (4, 2), (1, 2, 3)),
    8,
)


@pytest.mark.parametrize("count", [2, 3, 7, 12])
def test_a_design_is_spread_over_depth_and_size(count: int) -> None:
    archs = design(SPACE, count, 1)
    assert len(set(archs)) == count and archs == design(SPACE, count, 1) != design(SPACE, count, 2)
    depths = Counter(arch.decoder.num_layers for arch in archs)
    assert max(depths.values()) - min(depths.values()) <= 1 and len(depths) == min(count, 3)
    assert all(depths[3] >= depths[depth] for depth in depths)
    for depth in depths:
        sizes = [count_params(arch, SPACE) for arch in archs if arch.decoder.num_layers == depth]
        assert sizes == sorted(sizes)
        if count == 12:
            assert sizes[-1] > 1.4 * sizes[0]


def arch_of(depth: int, ffn: int) -> Arch:
    return Arch(
        EncoderArch(8, (16, 16), (2, 2)),
        DecoderArch(8, (ffn,) * depth, (2,) * depth, (2,) * depth, (1,) * depth),
    )


def judged(depth: int, size: int, scratch: list[float], slice_loss: float, bleu: float | None) -> Judged:
    """BLEU from scratch is 50 - 10 * loss."""
    scores = tuple(Score(loss, None if bleu is None else 50 - 10 * loss) for loss in scratch)
    return Judged(arch_of(depth, 8), size, size, None, scores, {"super": Score(slice_loss, bleu)})


FOUR = [
    judged(1, 10, [3.0, 3.2], 5.0, 10.0),
    judged(1, 30, [2.9, 2.7], 4.0, 12.0),
    judged(2, 20, [2.4, 2.6], 4.5, 14.0),
    judged(2, 40, [2.5, 2.3], 3.0, 20.0),
]


def test_the_summary_by_hand() -> None:
    """Truths 3.1, 2.8, 2.5, 2.4; slices order one pair of six otherwise, sizes too, depth ties two."""
    found = rank_summary(FOUR)
    assert (found["archs"], found["seeds"], found["equal_depth_pairs"]) == (4, 2, 2)
    rankings = found["rankings"]
    assert list(rankings) == ["super", "decoder depth", "parameters", "FLOPs"], "no latency was predicted"
    assert rankings["super"]["kendall_tau"] == pytest.approx(4 / 6)
    assert rankings["super"]["equal_depth_accuracy"] == 1
    assert rankings["super"]["kendall_tau_bleu"] == pytest.approx(1)
    assert rankings["decoder depth"]["kendall_tau"] == pytest.approx(4 / 6)
    assert rankings["decoder depth"]["equal_depth_accuracy"] == 0.5, "a tie is a coin"
    assert rankings["parameters"]["kendall_tau"] == pytest.approx(4 / 6)
    assert rankings["parameters"]["kendall_tau_bleu"] == pytest.approx(4 / 6), "larger is better by BLEU"
    # seeds: 3.0 2.9 2.4 2.5 and 3.2 2.7 2.6 2.3 order one pair otherwise, of equal depth
    assert found["ceiling"]["kendall_tau"] == pytest.approx(4 / 6)
    assert found["ceiling"]["equal_depth_accuracy"] == 0.5
    gap = found["gaps"]["super"]
    assert gap["loss"] == pytest.approx((1.9 + 1.2 + 2.0 + 0.6) / 4)
    assert gap["bleu"] == gap["bleu_absolute"] == pytest.approx((9 + 10 + 11 + 6) / 4)


def test_pair_accuracy() -> None:
    pairs = equal_depth_pairs(FOUR)
    assert pairs == [(0, 1), (2, 3)]
    assert pair_accuracy([1, 2, 1, 2], [1, 2, 2, 1], pairs) == 0.5
    assert pair_accuracy([1, 2, 1, 1], [1, 2, 2, 1], pairs) == 0.75
    assert pair_accuracy([1, 2, 1, 2], [1, 2, 3, 3], pairs) == 1, "equal truths are no question"
    assert pair_accuracy([1, 2], [1, 1], [(0, 1)]) is None


def test_updates_to_match() -> None:
    curve = [(0, 5.0), (100, 4.0), (200, 3.8)]
    assert updates_to_match(curve, 4.5) == 50
    assert updates_to_match(curve[::-1], 3.9) == pytest.approx(150)
    assert updates_to_match(curve, 5.5) == 0
    assert updates_to_match(curve, 3.0) is None and updates_to_match([], 3.0) is None
