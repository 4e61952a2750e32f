"""Runs that measure: a latency table, given architectures in a fresh process, one architecture alone."""

import io
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

import hat
from hat.errors import ConfigError, HatError
from hat.latency.measure import (
    TOGETHER,
    TURN,
    Anchor,
    MeasureConfig,
    Timing,
    anchor_of,
    conditions_of,
    measure_in_turn,
)
from hat.latency.table import LatencyTable, Row, TableWriter, row_of
from hat.log import progress as counting
from hat.log import say
from hat.model.count import count_params, profile_macs
from hat.model.cpu import choose_dtype, device_name, keep_pages
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer, Transformer, extract
from hat.rng import rng_for, seed_for
from hat.run import Run, record_path
from hat.space import Arch, SearchSpace, sample

if TYPE_CHECKING:
    from hat.data.dataset import Dataset

FRESH_ITERATIONS = 21  # least repeats of an architecture that is measured in a fresh process
_SERVE = "from hat.latency.collect import _serve; _serve()"
Sizes = tuple[int, int]


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
) -> LatencyTable:
    """Measure random SubTransformers of `space` on this device until there are `rows` of them.

    Eight architectures are measured in turn, with short anchor searches between their turns; rows are scaled
    to the machine's speed before the first row (docs/performance.md, latency-row).

    Args:
        space: search space; architectures are distinct and drawn in an order that depends on the seed only.
        rows: rows wanted; rows that `out` already holds count.
        vocab_sizes: sizes of source and target dictionary.
        dataset: a `hat.Dataset`, whose dictionaries are used if `vocab_sizes` is not given.
        config: lengths, beam, number format, and how exactly to measure.
        model_config: options of the Transformer; the values of its weights do not matter.
        out: CSV file that each row is appended to at once, so a killed collection goes on; a record
            `out.run.json` is kept beside it. Without it the rows stay in memory.
        device: CPU if not given, whatever number of threads torch has.
        seed: seed of architectures and weights.
        progress: show a bar on the terminal; otherwise a plain line every half minute.
        settings: options for the record, if the caller has more than the arguments above.

    Returns: all rows, latencies in ms, with what was new.

    Raises ConfigError if `out` holds rows that were measured in other ways or on another device (they must
    not mix), DataError for a damaged table, HatError if another process writes it.
    """
    if rows < 1:
        raise ConfigError(f"--lat-dataset-size must be at least 1, got {rows}")
    if vocab_sizes is None and dataset is None:
        raise ConfigError("measuring needs the sizes of the dictionaries: give vocab_sizes or dataset")
    sizes = vocab_sizes or (len(dataset.vocabs[0]), len(dataset.vocabs[1]))  # type: ignore[union-attr]
    cfg, where = config or MeasureConfig(), torch.device(device or "cpu")
    standalone = _cutter(space, sizes, model_config or ModelConfig(), cfg, where, seed)
    start = time.perf_counter()
    path = Path(out) if out is not None else None
    with TableWriter(path) as table:
        before, unstable, told = list(table.rows), 0, False
        ends = standalone(space.largest()), standalone(space.smallest())
        _check_conditions(path, before, conditions_of(ends[0], cfg))
        run = Run(
            record_path(path, folder=False) if path else None,
            "latency-table",
            settings=settings or {"rows": rows, "vocab-size": list(sizes), "seed": seed, **asdict(cfg)},
            device={"device": device_name(where)},
            threads=torch.get_num_threads(),
            gpus=int(where.type == "cuda"),
        )
        with run:
            anchor = anchor_of(*ends, cfg, known_ms=_reference_of(before))
            todo = _new_archs(space, seed, [row.arch for row in before], rows - len(before))
            timings = _timings(todo, standalone, cfg, anchor)
            for arch, timing in counting(
                timings, rows, "latency", "rows", quiet=not progress, done=len(before)
            ):
                unstable += not timing.stable
                table.append(row_of_timing(arch, timing, anchor))
                if anchor.drifting and not told:
                    told = True
                    say(
                        f"the machine is {abs(anchor.drift_percent):.1f}% "
                        f"{'slower' if anchor.drift_percent > 0 else 'faster'} than before the first row; "
                        "rows are scaled back, and less exact if it does other work at the same time"
                    )
                run.tick()
            new, drift = len(table.rows) - len(before), anchor.drift_percent
            run.results |= {"rows": len(table.rows), "new_rows": new, "unstable": unstable}
            run.results["drift_percent"] = round(drift, 3)
            if path:
                run.vouch(path)
    if new < rows - len(before):
        say(f"the space has no further architectures; {len(table.rows)} rows instead of {rows}")
    found = LatencyTable(table.rows)
    found.path, found.new_rows, found.unstable = path, new, unstable
    found.seconds, found.drift_percent = time.perf_counter() - start, drift
    return found


