"""Time stand-alone SubTransformers on this device, several in turn."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch

from hat.latency.anchor import Anchor, middle
from hat.latency.work import MeasureConfig, Work, sync_of, work_of
from hat.model.cpu import device_name, dtype_name
from hat.model.transformer import Transformer

TURN = 5  # repeats of a model before the next one has its turn
TOGETHER = 8  # rows of a dataset that are measured in turn; all their models are in memory
WARMUP_SHARE = 0.3  # of all repeats, the first ones: how long a device needs is seen, not known beforehand
TREND = 0.4  # of the wanted interval, by which the medians of both halves of the repeats may differ
HARMS = 1.1  # times the spread of repeats where the anchor shows other things than they meet
WANDER_PERCENT = 3.0  # by which the machine's speed may have a trend within a row
SURE = 3.3  # standard errors, 99.9%: the interval that ends timing is looked at after each turn
REFERENCE_S = 3.0  # a machine whose speed wanders is looked at for so long before the first row


@dataclass(frozen=True)
class Series:
    """Summary of repeated timings in milliseconds."""

    median_ms: float
    spread_ms: float  # standard deviation without the slowest and fastest tenth
    interval_percent: float  # half-width of the 95% interval of the median
    count: int


@dataclass(frozen=True)
class Timing:
    """Latency of one architecture and what it was measured with."""

    encoder: Series
    decoder: Series
    total: Series
    stable: bool  # the wanted interval was reached, without a trend
    conditions: dict[str, str]
    anchor_ms: float | None = None  # median of the anchor's time around the counted repeats

    @property
    def total_ms(self) -> float:
        """Return the median of the encoder plus that of the decoder."""
        return self.encoder.median_ms + self.decoder.median_ms


@dataclass
class Repeats:
    """Milliseconds of the repeats of one model, and which look at the machine came before each."""

    encoder: list[float] = field(default_factory=list)
    decoder: list[float] = field(default_factory=list)
    look: list[int] = field(default_factory=list)


class Counted(NamedTuple):
    """Milliseconds of the repeats after warming up, at the anchor's reference, and its time around each."""

    encoder: list[float]
    decoder: list[float]
    anchor: list[float]

    @property
    def sums(self) -> list[float]:
        """Return encoder and decoder together."""
        return [e + d for e, d in zip(self.encoder, self.decoder, strict=True)]

    def divided(self, slower: Sequence[float]) -> "Counted":
        """Return the repeats as on a machine that is not so many times slower."""
        encoder, decoder = (
            [ms / by for ms, by in zip(part, slower, strict=True)] for part in (self.encoder, self.decoder)
        )
        return self._replace(encoder=encoder, decoder=decoder)

    def settled(self, cfg: MeasureConfig) -> bool:
        """Return whether there are enough of them, on a machine whose speed stayed."""
        sums = self.sums
        enough = len(sums) >= min(cfg.min_iterations, cfg.max_iterations)
        return enough and _trend_percent(self.anchor) <= WANDER_PERCENT and _known(sums, cfg.interval_percent)


def counted(repeats: Repeats, cfg: MeasureConfig, anchor: Anchor | None) -> Counted:
    """Return what counts of the repeats so far."""
    count = len(repeats.encoder)
    some = slice(max(int(WARMUP_SHARE * count), count - cfg.max_iterations), None)
    looks = repeats.look[some]
    paces = {look: anchor.around_ms(look) if anchor else 1.0 for look in dict.fromkeys(looks)}
    around = [paces[look] for look in looks]
    found = Counted(repeats.encoder[some], repeats.decoder[some], around)
    if anchor is None:
        return found
    steady = found.divided([now / anchor.reference_ms for now in around])
    plain = found.divided([anchor.slower(around)] * len(around))
    return steady if _spread(steady.sums) <= HARMS * _spread(plain.sums) else plain


@torch.inference_mode()
def measure(model: Transformer, cfg: MeasureConfig) -> Timing:
    """Return the latency of one stand-alone model in evaluation mode."""
    (timing,) = measure_in_turn([model], cfg)
    return timing


@torch.inference_mode()
def measure_in_turn(
    models: Sequence[Transformer], cfg: MeasureConfig, anchor: Anchor | None = None
) -> list[Timing]:
    """Return the latency of each of some stand-alone models in evaluation mode, see `time_in_turn`."""
    weight = models[0].source_embed.weight
    device = weight.device
    conditions = {
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
        "dtype": dtype_name(weight.dtype),
        "torch": torch.__version__,
        "vocab_size": str(models[0].target_embed.weight.size(0)),
        "qkv_dim": str(models[0].space.qkv_dim),
        "beam": str(cfg.beam),
        "source_len": str(cfg.source_len),
        "target_len": str(cfg.target_len),
    }
    works = [work_of(model, cfg) for model in models]
    return time_in_turn(works, cfg, conditions, sync_of(device), anchor=anchor)


