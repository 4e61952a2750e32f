"""Time stand-alone SubTransformers on this device: several in turn, beside an anchor that shows its speed."""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, cast

import torch

from hat.decode.beam import BeamConfig, search_from
from hat.errors import ConfigError
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


@dataclass(frozen=True)
class MeasureConfig:
    """How one architecture is timed: batch 1, `target_len` decoder steps with the end forced at the last.

    Raises ConfigError for numbers out of range.
    """

    source_len: int = 30  # tokens
    target_len: int = 30  # tokens
    beam: int = 5
    max_iterations: int = 300  # counted repeats
    min_iterations: int = 7
    interval_percent: float = 1.2  # wanted half-width of the 95% interval of the median
    budget_s: float = 60.0  # of the model's own time
    dtype: Amp = "auto"  # number format; auto takes what is fast on the device

    def __post_init__(self) -> None:
        if self.max_iterations < 2:
            raise ConfigError(f"--latiter must be at least 2, got {self.max_iterations}")
        if not 0 <= self.interval_percent <= 100:
            raise ConfigError(f"--lat-interval must lie between 0 and 100, got {self.interval_percent}")
        if self.beam < 1:
            raise ConfigError(f"--lat-beam must be at least 1, got {self.beam}")
        if min(self.source_len, self.target_len) < 1:
            raise ConfigError(f"--profile-length must be at least 1, got {self.source_len}")

    def under(self, conditions: Mapping[str, str]) -> "MeasureConfig":
        """Return these settings with beam, lengths and number format of the rows of a latency table."""
        names = ("beam", "source_len", "target_len")
        known: dict[str, Any] = {name: int(conditions[name]) for name in names if name in conditions}
        known.setdefault("target_len", known.get("source_len", self.target_len))
        return replace(self, dtype=cast(Amp, conditions.get("dtype", self.dtype)), **known)


class Workload(NamedTuple):
    """The two parts of a model that are timed."""

    encode: Callable[[], object]
    decode: Callable[[], object]


@torch.inference_mode()
def workload(model: Transformer, cfg: MeasureConfig) -> Workload:
    """Return encoder and beam search of a stand-alone model in evaluation mode on one random sentence.

    The decoder's part is a whole beam search (HAT 2020 timed bare decoder layers): output matrix, top-k and
    the bookkeeping of hypotheses included. Raises ConfigError if the model has too few positions.
    """
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
    encoded = fixed.encode(source)
    return Workload(lambda: fixed.encode(source), lambda: search_from(fixed, encoded, beam))


def sync_of(device: torch.device) -> Callable[[], None]:
    """Return a function that waits until a device has done all its work."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else nothing


def nothing() -> None:
    """Wait for a CPU, which has always finished."""


@dataclass
class Anchor:
    """Short searches whose time, compared with `reference_ms` before the first row, shows how fast the
    machine is now.
    """

    run: Callable[[], object]
    reference_ms: float
    steps: tuple[int, ...] = ()  # decoder steps in each of its searches
    timings_ms: list[float] = field(default_factory=list, init=False)
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=DRIFT_ROWS), init=False)

    def around_ms(self, index: int) -> float:
        """Return the middle of the timings around repeats made between timing `index` and the next one."""
        return middle(self.timings_ms[max(0, index + 1 - NEAR) : index + 1 + NEAR])

    def slower(self, around_ms: Sequence[float]) -> float:
        """Return median(around_ms) / reference_ms if the machine was slower, or faster, during the whole row;
        otherwise 1.
        """
        slow, fast = (self.reference_ms * (1 + sign * TOLERANCE_PERCENT / 100) for sign in (1, -1))
        surely = min(around_ms) > slow or max(around_ms) < fast
        return statistics.median(around_ms) / self.reference_ms if surely else 1.0

    def note(self, now_ms: float) -> None:
        """Remember the anchor's time during a row."""
        self._last.append(100 * (now_ms / self.reference_ms - 1))

    @property
    def drift_percent(self) -> float:
        """Return how much slower the machine was at the last row than before the first one."""
        return self._last[-1] if self._last else 0.0

    @property
    def drifting(self) -> bool:
        """Return whether the last `DRIFT_ROWS` rows were all slower, or all faster, by `DRIFT_PERCENT`."""
        slower, faster = min(self._last, default=0.0), max(self._last, default=0.0)
        return len(self._last) == DRIFT_ROWS and max(slower, -faster) > DRIFT_PERCENT


