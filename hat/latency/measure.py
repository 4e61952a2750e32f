"""Time stand-alone SubTransformers on this device: they take turns, and the fastest repeat of each counts."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from hat.config import Options, option
from hat.decode.beam import BeamConfig, search_from
from hat.model.cpu import Amp, device_name, dtype_name
from hat.model.inference import InferenceModel
from hat.model.layers import EOS
from hat.model.transformer import Transformer

ESTIMATE = "minimum"  # of the repeats: other work only adds time (docs/performance.md compares estimates)
RUNTIME = "torch"
TURNS = 3  # least turns of a model, also if its budget has ended
REPEATS = 3  # of a turn; the first one also fills the caches
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
    max_iterations: int = option(300, low=1)  # repeats
    interval_percent: float = option(1.2, low=0, high=100)  # repeats end if all are known so well
    dtype: Amp = "auto"  # number format; auto takes what is fast on the device
    row_budget_s: float = option(1.0, above=0, off=math.inf)  # for each architecture, after TURNS turns

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


@dataclass(frozen=True)
class Timing:
    """Latency of one architecture in milliseconds, and what it was measured with.

    The true latency is at most what was measured, because other work only adds time. `interval_ms`, the
    distance to the third fastest turn, says how far below it may lie: in a trial the ratio of two models
    differed from that of a quiet machine by less than the sum of their intervals in 97% of all cases.
    """

    encoder_ms: float
    decoder_ms: float
    encoder_spread_ms: float  # standard deviation of the repeats
    decoder_spread_ms: float
    interval_ms: float
    conditions: dict[str, str]
    anchor_ms: float | None = None  # of a fixed pair of models that were measured in the same turns
    anchor_percent: float = 0.0  # interval of that

    @property
    def total_ms(self) -> float:
        """Return the encoder's latency plus the decoder's."""
        return self.encoder_ms + self.decoder_ms

    @property
    def interval_percent(self) -> float:
        """Return the interval in percent of the latency."""
        return 100 * self.interval_ms / self.total_ms

    def at_speed(self, anchor_ms: float) -> "Timing":
        """Return the latency on a machine on which the anchor takes `anchor_ms`; its interval is wider."""
        assert self.anchor_ms, "measured without an anchor"
        factor, more_ms = anchor_ms / self.anchor_ms, self.total_ms * self.anchor_percent / 100
        parts = ("encoder_ms", "decoder_ms", "encoder_spread_ms", "decoder_spread_ms")
        scaled = {name: factor * getattr(self, name) for name in parts}
        return replace(self, **scaled, interval_ms=factor * (self.interval_ms + more_ms))

    @classmethod
    def of(cls, turns: Sequence[Sequence[tuple[float, float]]], conditions: Mapping[str, str]) -> "Timing":
        """Return the latency of a model by its turns of repeats: ms of encoder and decoder."""
        ms = np.array(turns)  # [turns, repeats, 2]
        (encoder, decoder), spread = ms.min((0, 1)), ms.std((0, 1))
        fastest = np.sort(ms.sum(2).min(1))[:3]  # of each turn
        known = {**conditions, "iterations": str(ms.shape[0] * ms.shape[1])}
        interval = float(fastest[-1] - fastest[0])
        return cls(float(encoder), float(decoder), float(spread[0]), float(spread[1]), interval, known)


def conditions_of(
    device: torch.device,
    dtype: torch.dtype,
    vocab_size: int,
    qkv_dim: int,
    cfg: MeasureConfig,
    threads: int | None = None,
) -> dict[str, str]:
    """Return what a latency depends on besides the architecture, as the columns of a table name it."""
    known = {"device": device_name(device), "threads": threads or torch.get_num_threads()}
    known |= {"dtype": dtype_name(dtype), "torch": torch.__version__}
    known |= {"runtime": RUNTIME, "vocab_size": vocab_size, "qkv_dim": qkv_dim, "beam": cfg.beam}
    known |= {"source_len": cfg.source_len, "target_len": cfg.target_len, "estimate": ESTIMATE}
    return {name: str(value) for name, value in known.items()}


@torch.inference_mode()
def measure_in_turn(
    models: Sequence[Transformer], cfg: MeasureConfig, anchor: Sequence[Workload] = ()
) -> list[Timing]:
    """Return the latency of each of some stand-alone models in evaluation mode, see `time_in_turn`."""
    weight, vocab_size = models[0].source_embed.weight, models[0].target_embed.weight.size(0)
    conditions = conditions_of(weight.device, weight.dtype, vocab_size, models[0].space.qkv_dim, cfg)
    works, sync = [workload(model, cfg) for model in models], sync_of(weight.device)
    return time_in_turn(works, cfg, conditions, sync, anchor=anchor)


def time_in_turn(
    works: Sequence[Workload],
    cfg: MeasureConfig,
    conditions: Mapping[str, str],
    sync: Run,
    clock: Clock = time.perf_counter,
    anchor: Sequence[Workload] = (),
) -> list[Timing]:
    """Return the latency of each workload, and with it the sum of those of `anchor`.

    All have turns of a few repeats, equally many, so they meet the same speeds of the machine, and the
    repeats of each are spread over seconds. Turns end when every interval is as small as wanted, before
    another round would exceed the budget, or at `max_iterations` repeats.
    """
    repeats = max(1, min(REPEATS, cfg.max_iterations // TURNS))
    started = clock()

    def once(run: Run) -> float:
        sync()
        start = clock()
        run()
        sync()
        return 1e3 * (clock() - start)

    def turn(work: Workload) -> list[tuple[float, float]]:
        return [(once(work.encode), once(work.decode)) for _ in range(repeats)]

    turns: list[list[list[tuple[float, float]]]] = [[] for _ in (*works, *anchor)]
    while True:
        for taken, work in zip(turns, (*works, *anchor), strict=True):
            taken.append(turn(work))
        done, spent_s = len(turns[0]), clock() - started
        timings = [Timing.of(taken, conditions) for taken in turns]
        late = spent_s * (done + 1) / done > cfg.row_budget_s * len(works)
        known = all(timing.interval_percent <= cfg.interval_percent for timing in timings)
        if (done + 1) * repeats > cfg.max_iterations or (done >= TURNS and (late or known)):
            break
    found, beside = timings[: len(works)], timings[len(works) :]
    if not beside:
        return found
    anchor_ms, interval_ms = (sum(getattr(t, of) for t in beside) for of in ("total_ms", "interval_ms"))
    return [replace(t, anchor_ms=anchor_ms, anchor_percent=100 * interval_ms / anchor_ms) for t in found]