def time_in_turn(
    works: Sequence[Work],
    cfg: MeasureConfig,
    conditions: dict[str, str],
    sync: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
    anchor: Anchor | None = None,
) -> list[Timing]:
    """Return what `repeat_in_turn` measures of each, summarised, with how often and how sure it was."""
    timings = []
    for repeats in repeat_in_turn(works, cfg, sync, clock, anchor):
        found = counted(repeats, cfg, anchor)
        total = summarise(found.sums)
        known = {
            "iterations": str(total.count),
            "interval_percent": f"{total.interval_percent:.2f}",
            "turn": str(TURN),
        }
        timings.append(
            Timing(
                summarise(found.encoder),
                summarise(found.decoder),
                total,
                found.settled(cfg),
                conditions | known,
                statistics.median(found.anchor) if anchor else None,
            )
        )
    return timings


def repeat_in_turn(
    works: Sequence[Work],
    cfg: MeasureConfig,
    sync: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
    anchor: Anchor | None = None,
) -> list[Repeats]:
    """Return milliseconds of both parts of each work, and whether they settled.

    All works have turns of `TURN` repeats until each is known well enough, so the repeats of one are spread
    over seconds: a machine whose speed wanders with the load of others then shows all its speeds to all of
    them. The first `WARMUP_SHARE` of a work's repeats does not count, so a device that needs longer to warm
    up gets longer. Timing a work ends when neither the interval of the median of the sum nor a trend within
    the counted repeats is wider than allowed; or, unsettled, at `max_iterations` or `budget_s`.

    An `anchor` is timed before and after each turn, and the repeats between are given as they would have been
    at its reference.
    """
    once = partial(_once, sync=sync, clock=clock)

    def look() -> None:
        if anchor:
            anchor.looks_ms.append(_look(anchor.run, sync, clock))

    def ended(repeats: Repeats) -> bool:
        found = counted(repeats, cfg, anchor)
        spent_s = (sum(repeats.encoder) + sum(repeats.decoder)) / 1e3
        return found.settled(cfg) or len(found.sums) >= cfg.max_iterations or spent_s > cfg.budget_s

    found = [Repeats() for _ in works]
    going = list(zip(works, found, strict=True))
    look()
    while going:
        for work, repeats in going:
            if anchor is not None or len(works) > 1:
                work.encode()  # back into the caches: the first repeat takes 3% longer
                work.decode()
            for _ in range(TURN):
                repeats.encoder.append(once(work.encode))
                repeats.decoder.append(once(work.decode))
                repeats.look.append(len(anchor.looks_ms) - 1 if anchor else 0)
            look()
        going = [(work, repeats) for work, repeats in going if not ended(repeats)]
    return found


def pace(
    run: Callable[[], object],
    between: Callable[[], object],
    sync: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return how many milliseconds an anchor takes, by at least 21 counted looks and `REFERENCE_S`.

    `between` runs between the looks and fills the caches, as models do while rows are measured: without it
    an anchor is 7% faster.
    """
    start = clock()
    looks: list[float] = []
    while len(looks) < 31 or clock() - start < REFERENCE_S:
        between()
        looks.append(_look(run, sync, clock))
    return middle(looks[int(WARMUP_SHARE * len(looks)) :])


def _once(run: Callable[[], object], sync: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return the milliseconds that `run` takes."""
    sync()
    start = clock()
    run()
    sync()
    return 1e3 * (clock() - start)


def _look(run: Callable[[], object], sync: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return the milliseconds of an anchor: the less of two, the caches being full of what ran before."""
    return min(_once(run, sync, clock), _once(run, sync, clock))


def _known(samples: list[float], percent: float) -> bool:
    """Return whether the median of `samples`, in the order of measuring, is known and does not move."""
    low, high = _interval(sorted(samples), SURE)
    narrow = high - low <= 2 * percent / 100 * statistics.median(samples)
    return narrow and _trend_percent(samples) <= TREND * percent


def _spread(samples: list[float]) -> float:
    """Return the median distance from the median."""
    median = statistics.median(samples)
    return statistics.median(abs(ms - median) for ms in samples)


def _trend_percent(samples: list[float]) -> float:
    """Return how far the medians of the first and the second half of `samples`, at least 2, lie apart."""
    half = len(samples) // 2
    trend = statistics.median(samples[-half:]) - statistics.median(samples[:half])
    median = statistics.median(samples)
    return 100 * abs(trend) / median if median else 0.0


def _interval(ordered: list[float], sure: float) -> tuple[float, float]:
    """Return the order statistics between which the median lies, `sure` standard errors to either side.

    Distribution-free, in the normal approximation to the ranks.
    """
    count, reach = len(ordered), sure / 2 * math.sqrt(len(ordered))
    low = max(0, math.floor(count / 2 - reach))
    high = min(count - 1, math.ceil(count / 2 + reach) - 1)
    return ordered[low], ordered[high]


def summarise(samples: list[float]) -> Series:
    """Return median, trimmed spread and the distribution-free 95% interval of the median."""
    ordered = sorted(samples)
    count = len(ordered)
    cut = count // 10
    trimmed = ordered[cut : count - cut]
    median = statistics.median(ordered)
    low, high = _interval(ordered, 1.96)
    half_width = (high - low) / 2
    spread = statistics.stdev(trimmed) if len(trimmed) > 1 else 0.0
    return Series(median, spread, 100 * half_width / median if median else 0.0, count)