def middle(samples: Sequence[float]) -> float:
    """Return the mean of the middle half.

    Like a median it ignores a few disturbed samples; on a machine with two speeds it does not jump between
    them.
    """
    cut = len(samples) // 4
    return statistics.fmean(sorted(samples)[cut : len(samples) - cut])


def anchor_of(
    largest: Transformer, smallest: Transformer, cfg: MeasureConfig, known_ms: float | None = None
) -> Anchor:
    """Return an anchor that runs short searches with both models, timed if `known_ms` is not given.

    One model alone would not do: other work on the machine slows a model that reads its weights from memory
    more than one whose weights stay in the caches.
    """
    both = largest, smallest
    steps = max(2, cfg.target_len // 8), max(2, cfg.target_len // 3)
    short = [
        workload(model, replace(cfg, target_len=count)) for model, count in zip(both, steps, strict=True)
    ]
    whole = [workload(model, cfg) for model in both]

    def run() -> None:
        for each in short:
            each.decode()

    def fill_caches() -> None:
        for each in whole:
            each.decode()

    with torch.inference_mode():
        found = known_ms or reference_ms(run, fill_caches, sync_of(largest.source_embed.weight.device))
    return Anchor(run, found, steps)


def reference_ms(
    run: Callable[[], object],
    between: Callable[[], object],
    sync: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
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
    """Milliseconds of the repeats of one model, and the index of the anchor's timing before each."""

    encoder: list[float] = field(default_factory=list)
    decoder: list[float] = field(default_factory=list)
    anchor_index: list[int] = field(default_factory=list)


class Counted(NamedTuple):
    """Milliseconds of the repeats after warming up, at the anchor's reference, and its time around each."""

    encoder: list[float]
    decoder: list[float]
    anchor: list[float]

    @property
    def sums(self) -> list[float]:
        """Return encoder plus decoder of each repeat."""
        return [e + d for e, d in zip(self.encoder, self.decoder, strict=True)]

    def divided(self, slower: Sequence[float]) -> "Counted":
        """Return the repeats divided by how many times slower the machine was at each."""
        encoder, decoder = (
            [ms / by for ms, by in zip(part, slower, strict=True)] for part in (self.encoder, self.decoder)
        )
        return self._replace(encoder=encoder, decoder=decoder)

    def settled(self, cfg: MeasureConfig) -> bool:
        """Return whether there are enough repeats, at a machine speed that did not move."""
        sums = self.sums
        enough = len(sums) >= min(cfg.min_iterations, cfg.max_iterations)
        return enough and _trend_percent(self.anchor) <= WANDER_PERCENT and _known(sums, cfg.interval_percent)


def counted(repeats: Repeats, cfg: MeasureConfig, anchor: Anchor | None) -> Counted:
    """Return the repeats that count, at the anchor's reference speed.

    Each repeat is divided by the machine's slowness at its time if that makes the repeats agree about as well
    as one common factor does; otherwise all are divided by the common factor.
    """
    count = len(repeats.encoder)
    some = slice(max(int(WARMUP_SHARE * count), count - cfg.max_iterations), None)
    indices = repeats.anchor_index[some]
    around_ms = {index: anchor.around_ms(index) if anchor else 1.0 for index in dict.fromkeys(indices)}
    around = [around_ms[index] for index in indices]
    found = Counted(repeats.encoder[some], repeats.decoder[some], around)
    if anchor is None:
        return found
    each = found.divided([now / anchor.reference_ms for now in around])
    common = found.divided([anchor.slower(around)] * len(around))
    return each if _spread(each.sums) <= MAX_SPREAD_RATIO * _spread(common.sums) else common


def conditions_of(model: Transformer, cfg: MeasureConfig) -> dict[str, str]:
    """Return what a latency depends on besides the architecture, as the columns of a table name it."""
    weight = model.source_embed.weight
    return {
        "device": device_name(weight.device),
        "threads": str(torch.get_num_threads()),
        "dtype": dtype_name(weight.dtype),
        "torch": torch.__version__,
        "vocab_size": str(model.target_embed.weight.size(0)),
        "qkv_dim": str(model.space.qkv_dim),
        "beam": str(cfg.beam),
        "source_len": str(cfg.source_len),
        "target_len": str(cfg.target_len),
    }


@torch.inference_mode()
def measure_in_turn(
    models: Sequence[Transformer], cfg: MeasureConfig, anchor: Anchor | None = None
) -> list[Timing]:
    """Return the latency of each of some stand-alone models in evaluation mode, see `time_in_turn`."""
    conditions, sync = conditions_of(models[0], cfg), sync_of(models[0].source_embed.weight.device)
    works = [workload(model, cfg) for model in models]
    return time_in_turn(works, cfg, conditions, sync, anchor=anchor)


def time_in_turn(
    works: Sequence[Workload],
    cfg: MeasureConfig,
    conditions: dict[str, str],
    sync: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
    anchor: Anchor | None = None,
) -> list[Timing]:
    """Return the summary of what `repeat_in_turn` measures of each workload."""
    timings = []
    for repeats in repeat_in_turn(works, cfg, sync, clock, anchor):
        found = counted(repeats, cfg, anchor)
        encoder, decoder, total = (summarise(part) for part in (found.encoder, found.decoder, found.sums))
        known = {
            "iterations": str(total.count),
            "interval_percent": f"{total.interval_percent:.2f}",
            "turn": str(TURN),
        }
        anchor_ms = statistics.median(found.anchor) if anchor else None
        timings.append(Timing(encoder, decoder, total, found.settled(cfg), conditions | known, anchor_ms))
    return timings


def repeat_in_turn(
    works: Sequence[Workload],
    cfg: MeasureConfig,
    sync: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
    anchor: Anchor | None = None,
) -> list[Repeats]:
    """Return the milliseconds of both parts of each workload.

    All have turns of `TURN` repeats until each is known well enough, so the repeats of one are spread over
    seconds: if the machine's speed wanders with the load of others, all of them meet all its speeds. The
    first `WARMUP_SHARE` of the repeats does not count. Timing a workload ends when the interval of the
    median of the sum and the trend within the counted repeats are within what is allowed; or, unstable, at
    `max_iterations` or `budget_s`. An `anchor` is timed before and after each turn.
    """
    once = partial(_once, sync=sync, clock=clock)

    def time_anchor() -> None:
        if anchor:
            anchor.timings_ms.append(anchor_timing(anchor.run, sync, clock))

    def ended(repeats: Repeats) -> bool:
        found = counted(repeats, cfg, anchor)
        spent_s = (sum(repeats.encoder) + sum(repeats.decoder)) / 1e3
        return found.settled(cfg) or len(found.sums) >= cfg.max_iterations or spent_s > cfg.budget_s

    found = [Repeats() for _ in works]
    going = list(zip(works, found, strict=True))
    time_anchor()
    while going:
        for work, repeats in going:
            if anchor is not None or len(works) > 1:
                work.encode()  # back into the caches: the first repeat takes 3% longer
                work.decode()
            for _ in range(TURN):
                repeats.encoder.append(once(work.encode))
                repeats.decoder.append(once(work.decode))
                repeats.anchor_index.append(len(anchor.timings_ms) - 1 if anchor else 0)
            time_anchor()
        going = [(work, repeats) for work, repeats in going if not ended(repeats)]
    return found


def _once(run: Callable[[], object], sync: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return the milliseconds that `run` takes."""
    sync()
    start = clock()
    run()
    sync()
    return 1e3 * (clock() - start)


def anchor_timing(
    run: Callable[[], object], sync: Callable[[], None], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the milliseconds of an anchor: the smaller of two, as the first one also fills the caches."""
    return min(_once(run, sync, clock), _once(run, sync, clock))


def _known(samples: list[float], percent: float) -> bool:
    """Return whether the median of `samples`, in the order of measuring, is known and does not move."""
    low, high = _interval(sorted(samples), STOP_SIGMA)
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


def _interval(ordered: list[float], sigma: float) -> tuple[float, float]:
    """Return the order statistics between which the median lies, within `sigma` standard errors.

    Distribution-free, in the normal approximation to the ranks.
    """
    count, reach = len(ordered), sigma / 2 * math.sqrt(len(ordered))
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