def row_of_timing(arch: Arch, timing: Timing, anchor: Anchor) -> Row:
    """Return the row of one timing, and let the anchor remember the machine's speed during it."""
    assert timing.anchor_ms is not None
    anchor.note(timing.anchor_ms)
    encoder, decoder = ((part.median_ms, part.spread_ms) for part in (timing.encoder, timing.decoder))
    how = {
        "stable": int(timing.stable),
        "anchor_len": " ".join(map(str, anchor.steps)),
        "anchor_ms": f"{timing.anchor_ms:.4f}",
        "drift_percent": f"{anchor.drift_percent:.3f}",
    }
    return row_of(arch, encoder, decoder, timing.conditions | how)


def _cutter(
    space: SearchSpace,
    sizes: Sizes,
    model_config: ModelConfig,
    cfg: MeasureConfig,
    device: torch.device,
    seed: int,
) -> Callable[[Arch], Transformer]:
    """Return a function that gives an architecture as a model of its own, on the device, for evaluation."""
    noise = torch.Generator().manual_seed(seed_for(seed, "init"))
    full = SuperTransformer(space, sizes, model_config, noise).to(choose_dtype(cfg.dtype, device))
    return lambda arch: extract(full, arch).to(device).eval()


def _timings(
    archs: Iterator[Arch], standalone: Callable[[Arch], Transformer], cfg: MeasureConfig, anchor: Anchor
) -> Iterator[tuple[Arch, Timing]]:
    """Yield the timing of each architecture; `TOGETHER` of them are measured in turn."""
    while group := list(islice(archs, TOGETHER)):
        timings = measure_in_turn([standalone(arch) for arch in group], cfg, anchor)
        yield from zip(group, timings, strict=True)


def _new_archs(space: SearchSpace, seed: int, known: Sequence[Arch | None], count: int) -> Iterator[Arch]:
    """Yield distinct architectures, none of `known`, in an order that depends on the seed only."""
    seen = set(known)
    draw, misses = 0, 0
    while count > 0 and misses < 1000:
        arch = sample(space, rng_for(seed, "latency", draw))
        draw += 1
        if arch in seen:
            misses += draw > len(known)  # the first draws are those of the rows that exist
            continue
        seen.add(arch)
        misses, count = 0, count - 1
        yield arch


def _check_conditions(path: Path | None, rows: Sequence[Row], here: dict[str, str]) -> None:
    """Raise ConfigError if the rows of a file were measured in another way or on another device."""
    held = {"turn": "none"} | dict(rows[0].conditions) if rows and rows[0].conditions else {}
    for name, value in (here | {"turn": str(TURN)}).items():
        if name in held and held[name] != value:
            raise ConfigError(
                f"{path} holds rows measured with {name} {held[name]}, here it is {value}; rows measured in "
                "different ways must not mix: give another --lat-dataset-path"
            )


def _reference_of(rows: Sequence[Row]) -> float | None:
    """Return the anchor's latency before the first row of an existing table, in ms."""
    for row in rows:
        if "anchor_ms" in row.conditions:
            return float(row.conditions["anchor_ms"]) / (1 + float(row.conditions["drift_percent"]) / 100)
    return None


class _Request(NamedTuple):
    """What a fresh process is asked to measure."""

    archs: tuple[Arch, ...]
    space: SearchSpace
    sizes: Sizes
    model_config: ModelConfig
    cfg: MeasureConfig
    device: str
    threads: int
    seed: int


