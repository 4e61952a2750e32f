"""Does a ranking of architectures, by inherited weights or by something trivial, agree with training them?

The truth is the validation loss after training from scratch, BLEU second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

import hat

TRIVIAL = ("decoder depth", "parameters", "FLOPs", "predicted latency")  # rankings that need no weights
_POOL = 50  # draws for each architecture that is chosen


class Score(NamedTuple):
    """Validation loss (base 2, smoothed, per target token) and BLEU (0 to 100; None if not translated)."""

    loss: float
    bleu: float | None


class Judged(NamedTuple):
    """One architecture of a study: its sizes, its training from scratch and its slices."""

    arch: hat.Arch
    params: int  # of the layers, without embeddings and output matrix
    flops: int
    predicted_ms: float | None
    scratch: tuple[Score, ...]  # one for each seed
    slices: dict[str, Score]  # of each SuperTransformer, by its name
    tuned: dict[str, Score] = {}  # slices trained further, by a name for each way

    @property
    def depth(self) -> int:
        """Return the number of decoder layers, which alone orders architectures well (HAT 2020)."""
        return self.arch.decoder.num_layers


def design(space: hat.SearchSpace, count: int, seed: int) -> list[hat.Arch]:
    """Return `count` architectures spread over decoder depth and, at each depth, over size.

    Each depth gets its equal share, the deepest ones what is left over; at one depth they are taken at equal
    steps, ends included, from random ones in the order of their parameters. So there are pairs of equal
    depth as soon as there are more architectures than depths. Raises ConfigError if the space has fewer.
    """
    depths = sorted(set(space.decoder.layers_choice), reverse=True)
    chosen = []
    for place, depth in enumerate(depths):
        share = count // len(depths) + (place < count % len(depths))
        if not share:
            continue
        narrowed = replace(space, decoder=replace(space.decoder, layers_choice=(depth,)))
        rng = hat.rng_for(seed, "rank design", depth)
        pool = list(dict.fromkeys(hat.sample(narrowed, rng) for _ in range(_POOL * share)))
        if len(pool) < share:
            raise hat.ConfigError(
                f"--num-archs {count} asks for {share} architectures of {depth} decoder layers, {len(pool)} "
                "were found in the space; ask for fewer"
            )
        pool.sort(key=lambda arch: hat.count_params(arch, space))
        places = np.linspace(0, len(pool) - 1, share) if share > 1 else [len(pool) // 2]
        chosen += [pool[round(float(at))] for at in places]
    return chosen


def equal_depth_pairs(judged: Sequence[Judged]) -> list[tuple[int, int]]:
    """Return the pairs of architectures that decoder depth cannot tell apart."""
    return [(i, j) for i, j in combinations(range(len(judged)), 2) if judged[i].depth == judged[j].depth]


def pair_accuracy(
    predicted: Sequence[float], truth: Sequence[float], pairs: Sequence[tuple[int, int]]
) -> float | None:
    """Return the share of pairs that both order alike, 0 to 1; a tie in `predicted` counts half.

    Pairs with equal truth are left out; None without any.
    """
    signs = [(predicted[i] - predicted[j]) * (truth[i] - truth[j]) for i, j in pairs if truth[i] != truth[j]]
    return fmean(0.5 if sign == 0 else float(sign > 0) for sign in signs) if signs else None


def rank_summary(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return how well each ranking agrees with the truth, as plain values for a JSON file.

    `rankings` maps a name to Kendall's tau by loss (a tie in a ranking counts as no answer), the accuracy on
    pairs of equal decoder depth, and tau by BLEU. `ceiling` is the same between the trainings of two seeds,
    mean over all pairs of seeds; None with one seed. `inherited` names the rankings by slices, also
    fine-tuned ones. `gaps` compares slices with training from scratch.
    """
    pairs = equal_depth_pairs(judged)
    seeds = min(len(one.scratch) for one in judged)
    loss = [fmean(score.loss for score in one.scratch) for one in judged]
    bleu = _all([_mean([score.bleu for score in one.scratch]) for one in judged])

    def agreement(
        by_loss: Sequence[float],
        by_bleu: Sequence[float] | None,
        loss: Sequence[float] = loss,
        bleu: Sequence[float] | None = bleu,
    ) -> dict[str, float | None]:
        return {
            "kendall_tau": _tau(by_loss, loss),
            "equal_depth_accuracy": pair_accuracy(by_loss, loss, pairs),
            "kendall_tau_bleu": _tau(by_bleu, bleu) if by_bleu and bleu else None,
        }

    def of(scores: Sequence[Score]) -> tuple[list[float], list[float] | None]:
        return [score.loss for score in scores], _all([score.bleu for score in scores])

    inherited = [one.slices | one.tuned for one in judged]
    rankings = {name: agreement(*of([each[name] for each in inherited])) for name in inherited[0]}
    sizes_of = [(one.depth, one.params, one.flops, one.predicted_ms) for one in judged]
    for name, values in zip(TRIVIAL, zip(*sizes_of, strict=True), strict=True):
        if sizes := _all(values):
            rankings[name] = agreement([-size for size in sizes], sizes)
    ceilings = [
        agreement(*of([each.scratch[one] for each in judged]), *of([each.scratch[other] for each in judged]))
        for one, other in combinations(range(seeds), 2)
    ]
    names = ("kendall_tau", "equal_depth_accuracy", "kendall_tau_bleu")
    return {
        "archs": len(judged),
        "seeds": seeds,
        "equal_depth_pairs": len(pairs),
        "ceiling": {key: _mean([each[key] for each in ceilings]) for key in names} if ceilings else None,
        "rankings": rankings,
        "inherited": list(inherited[0]),
        "gaps": {name: _gap([one.slices[name] for one in judged], loss, bleu) for name in judged[0].slices},
    }


