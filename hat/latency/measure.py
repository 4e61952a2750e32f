"""Time stand-alone SubTransformers in a runtime: they take turns, and undisturbed repeats count."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count, pairwise
from typing import Any

import numpy as np
import torch

from hat.config import Options, option
from hat.data.subwords import TextCodec
from hat.data.vocab import SPECIALS, Vocab
from hat.decode.beam import BeamConfig
from hat.decode.translator import Model
from hat.errors import ConfigError
from hat.latency.costs import Floats
from hat.model.cpu import device_name
from hat.model.layers import EOS
from hat.model.transformer import Transformer
from hat.runtimes import Precision, RuntimeName
from hat.runtimes.engines import Runtime, runtime_of
from hat.space import Arch

TURNS, ENOUGH = 3, 9  # least repeats of a model: if its budget has ended, and if it is known well
COMMAND_S, COMMAND_BUDGETS = 60.0, 20.0  # a program may take so many seconds, or so many budgets of a row
Run = Callable[[], object]
# One sentence; the argument is called between its parts. What takes the time itself returns milliseconds.
Work = Callable[[Run], Sequence[float] | None]
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
    dtype: Precision = "auto"  # number format; auto takes what is fast on the device
    row_budget_s: float = option(1.0, above=0, off=math.inf)  # for each architecture, after TURNS turns
    runtime: RuntimeName = "torch"
    command: str = ""  # the program of the runtime "command", with its arguments

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runtime == "command":
            self.engine()

    def under(self, conditions: Mapping[str, str]) -> "MeasureConfig":
        """Return these settings with the beam, lengths, runtime and format of the rows of a latency table."""
        names = ("beam", "source_len", "target_len")
        known: dict[str, Any] = {name: int(conditions[name]) for name in names if name in conditions}
        known.setdefault("target_len", known.get("source_len", self.target_len))
        known |= {name: conditions[name] for name in ("dtype", "runtime") if name in conditions}
        return replace(self, **known)

    def engine(self) -> Runtime:
        """Return the runtime."""
        limit_s = max(COMMAND_S, COMMAND_BUDGETS * self.row_budget_s)
        return runtime_of(self.runtime, *((self.command, limit_s) if self.runtime == "command" else ()))

    def device_name(self, device: torch.device) -> str:
        """Return what the latency is of: the processor or GPU, or the command that measures elsewhere."""
        return self.command if self.runtime == "command" else device_name(device)

    def check(self, arch: Arch, device: torch.device) -> None:
        """Raise ConfigError if the runtime is missing, or cannot compute so, there, or this architecture."""
        if device.type == "cuda" and self.runtime != "torch":
            raise ConfigError(
                f"--latgpu measures with --runtime torch only, not with {self.runtime}; leave it out"
            )
        runtime = self.engine()
        runtime.version()
        runtime.precision(self.dtype, device)
        runtime.check(arch)


@cache
def stand_in(sizes: tuple[int, int]) -> TextCodec:
    """Return dictionaries of given sizes, for engines that want words although none is read."""
    source, target = (Vocab(f"w{index}" for index in range(len(SPECIALS), size)) for size in sizes)
    return TextCodec(("source", "target"), (source, target))


def workload(model: Transformer, cfg: MeasureConfig) -> Work:
    """Return what translates one random sentence by a stand-alone model in evaluation mode.

    A whole beam search is timed (HAT 2020 timed bare decoder layers): output matrix, top-k and the
    bookkeeping of hypotheses included. Its parts are those of the engine, see `hat.runtimes.engines`.
    """
    weight = model.source_embed.weight
    source = torch.randint(EOS + 1, weight.size(0), (1, cfg.source_len), device=weight.device)
    source[:, -1] = EOS
    beam = BeamConfig(beam=cfg.beam, max_len_b=cfg.target_len - 1, min_len=cfg.target_len - 1)
    runtime, whole = cfg.engine(), Model(model, stand_in(model.vocab_sizes))
    precision = runtime.precision(cfg.dtype, weight.device)
    engine = runtime.prepare(whole, precision, torch.get_num_threads())
    return lambda mark: engine.timed(source, beam, mark)


def sync_of(device: torch.device) -> Run:
    """Return a function that waits until a device has done all its work; a CPU has always finished."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


@dataclass(frozen=True)
class Timing:
    """Latency of one architecture in milliseconds, and what it was measured with.

    It is the sum over encoder and decoder steps of the fastest of their repeats: a part of a millisecond is
    sometimes undisturbed on a busy machine, when a whole search never is. If the engine is timed as a whole,
    it is the fastest repeat, and counts as the decoder's. `interval_ms` says how far the latencies of two
    halves of the repeats lie apart.
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
        ms = np.array(repeats)  # [repeats, parts]; the first part is the encoder, if there are others
        if ms.shape[1] == 1:
            ms = np.hstack([np.zeros_like(ms), ms])

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
    device: torch.device, vocab_size: int, qkv_dim: int, cfg: MeasureConfig, threads: int | None = None
) -> dict[str, str]:
    """Return what a latency depends on besides the architecture, as the columns of a table name it."""
    runtime = cfg.engine()
    known = {"device": cfg.device_name(device), "threads": threads or torch.get_num_threads()}
    known |= {"dtype": runtime.precision(cfg.dtype, device), "torch": torch.__version__}
    known |= {"runtime": cfg.runtime, **runtime.version()}
    known |= {"vocab_size": vocab_size, "qkv_dim": qkv_dim, "beam": cfg.beam}
    known |= {"source_len": cfg.source_len, "target_len": cfg.target_len, "estimate": runtime.estimate}
    return {name: str(value) for name, value in known.items()}


@torch.inference_mode()
def measure_in_turn(
    models: Iterable[Transformer], cfg: MeasureConfig, anchor: Sequence[Work] = ()
) -> list[Timing]:
    """Return the latency of each of some stand-alone models in evaluation mode, see `time_in_turn`."""
    models = list(models)
    device, (_, vocab_size) = models[0].source_embed.weight.device, models[0].vocab_sizes
    conditions = conditions_of(device, vocab_size, models[0].space.qkv_dim, cfg)
    works, sync = [workload(model, cfg) for model in models], sync_of(device)
    return time_in_turn(works, cfg, conditions, sync, anchor=anchor)


def time_in_turn(
    works: Sequence[Work],
    cfg: MeasureConfig,
    conditions: Mapping[str, str],
    sync: Run,
    clock: Clock = time.perf_counter,
    anchor: Sequence[Work] = (),
) -> list[Timing]:
    """Return the latency of each workload, and with it the sum of those of `anchor`.

    Each is repeated once in every round, so all meet the same speeds of the machine, and their repeats are
    spread over seconds. Rounds end when every interval is as small as wanted, before another one would exceed
    the budget, or at `max_iterations`.
    """
    began, budget_s = clock(), cfg.row_budget_s * len(works)

    def once(work: Work) -> list[list[float]]:
        times: list[float] = []

        def mark() -> None:
            sync()
            times.append(clock())

        mark()
        own = work(mark)
        mark()
        parts = [1e3 * (end - start) for start, end in pairwise(times)]
        return [parts] if own is None else [[ms] for ms in own]

    repeats: list[list[list[float]]] = [[] for _ in (*works, *anchor)]
    for rounds in count(1):
        for taken, work in zip(repeats, (*works, *anchor), strict=True):
            taken += once(work)
        done = min(map(len, repeats))
        late = (clock() - began) * (rounds + 1) / rounds > budget_s
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
