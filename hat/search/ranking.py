"""Does a ranking of architectures, by inherited weights or by something trivial, agree with training them?

The truth is the validation loss after training from scratch, BLEU second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from hat.errors import ConfigError
from hat.latency.predictor import kendall_tau
from hat.model.count import count_params
from hat.rng import rng_for
from hat.space import Arch, SearchSpace, sample

TRIVIAL = ("decoder depth", "parameters", "FLOPs", "predicted latency")  # rankings that need no weights
_POOL = 50  # draws for each architecture that is chosen


@dataclass(frozen=True)
class Score:
    """Validation loss (base 2, smoothed, per target token) and BLEU (0 to 100; None where not translated)."""

    loss: float
    bleu: float | None


@dataclass(frozen=True)
class Judged:
    """One architecture of a study: its sizes, its training from scratch and its slices."""

    arch: Arch
    params: int  # of the layers, without embeddings and output matrix
    flops: int
    predicted_ms: float | None
    scratch: tuple[Score, ...]  # one for each seed
    slices: dict[str, Score]  # of each SuperTransformer, by its name
    tuned: dict[str, Score] = field(default_factory=dict)  # slices trained further, by a name for each way

    @property
    def depth(self) -> int:
        """Return the number of decoder layers, which alone orders architectures well (HAT 2020)."""
        return self.arch.decoder.num_layers


def design(space: SearchSpace, count: int, seed: int) -> list[Arch]:
    """Return `count` architectures spread over decoder depth and, at each depth, over size.

    Each depth gets its equal share, the deepest ones what is left over; at one depth they are taken at equal
    steps, ends included, from random ones in the order of their parameters. So there are pairs of equal
    depth as soon as there are more architectures than depths. Raises ConfigError where the space has fewer.
    """
    depths = sorted(set(space.decoder.layers_choice), reverse=True)
    chosen = []
    for place, depth in enumerate(depths):
        share = count // len(depths) + (place < count % len(depths))
        if not share:
            continue
        narrowed = replace(space, decoder=replace(space.decoder, layers_choice=(depth,)))
        rng = rng_for(seed, "rank design", depth)
        pool = list(dict.fromkeys(sample(narrowed, rng) for _ in range(_POOL * share)))
        if len(pool) < share:
            raise ConfigError(
                f"--num-archs {count} asks for {share} architectures of {depth} decoder layers, {len(pool)} "
                "were found in the space; ask for fewer"
            )
        pool.sort(key=lambda arch: count_params(arch, space))
        places = np.linspace(0, len(pool) - 1, share) if share > 1 else [len(pool) // 2]
        chosen += [pool[round(float(at))] for at in places]
    return chosen


def pair_accuracy(
    predicted: Sequence[float], truth: Sequence[float], pairs: Sequence[tuple[int, int]]
) -> float | None:
    """Return the share of pairs that both order alike, 0 to 1; a tie in `predicted` counts half.

    Pairs with equal truth are left out; None without any.
    """
    rights = []
    for i, j in pairs:
        if truth[i] != truth[j]:
            sign = (predicted[i] - predicted[j]) * (truth[i] - truth[j])
            rights.append(0.5 if sign == 0 else float(sign > 0))
    return fmean(rights) if rights else None


def equal_depth_pairs(judged: Sequence[Judged]) -> list[tuple[int, int]]:
    """Return the pairs of architectures that decoder depth cannot tell apart."""
    return [(i, j) for i, j in combinations(range(len(judged)), 2) if judged[i].depth == judged[j].depth]


def rank_summary(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return how well each ranking agrees with the truth, as plain values for a JSON file.

    `rankings` maps a name to Kendall's tau by loss (ties in a ranking count as no answer), the accuracy on
    pairs of equal decoder depth, and tau by BLEU. `ceiling` is the same between the trainings of two seeds,
    mean over all pairs of seeds; None with one seed. `inherited` names the rankings
    by slices, also fine-tuned ones. `gaps` compares slices with training from scratch.
    """
    pairs = equal_depth_pairs(judged)
    seeds = min(len(one.scratch) for one in judged)
    loss = [fmean(score.loss for score in one.scratch) for one in judged]
    bleu = _all([_mean([score.bleu for score in one.scratch]) for one in judged])

    def agreement(by_loss: Sequence[float], by_bleu: Sequence[float] | None) -> dict[str, Any]:
        return {
            "kendall_tau": _tau(by_loss, loss),
            "equal_depth_accuracy": pair_accuracy(by_loss, loss, pairs),
            "kendall_tau_bleu": _tau(by_bleu, bleu) if by_bleu and bleu else None,
        }

    rankings = {}
    inherited = [one.slices | one.tuned for one in judged]
    for name in inherited[0]:
        found = [each[name] for each in inherited]
        rankings[name] = agreement([s.loss for s in found], _all([s.bleu for s in found]))
    sizes_of = (
        [float(one.depth) for one in judged],
        [float(one.params) for one in judged],
        [float(one.flops) for one in judged],
        _all([one.predicted_ms for one in judged]),
    )
    for name, sizes in zip(TRIVIAL, sizes_of, strict=True):
        if sizes is not None:
            rankings[name] = agreement([-size for size in sizes], sizes)
    return {
        "archs": len(judged),
        "seeds": seeds,
        "equal_depth_pairs": len(pairs),
        "ceiling": _ceiling(judged, seeds, pairs),
        "rankings": rankings,
        "inherited": list(inherited[0]),
        "gaps": {name: _gap([one.slices[name] for one in judged], loss, bleu) for name in judged[0].slices},
    }


