"""Time one stand-alone SubTransformer on this device: encoder, and real beam search of a fixed length."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch

from hat.decode.beam import BeamConfig, search_from
from hat.errors import ConfigError
from hat.model.config import EOS
from hat.model.inference import InferenceModel
from hat.model.precision import device_name, dtype_name
from hat.model.transformer import Transformer

WARMUP_SHARE = 0.3  # of all repeats, the first ones: how long a device needs is seen, not known beforehand
TREND_PERCENT = 0.75  # by which the medians of both halves of the counted repeats may differ
WANDER_PERCENT = 3.0  # by which the anchor's speed may have a trend within repeats that are scaled by it
HELPS = 0.4  # scaled repeats count where their spread is at most so much of the measured ones'
SURE = 3.3  # standard errors, 99.9%: the interval that ends timing is looked at after each repeat


@dataclass(frozen=True)
class MeasureConfig:
    """How one architecture is timed: batch 1, `target_len` decoder steps with the end forced at the last."""

    source_len: int
    target_len: int
    beam: int = 5
    max_iterations: int = 300
    min_iterations: int = 7  # fewer hold the median between their extremes too rarely
    interval_percent: float = 1.2  # wanted half-width of the 99.9% interval of the median
    budget_s: float = 60.0  # of the model's own time

    def __post_init__(self) -> None:
        if self.max_iterations < 2:
            raise ConfigError(f"--latiter must be at least 2, got {self.max_iterations}")


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
    pace: "Pace | None" = None  # where an anchor ran between the repeats

    @property
    def total_ms(self) -> float:
        """Return the median of the encoder plus that of the decoder."""
        return self.encoder.median_ms + self.decoder.median_ms


class Pace(NamedTuple):
    """How fast the machine was during a row, by its anchor."""

    median_ms: float
    low_ms: float  # the 95% interval of the median
    high_ms: float
    scaled: bool = False  # the row's repeats are scaled to the median


class Work(NamedTuple):
    """What is timed of a model."""

    encode: Callable[[], object]
    decode: Callable[[], object]


class Samples(NamedTuple):
    """Milliseconds of counted repeats; without an anchor its list is empty."""

    encoder: list[float]
    decoder: list[float]
    anchor: list[float]  # before each repeat, and after the last one
    settled: bool
    scaled: bool = False  # to the median of the anchor

    @property
    def sums(self) -> list[float]:
        """Return encoder and decoder together."""
        return [e + d for e, d in zip(self.encoder, self.decoder, strict=True)]


@torch.inference_mode()
def work_of(model: Transformer, cfg: MeasureConfig) -> Work:
    """Return encoder and beam search of a stand-alone model in evaluation mode on one sentence."""
    device = model.source_embed.weight.device
    limit = min(model.cfg.max_source_positions, model.cfg.max_target_positions)
    if max(cfg.source_len, cfg.target_len) > limit:
        raise ConfigError(
            f"--profile-length {cfg.source_len} exceeds the {limit} positions of the model; lower it"
        )
    source = torch.randint(EOS + 1, model.source_embed.weight.size(0), (1, cfg.source_len), device=device)
    source[:, -1] = EOS
    beam = BeamConfig(beam=cfg.beam, max_len_b=cfg.target_len - 1, min_len=cfg.target_len - 1)
    fixed = InferenceModel(model)
    memory = fixed.encode(source)
    return Work(lambda: fixed.encode(source), lambda: search_from(fixed, memory, beam))


@torch.inference_mode()
def measure(model: Transformer, cfg: MeasureConfig, anchor: Callable[[], object] | None = None) -> Timing:
    """Return the latency of a stand-alone model in evaluation mode, warmed up and repeated until it is known.

    The decoder's time is a whole beam search (HAT 2020 timed bare decoder layers): output matrix, top-k and
    the bookkeeping of hypotheses included. `anchor` runs between the repeats, see `sample_ms`.
    """
    work = work_of(model, cfg)
    weight = model.source_embed.weight
    device = weight.device
    conditions = {
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
        "dtype": dtype_name(weight.dtype),
        "torch": torch.__version__,
        "vocab_size": str(model.target_embed.weight.size(0)),
        "qkv_dim": str(model.space.qkv_dim),
        "beam": str(cfg.beam),
        "source_len": str(cfg.source_len),
        "target_len": str(cfg.target_len),
    }
    return time_parts(*work, cfg, conditions, sync_of(device), anchor=anchor)


def time_parts(
    encode: Callable[[], object],
    decode: Callable[[], object],
    cfg: MeasureConfig,
    conditions: dict[str, str],
    sync: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
    anchor: Callable[[], object] | None = None,
) -> Timing:
    """Return what `sample_ms` measures of both parts, summarised, with how often and how sure it was."""
    found = sample_ms(encode, decode, cfg, sync, clock, anchor)
    total = summarise(found.sums)
    known = {"iterations": str(total.count), "interval_percent": f"{total.interval_percent:.2f}"}
    return Timing(
        summarise(found.encoder),
        summarise(found.decoder),
        total,
        found.settled,
        conditions | known,
        _pace(found) if anchor else None,
    )


def sample_ms(
    encode: Callable[[], object],
    decode: Callable[[], object],
    cfg: MeasureConfig,
    sync: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
    anchor: Callable[[], object] | None = None,
) -> Samples:
    """Return milliseconds of both parts, timed in turn, and whether they settled.

    The first `WARMUP_SHARE` of all repeats does not count, so a device that needs longer to warm up gets
    longer. Timing ends when neither the interval of the median of the sum nor a trend within the counted
    repeats is wider than allowed; or, unsettled, at `max_iterations` or `budget_s`.

    An `anchor` is timed before and after each repeat. Repeats that do not settle by themselves, because the
    machine's speed wanders with the load of other virtual machines, say, are scaled to the anchor's median
    where they then agree better.
    """

    def once(run: Callable[[], object]) -> float:
        sync()
        start = clock()
        run()
        sync()
        return 1e3 * (clock() - start)

    encoder: list[float] = []
    decoder: list[float] = []
    anchors: list[float] = []

    def look() -> None:
        if anchor:
            anchor()  # into the caches, which are full of the model that is timed
            anchors.append(once(anchor))
            encode()  # and back

    look()
    while True:
        encoder.append(once(encode))
        decoder.append(once(decode))
        look()
        first = int(WARMUP_SHARE * len(encoder))
        count = len(encoder) - first
        found = Samples(encoder[first:], decoder[first:], anchors[first:], False)
        settled = count >= cfg.min_iterations and _settled(found.sums, cfg.interval_percent)
        spent_s = (sum(encoder) + sum(decoder)) / 1e3
        ended = settled or count >= cfg.max_iterations or spent_s > cfg.budget_s
        if anchor and not settled and (ended or count >= 2 * cfg.min_iterations):
            steady = _scaled(found)
            if _spread(steady.sums) < HELPS * _spread(found.sums):
                found = steady
                wanders = _trend_percent(found.anchor) > WANDER_PERCENT
                settled = not wanders and _settled(found.sums, cfg.interval_percent)
        if settled or ended:
            return found._replace(settled=settled)


def _scaled(raw: Samples) -> Samples:
    """Return the repeats at the median speed of the anchor around them."""
    median = statistics.median(raw.anchor)
    around = [(before + after) / 2 for before, after in pairwise(raw.anchor)]
    encoder, decoder = (
        [ms * median / now for ms, now in zip(part, around, strict=True)]
        for part in (raw.encoder, raw.decoder)
    )
    return raw._replace(encoder=encoder, decoder=decoder, scaled=True)


def pace(
    anchor: Callable[[], object],
    cfg: MeasureConfig,
    sync: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> Pace:
    """Return how fast the machine is now, by at least 21 counted runs of an anchor alone."""
    enough = replace(cfg, min_iterations=21, max_iterations=max(21, cfg.max_iterations))
    found = sample_ms(_nothing, anchor, enough, sync, clock)
    return _pace(found._replace(anchor=found.decoder))


def sync_of(device: torch.device) -> Callable[[], None]:
    """Return what waits until a device has done all its work."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else _nothing


def _pace(found: Samples) -> Pace:
    """Return the median of an anchor's timings, and how sure it is."""
    ordered = sorted(found.anchor)
    return Pace(statistics.median(ordered), *_interval(ordered, 1.96), found.scaled)


def _settled(samples: list[float], interval_percent: float) -> bool:
    """Return whether the median of `samples`, in the order of measuring, is known and does not move."""
    ordered = sorted(samples)
    low, high = _interval(ordered, SURE)
    narrow = high - low <= 2 * interval_percent / 100 * statistics.median(ordered)
    return narrow and _trend_percent(samples) <= TREND_PERCENT


def _trend_percent(samples: list[float]) -> float:
    """Return how far the medians of the first and the second half of `samples`, at least 2, lie apart."""
    half = len(samples) // 2
    trend = statistics.median(samples[-half:]) - statistics.median(samples[:half])
    median = statistics.median(samples)
    return 100 * abs(trend) / median if median else 0.0


def _spread(samples: list[float]) -> float:
    """Return the median distance from the median."""
    median = statistics.median(samples)
    return statistics.median(abs(ms - median) for ms in samples)


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


def _nothing() -> None:
    """Wait for a CPU, which has always finished."""
