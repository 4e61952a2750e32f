"""Time stand-alone SubTransformers, which take turns in a runtime: a table, given ones, one alone."""

import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import count, islice, pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hat.config import Options, option
from hat.data.subwords import TextCodec
from hat.data.vocab import SPECIALS, Vocab
from hat.decode.beam import BeamConfig
from hat.decode.translator import Model
from hat.errors import ConfigError, HatError
from hat.latency.costs import Floats
from hat.latency.predictor import SHARED, conditions_of_space, differences
from hat.latency.table import LatencyTable, Row, TableWriter, row_of
from hat.log import info
from hat.log import progress as counting
from hat.model.cpu import DTYPES, device_name, keep_pages
from hat.model.layers import EOS, ModelConfig, count_macs, count_params
from hat.model.transformer import SubTransformer, SuperTransformer, Transformer, extract
from hat.rng import rng_for, seed_for
from hat.run import Identity, Run, read_record, record_path
from hat.runtimes import Precision, RuntimeName
from hat.runtimes.engines import Runtime, runtime_of
from hat.space import SIDES, Arch, SearchSpace, sample

if TYPE_CHECKING:
    from hat.data.dataset import Dataset

TURNS, ENOUGH = 3, 9  # least repeats of a model: if its budget has ended, and if it is known well
COMMAND_S, COMMAND_BUDGETS = 60.0, 20.0  # a program may take so many seconds, or so many budgets of a row
CPU = torch.device("cpu")
Action = Callable[[], object]
# One sentence; the argument is called between its parts. What takes the time itself returns milliseconds.
Work = Callable[[Action], Sequence[float] | None]
TOGETHER = 8, 24  # architectures that take turns: at least so many, more while their weights fit in MEMORY
MEMORY = 1 << 29  # bytes
ANCHOR = "largest+smallest"  # its models
_SERVE = "from hat.latency.measure import _serve; _serve()"
Sizes = tuple[int, int]


@dataclass(frozen=True)
class MeasureConfig(Options):
    """How one architecture is timed: batch 1, `target_len` decoder steps with the end forced at the last."""

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
            raise ConfigError(f"--latgpu measures with --runtime torch only, not {self.runtime}")
        runtime = self.engine()
        runtime.version()
        runtime.precision(self.dtype, device)
        runtime.check(arch)


@cache
def stand_in(sizes: Sizes) -> TextCodec:
    """Return dictionaries of given sizes, for engines that want words although none is read."""
    source, target = (Vocab(f"w{index}" for index in range(len(SPECIALS), size)) for size in sizes)
    return TextCodec(("source", "target"), (source, target))


def workload(model: Transformer, cfg: MeasureConfig, sentences: int = 1) -> Work:
    """Return a beam search of random sentences by a model in evaluation mode, in the parts of the engine."""
    weight = model.source_embed.weight
    source = torch.randint(EOS + 1, weight.size(0), (sentences, cfg.source_len), device=weight.device)
    source[:, -1] = EOS
    beam = BeamConfig(beam=cfg.beam, max_len_b=cfg.target_len - 1, min_len=cfg.target_len - 1)
    runtime, whole = cfg.engine(), Model(model, stand_in(model.vocab_sizes))
    precision = runtime.precision(cfg.dtype, weight.device)
    engine = runtime.prepare(whole, precision, torch.get_num_threads())
    return lambda mark: engine.timed(source, beam, mark)


