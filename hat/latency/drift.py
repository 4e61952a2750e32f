"""Blocks of a latency table that were measured while the device was slower or faster than otherwise."""

from dataclasses import dataclass

import numpy as np

from hat.latency.costs import Floats, Scaling, fit_ridge, sum_of

SMOOTHING = 5  # rows; a running median over them hides single disturbed rows
MIN_BLOCK = 12  # rows
MIN_SHIFT = 0.02  # of the latency; what is less does no harm
PENALTY = 3.0  # times the variance times log(rows), for each further segment


@dataclass(frozen=True)
class Block:
    """Rows `first` to `last` (counted from 0, both included) are `percent` slower than the others."""

    first: int
    last: int
    percent: float


def drifting_rows(features: Floats, ms: Floats) -> tuple[list[Block], Floats]:
    """Return blocks of a table, by `find_blocks` around an additive fit, and what each row should count.

    The fit is repeated without the blocks, so that those do not hide themselves. `features` [rows,
    features] and latencies `ms` [rows] stand in the order of measuring.
    """
    columns = Scaling.of(features).columns(features)
    blocks, weight = list[Block](), np.ones(len(ms))
    for _ in range(2):
        fitted = sum_of(columns, fit_ridge(columns, ms, weight), float(ms.min() / 2))
        blocks, weight = find_blocks(np.log(ms / fitted))
    return blocks, weight


def find_blocks(log_ratio: Floats) -> tuple[list[Block], Floats]:
    """Return blocks of consecutive rows whose log(measured / predicted) [rows] lies off that of the others.

    The smoothed series is cut if that lowers the squared error by more than a penalty (optimal partitioning,
    Jackson et al. 2005); the level that the most rows have is the device's own. Also returns what each row
    should count: 1, and in a block noise^2 / (noise^2 + shift^2). Needs the rows in the order of measuring;
    0.1 s for 2,000 rows.
    """
    blocks, weight = list[Block](), np.ones(len(log_ratio))
    if len(log_ratio) < 2 * MIN_BLOCK:
        return blocks, weight
    padded = np.pad(log_ratio, SMOOTHING // 2, mode="reflect")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHING), axis=1)
    noise = np.pi**0.5 / 2 * float(np.mean(np.abs(np.diff(log_ratio)))) + 1e-6
    cuts = _partition(smooth, PENALTY * np.pi / 2 * noise**2 * np.log(len(log_ratio)))
    segments = list(zip(cuts, cuts[1:], strict=False))
    levels = np.concatenate([np.full(b - a, np.median(log_ratio[a:b])) for a, b in segments])
    reach = max(MIN_SHIFT / 2, noise / 2)
    support = [int(np.sum(np.abs(levels - levels[a]) <= reach)) for a, _ in segments]
    own = levels[cuts[int(np.argmax(support))]]
    own = float(np.median(log_ratio[np.abs(levels - own) <= reach]))
    for a, b in segments:
        shift = float(levels[a] - own)
        if abs(shift) < MIN_SHIFT:
            continue
        if blocks and blocks[-1].last == a - 1 and 2 / 3 < shift / np.log1p(blocks[-1].percent / 100) < 3 / 2:
            a = blocks.pop().first  # one block whose level wanders
            shift = float(np.median(log_ratio[a:b]) - own)
        blocks.append(Block(a, b - 1, 100 * float(np.expm1(shift))))
    scatter = 1.4826 * float(np.median(np.abs(log_ratio - np.median(log_ratio)))) + 1e-6
    for block in blocks:
        shift = float(np.log1p(block.percent / 100))
        weight[block.first : block.last + 1] = scatter**2 / (scatter**2 + shift**2)
    return blocks, weight


def _partition(values: Floats, penalty: float) -> list[int]:
    """Return 0, the starts of the further segments, and the length: the cheapest cut of `values`."""
    sums, squares = np.append(0, np.cumsum(values)), np.append(0, np.cumsum(values**2))
    cost, before = np.full(len(values) + 1, np.inf), np.zeros(len(values) + 1, dtype=int)
    cost[0] = -penalty
    for end in range(MIN_BLOCK, len(values) + 1):
        start = np.arange(0, end - MIN_BLOCK + 1)
        error = squares[end] - squares[start] - (sums[end] - sums[start]) ** 2 / (end - start)
        total = cost[start] + error + penalty
        before[end] = int(np.argmin(total))
        cost[end] = total[before[end]]
    cuts = [len(values)]
    while cuts[-1] > 0:
        cuts.append(int(before[cuts[-1]]))
    return cuts[::-1]