def measure_fresh(
    archs: Sequence[Arch],
    space: SearchSpace,
    conditions: Mapping[str, str],
    *,
    vocab_sizes: Sizes,
    config: MeasureConfig | None = None,
    model_config: ModelConfig | None = None,
    device: torch.device | str = "cpu",
    seed: int = 1,
) -> Iterator[Timing]:
    """Yield the timing of each architecture in their order, measured in one fresh process of their own.

    Up to eight are measured in turn, with an anchor between their turns, as the rows of a latency table are;
    their timings come together. The process ends with the iterator.

    Args:
        archs: architectures of `space`.
        space: search space the SuperTransformer is made for.
        conditions: those of a latency table, as `LatencyPredictor.conditions` holds them: threads, dtype,
            beam, source_len and target_len are taken from it.
        vocab_sizes: sizes of source and target dictionary.
        config: repeats and interval, and what `conditions` does not say.
        model_config: options of the Transformer.
        device: where to measure.
        seed: seed of the weights.

    Raises HatError if the process fails, with its last words.
    """
    cfg = (config or MeasureConfig()).under(conditions)
    cfg = replace(cfg, min_iterations=max(cfg.min_iterations, FRESH_ITERATIONS))
    threads = int(conditions.get("threads", torch.get_num_threads()))
    request = _Request(
        tuple(archs), space, vocab_sizes, model_config or ModelConfig(), cfg, str(device), threads, seed
    )
    root = str(Path(hat.__file__).resolve().parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        # a command of its own: multiprocessing would run the caller's script a second time
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE], stdin=pipe, stdout=pipe, stderr=said, env=env
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            try:
                with process.stdin as wanted:
                    pickle.dump(request, wanted)
            except BrokenPipeError:  # it failed at once; its last words tell
                pass
            for _ in archs:
                try:
                    timing: Timing = pickle.load(process.stdout)
                except (EOFError, pickle.UnpicklingError):
                    break
                yield timing
            code = process.wait()
        finally:
            process.kill()  # if the caller left the iterator; a process that has ended does not mind
            process.stdout.close()
            process.wait()
        said.seek(0)
        words = said.read().strip().splitlines()[-1:]
    if code:
        raise HatError(
            f"measuring {len(archs)} architectures in a fresh process failed: {' '.join(words)}; what was "
            "measured before is kept: run again to go on, or give --no-measure"
        )


def _serve() -> None:
    """Measure what standard input asks for, and write a pickled Timing of each to standard output."""
    answers = io.FileIO(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may stand between the answers
    request: _Request = pickle.load(sys.stdin.buffer)
    keep_pages()
    torch.set_num_threads(request.threads)
    try:
        if request.device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"{request.device}: this machine has no GPU that PyTorch can use")
        cfg, space = request.cfg, request.space
        device = torch.device(request.device)
        standalone = _cutter(space, request.sizes, request.model_config, cfg, device, request.seed)
        anchor = anchor_of(standalone(space.largest()), standalone(space.smallest()), cfg)
        for _, timing in _timings(map(space.check, request.archs), standalone, cfg, anchor):
            answers.write(pickle.dumps(timing))
    except HatError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def profile(
    space: SearchSpace,
    arch: Arch,
    *,
    vocab_sizes: Sizes,
    config: MeasureConfig | None = None,
    model_config: ModelConfig | None = None,
    flops: bool = False,
    device: torch.device | str | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """Return the size of one architecture, and its FLOPs and latency if they are asked for.

    Args:
        space, arch: search space, and an architecture of it.
        vocab_sizes: sizes of source and target dictionary.
        config: sentence lengths in tokens, and how to measure.
        model_config: options of the Transformer.
        flops: whether to count floating-point operations for one sentence, output matrix left out.
        device: where to measure the latency; None measures none.
        seed: seed of the random weights; latency does not depend on their values.

    Returns: params (without embeddings and output matrix), flops, latency_ms {encoder, decoder, total,
    spread}, None for what was not asked for; and the conditions of measuring, if there was any.
    """
    cfg, model_cfg = config or MeasureConfig(), model_config or ModelConfig()
    result: dict[str, Any] = {"params": count_params(arch, space), "flops": None, "latency_ms": None}
    limit = min(model_cfg.max_source_positions, model_cfg.max_target_positions)
    if cfg.source_len > limit:
        raise ConfigError(
            f"--profile-length {cfg.source_len} exceeds the {limit} positions of the model; lower it"
        )
    noise = torch.Generator().manual_seed(seed)
    sub = extract(SuperTransformer(space, vocab_sizes, model_cfg, noise), arch)
    if flops:
        result["flops"] = 2 * profile_macs(sub, cfg.source_len)
    if device is not None:
        where = torch.device(device)
        (timing,) = measure_in_turn([sub.to(where, choose_dtype(cfg.dtype, where)).eval()], cfg)
        parts = {"encoder": timing.encoder, "decoder": timing.decoder, "total": timing.total}
        result["latency_ms"] = {name: part.median_ms for name, part in parts.items()}
        result["latency_ms"]["total"] = timing.total_ms
        result["latency_ms"]["spread"] = {name: part.spread_ms for name, part in parts.items()}
        result["conditions"] = timing.conditions
    return result