def _tau(predicted: Sequence[float], truth: Sequence[float]) -> float:
    return float(hat.kendall_tau(np.array(predicted), np.array(truth)))


def _gap(slices: Sequence[Score], loss: Sequence[float], bleu: Sequence[float] | None) -> dict[str, Any]:
    """Return how much worse slices are than trainings: means, and for BLEU the mean of absolute values."""
    found = _all([score.bleu for score in slices])
    gaps = [truth - each for truth, each in zip(bleu, found, strict=True)] if bleu and found else []
    return {
        "loss": fmean(score.loss - truth for score, truth in zip(slices, loss, strict=True)),
        "bleu": fmean(gaps) if gaps else None,
        "bleu_absolute": fmean(map(abs, gaps)) if gaps else None,
    }


def _all(values: Sequence[float | None]) -> list[float] | None:
    """Return the values if none is missing."""
    found = [float(value) for value in values if value is not None]
    return found if len(found) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    found = _all(values)
    return fmean(found) if found else None


def updates_to_match(curve: Sequence[tuple[int, float]], loss: float) -> float | None:
    """Return after how many updates a falling curve of (updates, loss) reaches `loss`, None if never.

    Between the points of the curve lie straight lines.
    """
    curve = sorted(curve)
    if curve and curve[0][1] <= loss:
        return float(curve[0][0])
    for (before, high), (after, low) in zip(curve, curve[1:], strict=False):
        if low <= loss < high:
            return before + (after - before) * (high - loss) / (high - low)
    return None


def rank_table(summary: Mapping[str, Any]) -> str:
    """Return the agreement of each ranking with training from scratch, and the gaps, as aligned text."""
    rows = dict(summary["rankings"])
    if summary["ceiling"]:
        rows["ceiling: seed to seed"] = summary["ceiling"]
    width = max(map(len, rows)) + 1
    lines = [
        f"{summary['archs']} architectures, {summary['seeds']} seeds; truth: validation loss from scratch",
        f"{'ranking':{width}}{'tau':>8}{'equal depth':>14}{'tau by BLEU':>14}",
    ]
    for name, row in rows.items():
        cells = (row["kendall_tau"], row["equal_depth_accuracy"], row["kendall_tau_bleu"])
        texts = ["-" if cell is None else f"{cell:.3f}" for cell in cells]
        lines.append(f"{name:{width}}{texts[0]:>8}{texts[1]:>14}{texts[2]:>14}")
    lines.append(f"equal depth: accuracy on {summary['equal_depth_pairs']} pairs with as many decoder layers")
    for name, gap in summary["gaps"].items():
        line = f"{name}: training from scratch is better than its slices by loss {gap['loss']:+.3f}"
        if gap["bleu"] is not None:
            line += f", BLEU {gap['bleu']:+.2f} (absolute {gap['bleu_absolute']:.2f})"
        lines.append(line)
    for name, tuned in summary.get("finetuning", {}).items():
        curve = ", ".join(f"{updates}: {loss:.3f}" for updates, loss in tuned["curve"])
        lines.append(
            f"{name}: {_reached(tuned)} {tuned['scratch_updates']} updates from scratch "
            f"(loss {tuned['scratch_loss']:.3f}; by updates {curve})"
        )
    return "\n".join(lines)


def _reached(tuned: Mapping[str, Any]) -> str:
    """Return the start of the sentence on fine-tuning, which goes on with the updates from scratch."""
    if tuned["updates_equal_to_scratch"] is None:
        most = max(updates for updates, _ in tuned["curve"])
        return f"none of the tried fine-tunings (up to {most} updates) reaches"
    return f"{tuned['updates_equal_to_scratch']:.0f} updates of fine-tuning equal"
