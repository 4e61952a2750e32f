"""Time stand-alone SubTransformers on this device: several in turn, beside an anchor that shows its speed."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from hat.config import Options, option
from hat.decode.beam import BeamConfig, search_from
from hat.latency.costs import Floats
from hat.model.cpu import Amp, device_name, dtype_name
from hat.model.inference import InferenceModel
from hat.model.layers import EOS
from hat.model.transformer import Transformer

TURN = 5  # repeats of a model before the next model has its turn
TOGETHER = 8  # architectures of a dataset that are measured in turn; all their models are in memory
WARMUP_SHARE = 0.3  # the first repeats do not count; a share, because devices differ in how long they warm up
TREND = 0.4  # medians of both halves of the repeats may differ by this share of the wanted interval
MAX_SPREAD_RATIO = 1.1  # scale each repeat by the anchor only if spread(scaled) <= 1.1 * spread(plain)
WANDER_PERCENT = 3.0  # largest trend of the machine's speed within a row that is stable
STOP_SIGMA = 3.3  # standard errors (99.9%), because the interval is looked at after each turn
REFERENCE_S = 3.0  # least time of anchor timings before the first row
DRIFT_ROWS, DRIFT_PERCENT = 24, 3.0  # that many rows in a row, all off by this much: the machine drifts
TOLERANCE_PERCENT = 1.0
NEAR = 2  # anchor timings on either side of a repeat; the middle of several hides the noise of one
Repeat = tuple[float, float, int]  # ms of encoder and decoder, and the index of the anchor's timing before
Run = Callable[[], object]
Clock = Callable[[], float]  # seconds


@dataclass(frozen=True)
class MeasureConfig(Options):
    """How one architecture is timed: batch 1, `target_len` decoder steps with the end forced at the last.

    Raises ConfigError for numbers out of range.
    """

    source_len: int = option(30, low=1)  # tokens
    target_len: int = option(30, low=1)  # tokens
    beam: int = option(5, low=1)
    max_iterations: int = option(300, low=2)  # counted repeats
    min_iterations: int = 7
    interval_percent: float = option(1.2, low=0, high=100)  # wanted half-width of the median's 95% interval
    budget_s: float = option(60.0, above=0, off=math.inf)  # of the model's own time
    dtype: Amp = "auto"  # number format; auto takes what is fast on the device

    def under(self, conditions: Mapping[str, str]) -> "MeasureConfig":
        """Return these settings with beam, lengths and number format of the rows of a latency table."""
        names = ("beam", "source_len", "target_len")
        known: dict[str, Any] = {name: int(conditions[name]) for name in names if name in conditions}
        known.setdefault("target_len", known.get("source_len", self.target_len))
        return replace(self, dtype=cast(Amp, conditions.get("dtype", self.dtype)), **known)


class Workload(NamedTuple):
    """The two parts of a model that are timed."""

    encode: Run
    decode: Run


@torch.inference_mode()
def workload(model: Transformer, cfg: MeasureConfig) -> Workload:
    """Return encoder and beam search of a stand-alone model in evaluation mode on one random sentence.

    The decoder's part is a whole beam search (HAT 2020 timed bare decoder layers): output matrix, top-k and
    the bookkeeping of hypotheses included.
    """
    weight = model.source_embed.weight
    source = torch.randint(EOS + 1, weight.size(0), (1, cfg.source_len), device=weight.device)
    source[:, -1] = EOS
    beam = BeamConfig(beam=cfg.beam, max_len_b=cfg.target_len - 1, min_len=cfg.target_len - 1)
    fixed = InferenceModel(model)
    encoded = fixed.encode(source)
    return Workload(lambda: fixed.encode(source), lambda: search_from(fixed, encoded, beam))


def sync_of(device: torch.device) -> Run:
    """Return a function that waits until a device has done all its work; a CPU has always finished."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def _once(run: Run, sync: Run, clock: Clock) -> float:
    """Return the milliseconds that `run` takes."""
    sync()
    start = clock()
    run()
    sync()
    return 1e3 * (clock() - start)


@dataclass
class Anchor:
    """Short searches that show the machine's speed: their time now, against that before the first row."""

    run: Run
    reference_ms: float
    steps: tuple[int, ...] = ()  # decoder steps in each of its searches
    timings_ms: list[float] = field(default_factory=list, init=False)

    def drift_percent(self, timing: "Timing") -> float:
        """Return how much slower the machine was during a timing than before the first row."""
        return 100 * ((timing.anchor_ms or 0.0) / self.reference_ms - 1)


