"""Time stand-alone SubTransformers on this device: they take turns, and undisturbed repeats count."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch

from hat.config import Options, option
from hat.decode.beam import BeamConfig, search_from
from hat.latency.costs import Floats
from hat.model.cpu import Amp, device_name, dtype_name
from hat.model.inference import InferenceModel
from hat.model.layers import EOS
from hat.model.transformer import Transformer

ESTIMATE = "minimum of each step"  # other work only adds time; docs/performance.md compares estimates
RUNTIME = "torch"
TURNS, ENOUGH = 3, 9  # least repeats of a model: if its budget has ended, and if it is known well
Run = Callable[[], object]
Work = Callable[[Run], object]  # one sentence; the argument is called between its parts
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


class _Marked:
    """An inference model that calls `mark` before each decoder step."""

    def __init__(self, model: InferenceModel, mark: Run) -> None:
        self._model, self._mark = model, mark

    def step(self, *arguments: Any) -> torch.Tensor:
        self._mark()
        return self._model.step(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@torch.inference_mode()
def workload(model: Transformer, cfg: MeasureConfig) -> Work:
    """Return what translates one random sentence by a stand-alone model in evaluation mode.

    Its parts are the encoder, what begins the search, and each of its steps. A whole beam search is timed
    (HAT 2020 timed bare decoder layers): output matrix, top-k and the bookkeeping of hypotheses included.
    """
    weight = model.source_embed.weight
    source = torch.randint(EOS + 1, weight.size(0), (1, cfg.source_len), device=weight.device)
    source[:, -1] = EOS
    beam = BeamConfig(beam=cfg.beam, max_len_b=cfg.target_len - 1, min_len=cfg.target_len - 1)
    fixed = InferenceModel(model)

    @torch.inference_mode()
    def translate(mark: Run) -> None:
        encoded = fixed.encode(source)
        mark()
        search_from(cast(InferenceModel, _Marked(fixed, mark)), encoded, beam)

    return translate


def sync_of(device: torch.device) -> Run:
    """Return a function that waits until a device has done all its work; a CPU has always finished."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


@dataclass(frozen=True)
class Timing:
    """Latency of one architecture in milliseconds, and what it was measured with.

    It is the sum over encoder and decoder steps of the fastest of their repeats: a part of a millisecond is
    sometimes undisturbed on a busy machine, when a whole search never is. `interval_ms` says how far the
    latencies of two halves of the repeats lie apart.
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
    def of(cls, repeats: Sequence[Sequence[float]], conditions: Mapping[str, str]) -> "Timing":
        """Return the latency of a model by the ms of each part of its repeats."""
        ms = np.array(repeats)  # [repeats, parts]; the first part is the encoder

        def estimate(some: Floats) -> Floats:
            parts = some.min(0)
            return np.array([parts[0], parts[1:].sum()])

        half = len(ms) // 2
        pairs = [(ms[::2], ms[1::2]), (ms[:half], ms[half:])] if half else []
        apart = [abs(float((estimate(one) - estimate(other)).sum())) for one, other in pairs]
        (encoder, decoder), known = estimate(ms).tolist(), {**conditions, "iterations": str(len(ms))}
        spread = float(ms[:, 0].std()), float(ms[:, 1:].sum(1).std())
        return cls(encoder, decoder, *spread, max(apart, default=0.0), known)


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
    models: Iterable[Transformer], cfg: MeasureConfig, anchor: Sequence[Work] = ()
) -> list[Timing]:
    """Return the latency of each of some stand-alone models in evaluation mode, see `time_in_turn`.

    The time in which `models` are made is part of the budget.
    """
    started, models = time.perf_counter(), list(models)
    weight, vocab_size = models[0].source_embed.weight, models[0].target_embed.weight.size(0)
    conditions = conditions_of(weight.device, weight.dtype, vocab_size, models[0].space.qkv_dim, cfg)
    works, sync = [workload(model, cfg) for model in models], sync_of(weight.device)
    return time_in_turn(works, cfg, conditions, sync, anchor=anchor, started=started)


def time_in_turn(
    works: Sequence[Work],
    cfg: MeasureConfig,
    conditions: Mapping[str, str],
    sync: Run,
    clock: Clock = time.perf_counter,
    anchor: Sequence[Work] = (),
    started: float | None = None,
) -> list[Timing]:
    """Return the latency of each workload, and with it the sum of those of `anchor`.

    Each is repeated once in every round, so all meet the same speeds of the machine, and their repeats are
    spread over seconds. Rounds end when every interval is as small as wanted, before another one would exceed
    the budget, or at `max_iterations`.
    """
    began = clock()
    budget_s = cfg.row_budget_s * len(works) - (began - (began if started is None else started))

    def once(work: Work) -> list[float]:
        times: list[float] = []

        def mark() -> None:
            sync()
            times.append(clock())

        mark()
        work(mark)
        mark()
        return [1e3 * (end - start) for start, end in pairwise(times)]

    repeats: list[list[list[float]]] = [[] for _ in (*works, *anchor)]
    while True:
        for taken, work in zip(repeats, (*works, *anchor), strict=True):
            taken.append(once(work))
        done = len(repeats[0])
        late = (clock() - began) * (done + 1) / done > budget_s
        if done < min(TURNS, cfg.max_iterations):
            continue
        timings = [Timing.of(taken, conditions) for taken in repeats]
        known = all(each.interval_percent <= cfg.interval_percent for each in timings)
        if late or (known and done >= ENOUGH) or done >= cfg.max_iterations:
            break
    found, beside = timings[: len(works)], timings[len(works) :]
    if not beside:
        return found
    anchor_ms, interval_ms = (sum(getattr(t, of) for t in beside) for of in ("total_ms", "interval_ms"))
    return [replace(t, anchor_ms=anchor_ms, anchor_percent=100 * interval_ms / anchor_ms) for t in found]
