"""Time one stand-alone SubTransformer on this device: encoder, and real beam search of a fixed length."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from hat.decode.beam import BeamConfig, search_from
from hat.errors import ConfigError
from hat.model.config import EOS
from hat.model.inference import InferenceModel
from hat.model.precision import device_name, dtype_name
from hat.model.transformer import Transformer

WINDOW = 3  # repeats whose medians are compared while warming up
MAX_WARMUP = 30


@dataclass(frozen=True)
class MeasureConfig:
    """How one architecture is timed: batch 1, `target_len` decoder steps with the end forced at the last."""

    source_len: int
    target_len: int
    beam: int = 5
    max_iterations: int = 300
    min_iterations: int = 7  # fewer cannot hold the median with 95% probability between their extremes
    interval_percent: float = 2.0  # wanted half-width of the 95% interval of the median
    budget_s: float = 60.0

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
    stable: bool  # warm-up settled and the wanted interval was reached
    conditions: dict[str, str]

    @property
    def total_ms(self) -> float:
        """Return the median of the encoder plus that of the decoder."""
        return self.encoder.median_ms + self.decoder.median_ms


@torch.inference_mode()
def measure(model: Transformer, cfg: MeasureConfig) -> Timing:
    """Return the latency of a stand-alone model in evaluation mode, warmed up and repeated until it is known.

    The decoder's time is a whole beam search (HAT 2020 timed bare decoder layers): output matrix, top-k and
    cache reordering included.
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
    memory = fixed.encode(source)
    sync = partial(torch.cuda.synchronize, device) if device.type == "cuda" else _nothing
    encoder, decoder, settled = sample_ms(
        lambda: fixed.encode(source), lambda: search_from(fixed, memory, beam), cfg, sync
    )
    enc, dec = summarise(encoder), summarise(decoder)
    total = summarise([e + d for e, d in zip(encoder, decoder, strict=True)])
    conditions = {
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
        "dtype": dtype_name(model.source_embed.weight.dtype),
        "torch": torch.__version__,
        "vocab_size": str(model.target_embed.weight.size(0)),
        "qkv_dim": str(model.space.qkv_dim),
        "beam": str(cfg.beam),
        "source_len": str(cfg.source_len),
        "target_len": str(cfg.target_len),
        "iterations": str(total.count),
        "interval_percent": f"{total.interval_percent:.2f}",
    }
    return Timing(enc, dec, total, settled and total.interval_percent <= cfg.interval_percent, conditions)


def sample_ms(
    encode: Callable[[], object],
    decode: Callable[[], object],
    cfg: MeasureConfig,
    sync: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float], bool]:
    """Return milliseconds of both parts, timed in turn, and whether the warm-up settled.

    Warm-up ends when the medians of two windows agree within the wanted interval, and the second of them
    counts; timing ends when the interval of the median of the sum is narrow enough, or at `max_iterations` or
    `budget_s`.
    """

    def once(run: Callable[[], object]) -> float:
        sync()
        start = clock()
        run()
        sync()
        return 1e3 * (clock() - start)

    begun = clock()
    encoder: list[float] = []
    decoder: list[float] = []
    settled = False
    while len(encoder) < MAX_WARMUP and not settled and clock() - begun < cfg.budget_s / 2:
        encoder.append(once(encode))
        decoder.append(once(decode))
        if len(encoder) >= 2 * WINDOW:
            sums = [e + d for e, d in zip(encoder, decoder, strict=True)]
            before = statistics.median(sums[-2 * WINDOW : -WINDOW])
            now = statistics.median(sums[-WINDOW:])
            settled = abs(now - before) <= cfg.interval_percent / 100 * before
        elif len(encoder) >= cfg.max_iterations:
            break
    encoder, decoder = encoder[-WINDOW:], decoder[-WINDOW:]
    while len(encoder) < cfg.max_iterations:
        encoder.append(once(encode))
        decoder.append(once(decode))
        if len(encoder) < cfg.min_iterations:
            continue
        sums = [e + d for e, d in zip(encoder, decoder, strict=True)]
        if summarise(sums).interval_percent <= cfg.interval_percent or clock() - begun > cfg.budget_s:
            break
    return encoder, decoder, settled


def summarise(samples: list[float]) -> Series:
    """Return median, trimmed spread and the distribution-free 95% interval of the median."""
    ordered = sorted(samples)
    count = len(ordered)
    cut = count // 10
    trimmed = ordered[cut : count - cut]
    median = statistics.median(ordered)
    # ranks of the order statistics that hold the median with 95% probability (normal approximation)
    reach = 0.98 * math.sqrt(count)
    low = max(0, math.floor(count / 2 - reach))
    high = min(count - 1, math.ceil(count / 2 + reach) - 1)
    half_width = (ordered[high] - ordered[low]) / 2
    spread = statistics.stdev(trimmed) if len(trimmed) > 1 else 0.0
    return Series(median, spread, 100 * half_width / median if median else 0.0, count)


def _nothing() -> None:
    """Wait for a CPU, which has always finished."""