def anchor_of(
    largest: Transformer, smallest: Transformer, cfg: MeasureConfig, known_ms: float | None = None
) -> Anchor:
    """Return an anchor that runs short searches with both models, timed if `known_ms` is not given.

    One model alone would not do: other work on the machine slows a model that reads its weights from memory
    more than one whose weights stay in the caches.
    """
    both, steps = (largest, smallest), (max(2, cfg.target_len // 8), max(2, cfg.target_len // 3))

    @torch.inference_mode()
    def run(works: Sequence[Workload]) -> None:
        for work in works:
            work.decode()

    short = [workload(model, replace(cfg, target_len=n)) for model, n in zip(both, steps, strict=True)]
    once, fill_caches = partial(run, short), partial(run, [workload(model, cfg) for model in both])
    sync = sync_of(largest.source_embed.weight.device)
    return Anchor(once, known_ms or reference_ms(once, fill_caches, sync), steps)


def reference_ms(run: Run, between: Run, sync: Run, clock: Clock = time.perf_counter) -> float:
    """Return how many milliseconds an anchor takes, from at least 21 counted timings and `REFERENCE_S`.

    `between` runs between the timings and fills the caches, as models do while rows are measured: without it
    an anchor is 7% faster.
    """
    start = clock()
    timings: list[float] = []
    while len(timings) < 31 or clock() - start < REFERENCE_S:
        between()
        timings.append(anchor_timing(run, sync, clock))
    return middle(timings[int(WARMUP_SHARE * len(timings)) :])


def anchor_timing(run: Run, sync: Run, clock: Clock) -> float:
    """Return the milliseconds of an anchor: the smaller of two, as the first one also fills the caches."""
    return min(_once(run, sync, clock), _once(run, sync, clock))


def middle(samples: Sequence[float]) -> float:
    """Return the mean of the middle half: it ignores a few disturbed samples, as a median does, but does not
    jump between the two speeds of a machine that has two.
    """
    cut = len(samples) // 4
    return float(np.sort(samples)[cut : len(samples) - cut].mean())


def drifting(percents: Sequence[float]) -> bool:
    """Return whether the last `DRIFT_ROWS` rows were all slower, or all faster, by `DRIFT_PERCENT`."""
    last = percents[-DRIFT_ROWS:]
    return len(last) == DRIFT_ROWS and max(min(last), -max(last)) > DRIFT_PERCENT


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

    @property
    def interval_ms(self) -> float:
        """Return the half-width of the 95% interval of `total_ms`."""
        return self.total_ms * self.total.interval_percent / 100


def conditions_of(model: Transformer, cfg: MeasureConfig) -> dict[str, str]:
    """Return what a latency depends on besides the architecture, as the columns of a table name it."""
    weight = model.source_embed.weight
    known = {"device": device_name(weight.device), "threads": torch.get_num_threads()}
    known |= {"dtype": dtype_name(weight.dtype), "torch": torch.__version__}
    known |= {"vocab_size": model.target_embed.weight.size(0), "qkv_dim": model.space.qkv_dim}
    known |= {"beam": cfg.beam, "source_len": cfg.source_len, "target_len": cfg.target_len}
    return {name: str(value) for name, value in known.items()}


@torch.inference_mode()
def measure_in_turn(
    models: Sequence[Transformer], cfg: MeasureConfig, anchor: Anchor | None = None
) -> list[Timing]:
    """Return the latency of each of some stand-alone models in evaluation mode, see `time_in_turn`."""
    conditions, sync = conditions_of(models[0], cfg), sync_of(models[0].source_embed.weight.device)
    return time_in_turn([workload(model, cfg) for model in models], cfg, conditions, sync, anchor=anchor)


def time_in_turn(
    works: Sequence[Workload],
    cfg: MeasureConfig,
    conditions: dict[str, str],
    sync: Run,
    clock: Clock = time.perf_counter,
    anchor: Anchor | None = None,
) -> list[Timing]:
    """Return the latency of each workload.

    All have turns of `TURN` repeats until each is known well enough, so the repeats of one are spread over
    seconds: if the machine's speed wanders with the load of others, all of them meet all its speeds. The
    first `WARMUP_SHARE` of the repeats does not count. Timing a workload ends when it is `settled`; or,
    unstable, at `max_iterations` or `budget_s`. An `anchor` is timed before and after each turn.
    """
    going = list(range(len(works)))
    repeats = [list[Repeat]() for _ in works]

    def time_anchor() -> None:
        if anchor:
            anchor.timings_ms.append(anchor_timing(anchor.run, sync, clock))

    def needs_more(made: list[Repeat]) -> bool:
        ms, around = counted(made, cfg, anchor)
        spent_s = sum(encoder + decoder for encoder, decoder, _ in made) / 1e3
        return len(ms) < cfg.max_iterations and spent_s <= cfg.budget_s and not settled(ms, around, cfg)

    def timing(made: list[Repeat]) -> Timing:
        ms, around = counted(made, cfg, anchor)
        encoder, decoder, total = (summarise(part) for part in (ms[:, 0], ms[:, 1], ms.sum(1)))
        how = {"iterations": str(total.count), "interval_percent": f"{total.interval_percent:.2f}"}
        known, anchor_ms = {**conditions, **how, "turn": str(TURN)}, float(np.median(around))
        stable = settled(ms, around, cfg)
        return Timing(encoder, decoder, total, stable, known, anchor_ms if anchor else None)

    time_anchor()
    while going:
        for number in going:
            encode, decode = works[number]
            if anchor is not None or len(works) > 1:
                encode()  # back into the caches: the first repeat takes 3% longer
                decode()
            last = len(anchor.timings_ms) - 1 if anchor else 0
            for _ in range(TURN):
                repeats[number].append((_once(encode, sync, clock), _once(decode, sync, clock), last))
            time_anchor()
        going = [number for number in going if needs_more(repeats[number])]
    return [timing(made) for made in repeats]


def counted(repeats: Sequence[Repeat], cfg: MeasureConfig, anchor: Anchor | None) -> tuple[Floats, Floats]:
    """Return the repeats that count, [repeats, 2] ms of encoder and decoder, and the anchor's ms around each.

    They are at the anchor's reference speed: each is divided by the machine's slowness at its time if that
    makes the repeats agree about as well as one common factor does; otherwise all are divided by the latter,
    which is 1 unless the machine was slower, or faster, all the time.
    """
    kept = repeats[max(int(WARMUP_SHARE * len(repeats)), len(repeats) - cfg.max_iterations) :]
    ms = np.array([part[:2] for part in kept])
    if anchor is None:
        return ms, np.ones(len(ms))
    near = {i: middle(anchor.timings_ms[max(0, i + 1 - NEAR) : i + 1 + NEAR]) for *_, i in kept}
    around = np.array([near[i] for *_, i in kept])
    slower, tolerance = around / anchor.reference_ms, TOLERANCE_PERCENT / 100
    surely = slower.min() > 1 + tolerance or slower.max() < 1 - tolerance
    each, common = ms / slower[:, None], ms / (np.median(slower) if surely else 1.0)
    return each if _spread(each.sum(1)) <= MAX_SPREAD_RATIO * _spread(common.sum(1)) else common, around


def settled(ms: Floats, around: Floats, cfg: MeasureConfig) -> bool:
    """Return whether there are enough repeats `ms` [repeats, 2], and their median neither moves nor may lie
    far from what was found, while the machine's speed `around` them did not move.
    """
    total = ms.sum(1)
    return (
        len(total) >= min(cfg.min_iterations, cfg.max_iterations)
        and _interval_percent(total, STOP_SIGMA) <= cfg.interval_percent
        and _trend_percent(total) <= TREND * cfg.interval_percent
        and _trend_percent(around) <= WANDER_PERCENT
    )


def summarise(samples: Floats) -> Series:
    """Return median, trimmed spread and the distribution-free 95% interval of the median."""
    count, cut = len(samples), len(samples) // 10
    trimmed = np.sort(samples)[cut : count - cut]
    spread = float(trimmed.std(ddof=1)) if len(trimmed) > 1 else 0.0
    return Series(float(np.median(samples)), spread, _interval_percent(samples, 1.96), count)


def _spread(samples: Floats) -> float:
    """Return the median distance from the median."""
    return float(np.median(np.abs(samples - np.median(samples))))


def _trend_percent(samples: Floats) -> float:
    """Return how far the medians of the first and the second half of `samples`, at least 2, lie apart."""
    half = len(samples) // 2
    trend = abs(np.median(samples[-half:]) - np.median(samples[:half]))
    return float(100 * trend / np.median(samples)) if trend else 0.0


def _interval_percent(samples: Floats, sigma: float) -> float:
    """Return half the distance of the order statistics between which the median lies, within `sigma` standard
    errors, in percent of the median: distribution-free, in the normal approximation to the ranks.
    """
    count, reach = len(samples), sigma / 2 * math.sqrt(len(samples))
    low, high = max(0, math.floor(count / 2 - reach)), min(count, math.ceil(count / 2 + reach)) - 1
    ordered = np.sort(samples)
    width = ordered[high] - ordered[low]
    return float(50 * width / np.median(samples)) if width else 0.0