def sync_of(device: torch.device) -> Action:
    """Return a function that waits until a device has done all its work; a CPU has always finished."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


@dataclass(frozen=True)
class Timing:
    """Latency of one architecture in milliseconds, and what it was measured with: the sum over encoder and
    decoder steps of the fastest of their repeats, of an engine that is timed as a whole the fastest repeat,
    as the decoder's. `interval_ms` says how far the latencies of two halves of the repeats lie apart.
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
        factor = anchor_ms / self.anchor_ms
        interval_ms = self.interval_ms + self.total_ms * self.anchor_percent / 100
        parts = ("encoder_ms", "decoder_ms", "encoder_spread_ms", "decoder_spread_ms")
        scaled = {name: factor * getattr(self, name) for name in parts}
        return replace(self, **scaled, interval_ms=factor * interval_ms)

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
    sync: Action,
    clock: Callable[[], float] = time.perf_counter,
    anchor: Sequence[Work] = (),
) -> list[Timing]:
    """Return the latency of each workload, and with it the sum of those of `anchor`. Each is repeated once in
    every round, so all meet the same speeds of the machine. Rounds end when every interval is as small as
    wanted, before another one would exceed the budget, or at `max_iterations`.
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


def collect(
    space: SearchSpace,
    rows: int,
    *,
    vocab_sizes: Sizes | None = None,
    dataset: "Dataset | None" = None,
    config: MeasureConfig | None = None,
    model_config: ModelConfig | None = None,
    out: str | Path | None = None,
    device: torch.device | str | None = None,
    seed: int = 1,
    progress: bool = False,
    settings: Mapping[str, Any] | None = None,
    budget_s: float = math.inf,
    new_run: bool = False,
) -> LatencyTable:
    """Measure random SubTransformers of `space` until there are `rows` of them, in ms.

    Groups of distinct architectures take turns, together with an anchor: the largest and the smallest one, by
    which all rows are brought to the machine's speed during the first group (docs/performance.md). Their
    order depends on the seed only. Rows are appended to the CSV file `out` with its record `out.run.json`,
    and those in it count: a killed collection goes on. Without a file the rows stay in memory.

    Args:
        device: by default the CPU, with the threads that torch has.
        vocab_sizes: of source and target dictionary; by default those of `dataset`.
        settings: options for the record, if the caller has more than the arguments above.
        budget_s: seconds for all rows; the table stays shorter if they end before.
        new_run: move a table that was measured in other ways out of the way.

    Raises ConfigError if `out` holds rows measured in other ways, or the runtime is missing or has no form
    for all of the space; DataError for a damaged table, HatError if another process writes it.
    """
    vocab_sizes = vocab_sizes or (dataset.vocab_sizes if dataset else None)
    if vocab_sizes is None:
        raise ConfigError("measuring needs the sizes of the dictionaries: give vocab_sizes or dataset")
    cfg, where, start = config or MeasureConfig(), torch.device(device or "cpu"), time.perf_counter()
    cfg.check(space.largest(), where)
    subject = Subject(space, vocab_sizes, cfg, model_config, where, seed)
    models, wanted = subject.models(), subject.identity()
    path, ends = Path(out) if out is not None else None, (models(space.largest()), models(space.smallest()))
    with _own_table(path, wanted, new_run) as table:
        done, drift_percent = len(table.records), 0.0
        reference_ms = float(table.records[0].conditions["reference_ms"]) if done else 0.0
        archs = _new_archs(space, seed, [row.arch for row in table.records], rows - done)
        weights = sum(each.numel() * each.element_size() for each in ends[0].parameters())
        together = min(max(MEMORY // weights, TOGETHER[0]), TOGETHER[1])

        def timings() -> Iterator[tuple[Arch, Timing]]:
            anchor = [workload(model, cfg) for model in ends]
            while group := list(islice(archs, together)):
                left_s = budget_s - (time.perf_counter() - start)
                if left_s <= 0 and len(table.records) > done:
                    break
                row_s = min(cfg.row_budget_s, max(left_s, 0.01) / (rows - len(table.records)))
                how = replace(cfg, row_budget_s=row_s)
                measured = measure_in_turn((models(arch) for arch in group), how, anchor)
                yield from zip(group, measured, strict=True)

        own = {"rows": rows, "vocab-size": list(vocab_sizes), "seed": seed, **asdict(cfg)}
        told: dict[str, Any] = {"settings": settings or own, "threads": torch.get_num_threads()}
        told |= {"device": {"device": cfg.device_name(where)}, "gpus": int(where.type == "cuda")}
        place = record_path(path, folder=False) if path else None
        with Run(place, "latency-table", identity=wanted, **told) as run:
            for arch, timing in counting(timings(), rows, "latency", "rows", quiet=not progress, done=done):
                reference_ms = reference_ms or timing.anchor_ms or 0.0
                more = {"space": str(wanted.settings["space"]), "anchor": ANCHOR}
                table.append(row_of_timing(arch, timing, reference_ms, **more))
                drift_percent = 100 * ((timing.anchor_ms or 0.0) / reference_ms - 1)
                run.tick()
            found = LatencyTable(table.records)
            found.path, found.new_rows, found.drift_percent = path, len(found) - done, drift_percent
            intervals = [100 * float(row.conditions["interval_ms"]) / row.total_ms for row in found]
            found.interval_percent = median(intervals or [0.0])
            names = ("new_rows", "interval_percent", "drift_percent")
            run.results |= {"rows": len(found)} | {name: round(getattr(found, name), 3) for name in names}
            if path:
                run.vouch(path)
    if len(found) < rows:
        ended = time.perf_counter() - start >= budget_s
        why = f"the budget of {budget_s:g} s has ended" if ended else "the space has no further architectures"
        info(f"{why}; {len(found)} rows instead of {rows}")
    found.seconds = time.perf_counter() - start
    return found


def row_of_timing(arch: Arch, timing: Timing, reference_ms: float, **more: str) -> Row:
    """Return the row of one timing, at the speed at which the anchor takes `reference_ms`."""
    at, how = timing.at_speed(reference_ms), {"reference_ms": f"{reference_ms:.4f}", **more}
    how = {"interval_ms": f"{at.interval_ms:.3f}", "anchor_ms": f"{timing.anchor_ms:.4f}", **how}
    parts = (at.encoder_ms, at.encoder_spread_ms), (at.decoder_ms, at.decoder_spread_ms)
    return row_of(arch, *parts, timing.conditions | how)


@dataclass(frozen=True)
class Subject:
    """What is measured, how, and on what device; sizes are of the source and the target dictionary."""

    space: SearchSpace
    vocab_sizes: Sizes
    cfg: MeasureConfig
    model_config: ModelConfig | None = None
    device: torch.device = CPU
    seed: int = 1

    def identity(self, threads: int | None = None) -> Identity:
        """Return what the rows of a table depend on; by default with the threads that torch has."""
        cfg, space, size = self.cfg, self.space, self.vocab_sizes[1]
        settings: dict[str, Any] = conditions_of(self.device, size, space.qkv_dim, cfg, threads)
        settings |= conditions_of_space(space, size) | {"anchor": ANCHOR}
        settings |= {"seed": self.seed, "latiter": cfg.max_iterations}
        settings |= {"lat-interval": cfg.interval_percent, "lat-row-budget": str(cfg.row_budget_s)}
        options = self.model_config or ModelConfig()
        normalize = [getattr(options, f"{side}_normalize_before") for side in SIDES]
        return Identity("latency-table", settings | {"normalize-before": normalize})

    def models(self) -> Callable[[Arch], SubTransformer]:
        """Return a function that gives an architecture as a model of its own, on the device."""
        options, cfg = self.model_config or ModelConfig(), self.cfg
        limit, length = min(options.max_source_positions, options.max_target_positions), cfg.source_len
        if max(length, cfg.target_len) > limit:
            raise ConfigError(f"--profile-length {length} exceeds the model's {limit} positions; lower it")
        noise = torch.Generator().manual_seed(seed_for(self.seed, "init"))
        exact = cfg.runtime != "torch" or cfg.dtype == "int8"
        dtype = torch.float32 if exact else DTYPES[cfg.engine().precision(cfg.dtype, self.device)]
        full = SuperTransformer(self.space, self.vocab_sizes, options, noise).to(dtype)
        return lambda arch: extract(full, self.space.check(arch)).to(self.device).eval()


def _own_table(path: Path | None, wanted: Identity, new_run: bool) -> TableWriter:
    """Open a table for rows of one identity; others are a ConfigError, or moved away by `new_run`."""
    table = TableWriter(path)
    if not path or not table.records:
        return table
    record = read_record(path, folder=False, note=info)
    here = {name: str(value) for name, value in wanted.settings.items() if name in SHARED}
    found = differences({"estimate": "median", **table.records[0].conditions}, here)
    found = found or (record.identity.differences(wanted) if record.kind else [])
    if not found:
        return table
    table.close()
    names = (path.with_name(f"{path.name}.{record.identity.digest[:8]}{n or ''}") for n in count())
    moved = next(name for name in names if not name.exists())
    held = f"{path} holds rows measured with {'; '.join(found)}"
    if not new_run:
        ways = f"give another --lat-dataset-path, or --new-run, which moves it to {moved}"
        raise ConfigError(f"{held}; rows measured in different ways must not mix: {ways}")
    for old, new in ((path, moved), (record_path(path), record_path(moved))):
        if old.exists():
            os.replace(old, new)
    info(f"{held}; it was moved to {moved}")
    return TableWriter(path)


def _new_archs(space: SearchSpace, seed: int, known: Sequence[Arch | None], count: int) -> Iterator[Arch]:
    """Yield distinct architectures, none of `known`, in an order that depends on the seed only."""
    seen, wanted = set(known), len(set(known)) + count
    for draw in range(1000 + 20 * wanted):  # a small space has an end
        if len(seen) >= wanted:
            return
        arch = sample(space, rng_for(seed, "latency", draw))
        if arch not in seen:
            seen.add(arch)
            yield arch


def measure_fresh(
    archs: Sequence[Arch], subject: Subject, conditions: Mapping[str, str], reference_ms: float | None = None
) -> list[Timing]:
    """Return the timing of each architecture; in one fresh process they take turns with the anchor of their
    space. If `conditions`, as those of a predictor, are of a table of this space, latencies are at its speed,
    or at that at which its anchor takes `reference_ms`. HatError holds the last words of a failed process.
    """
    subject = replace(subject, cfg=subject.cfg.under(conditions))
    request = archs, int(conditions.get("threads", torch.get_num_threads())), subject
    # a command of its own: multiprocessing would run the caller's script a second time
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {_SERVE}"]
    done = subprocess.run(command, input=pickle.dumps(request), capture_output=True)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        what = f"measuring {len(archs)} architectures in a fresh process failed: {' '.join(words)}"
        raise HatError(f"{what}; run again to go on from what was measured before, or give --no-measure")
    timings: list[Timing] = pickle.loads(done.stdout)
    if conditions.get("space") == conditions_of_space(subject.space, 0)["space"]:
        reference_ms = reference_ms or float(conditions["reference_ms"])
    timings = [timing.at_speed(reference_ms) if reference_ms else timing for timing in timings]
    if (most := max(timing.interval_percent for timing in timings)) > 10:
        info(f"other work keeps this machine busy: these latencies are known to +- {most:.0f}% only")
    return timings


def _serve() -> None:
    """Measure what standard input asks for, and write the pickled timings to standard output."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may stand beside the answer
    archs, threads, subject = pickle.load(sys.stdin.buffer)
    space, cfg = subject.space, subject.cfg
    keep_pages()
    torch.set_num_threads(threads)
    models = subject.models()
    anchor = [workload(models(arch), cfg) for arch in (space.largest(), space.smallest())]
    with answer:
        pickle.dump(measure_in_turn([models(arch) for arch in archs], cfg, anchor), answer)


def profile(subject: Subject, arch: Arch, *, flops: bool = False, timed: bool = False) -> dict[str, Any]:
    """Return params (without embeddings and output matrix) and, if asked for, flops of one sentence (without
    output matrix) and latency_ms {encoder, decoder, total, interval} with conditions, else None.
    """
    space, cfg, options = subject.space, subject.cfg, subject.model_config or ModelConfig()
    result: dict[str, Any] = {"params": count_params(arch, space), "flops": None, "latency_ms": None}
    if flops:
        result["flops"] = 2 * count_macs(arch, space, cfg.source_len, options)
    if timed:
        cfg.check(arch, subject.device)
        (timing,) = measure_in_turn([subject.models()(arch)], cfg)
        parts = (timing.encoder_ms, timing.decoder_ms) if timing.encoder_ms else (None, None)
        latency = dict(zip(("encoder", "decoder"), parts, strict=True))
        result["latency_ms"] = latency | {"total": timing.total_ms, "interval": timing.interval_ms}
        result["conditions"] = timing.conditions
    return result