def updates_to_match(curve: Sequence[tuple[int, float]], loss: float) -> float | None:
    """Return after how many updates a falling curve of (updates, loss) reaches `loss`, between its points by
    a straight line; None where it does not.
    """
    curve = sorted(curve)
    if curve and curve[0][1] <= loss:
        return float(curve[0][0])
    for (before, high), (after, low) in zip(curve, curve[1:], strict=False):
        if low <= loss < high:
            return before + (after - before) * (high - loss) / (high - low)
    return None


def _ceiling(
    judged: Sequence[Judged], seeds: int, pairs: Sequence[tuple[int, int]]
) -> dict[str, float | None] | None:
    if seeds < 2:
        return None
    taus, accuracies, bleu_taus = [], [], []
    for first, second in combinations(range(seeds), 2):
        one, other = ([each.scratch[seed].loss for each in judged] for seed in (first, second))
        taus.append(_tau(one, other))
        accuracies.append(pair_accuracy(one, other, pairs))
        bleus = [_all([each.scratch[seed].bleu for each in judged]) for seed in (first, second)]
        bleu_taus.append(_tau(bleus[0], bleus[1]) if bleus[0] and bleus[1] else None)
    return {
        "kendall_tau": fmean(taus),
        "equal_depth_accuracy": _mean(accuracies),
        "kendall_tau_bleu": _mean(bleu_taus),
    }


def _gap(slices: Sequence[Score], loss: Sequence[float], bleu: Sequence[float] | None) -> dict[str, Any]:
    """Return how much worse slices are than trainings: means, and for BLEU the mean of absolute values."""
    found = _all([score.bleu for score in slices])
    gaps = (
        [truth - slice_bleu for truth, slice_bleu in zip(bleu, found, strict=True)] if bleu and found else []
    )
    return {
        "loss": fmean(score.loss - truth for score, truth in zip(slices, loss, strict=True)),
        "bleu": fmean(gaps) if gaps else None,
        "bleu_absolute": fmean(abs(gap) for gap in gaps) if gaps else None,
    }


def _tau(predicted: Sequence[float], truth: Sequence[float]) -> float:
    return kendall_tau(np.array(predicted), np.array(truth))


def _all(values: Sequence[float | None]) -> list[float] | None:
    """Return the values where none is missing."""
    found = [value for value in values if value is not None]
    return found if len(found) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    found = _all(values)
    return fmean(found) if found else None
