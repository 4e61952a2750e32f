"""latency_dataset.py: measure random SubTransformers of a space on this device, one CSV row each."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from hat.cli.options import command
from hat.cli.settings import parse_settings
from hat.cli.task import (
    DeviceOptions,
    device_of,
    space_and_arch,
    vocabulary,
    write_provenance,
)
from hat.errors import ConfigError
from hat.files.cost import Cost
from hat.latency.anchor import Anchor, anchor_run
from hat.latency.measure import TOGETHER, Timing, measure_in_turn, pace
from hat.latency.table import Row, TableWriter, row_of
from hat.latency.work import MeasureConfig, sync_of
from hat.log import progress, say
from hat.model.extract import extract
from hat.model.precision import choose_dtype
from hat.model.transformer import SuperTransformer, Transformer
from hat.rng import rng_for, seed_for
from hat.space import Arch, SearchSpace, sample


@dataclass(frozen=True)
class DatasetOptions:
    """Latency dataset"""

    lat_dataset_path: str | None = None
    """CSV file to write; existing rows stay and count"""
    lat_dataset_size: int = 200
    """rows wanted"""

    def __post_init__(self) -> None:
        if self.lat_dataset_size < 1:
            raise ConfigError(f"--lat-dataset-size must be at least 1, got {self.lat_dataset_size}")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Collect rows until the file has as many as wanted; see --help."""
    settings, data = parse_settings(
        argv,
        DatasetOptions,
        prog="latency_dataset.py",
        description="Measure the latency of random SubTransformers on this device.",
        config_flags=("--configs",),
    )
    task, dev, prof, out = settings.task, settings.device, settings.profile, settings.output
    if not data.lat_dataset_path:
        raise ConfigError("--lat-dataset-path is needed: the CSV file to write")
    if prof.latgpu and not torch.cuda.is_available():
        raise ConfigError("--latgpu: this machine has no GPU that PyTorch can use; give --latcpu instead")
    space, _ = space_and_arch(settings.space, settings.arch)
    device = (
        device_of(dev)
        if prof.latgpu
        else device_of(DeviceOptions(cpu=True, threads=dev.threads, seed=dev.seed))
    )
    vocab = vocabulary(task, profiling=True)
    dtype = choose_dtype(prof.lat_amp, device)
    length = task.sentence_length()
    cfg = MeasureConfig(length, length, prof.lat_beam, prof.latiter, interval_percent=prof.lat_interval)
    noise = torch.Generator().manual_seed(seed_for(dev.seed, "init"))
    full = SuperTransformer(space, vocab.sizes, settings.model, noise).to(dtype)

    def standalone(arch: Arch) -> Transformer:
        return extract(full, arch).to(device).eval()

    path = Path(data.lat_dataset_path)
    start = time.perf_counter()
    cost = Cost(
        path.with_name(f"{path.stem}.cost.json"),
        threads=torch.get_num_threads(),
        gpus=int(device.type == "cuda"),
    )
    with TableWriter(path) as table, cost:
        before = list(table.rows)
        quiet = out.no_progress_bar or prof.latsilent or not sys.stderr.isatty()
        runs = anchor_run(standalone(space.largest()), standalone(space.smallest()), cfg)
        with torch.inference_mode():
            reference_ms = _reference(before) or pace(runs.run, runs.between, sync_of(device))
        anchor, told = Anchor(runs.run, reference_ms, runs.steps), False
        unstable = 0
        todo = _new_archs(space, dev.seed, [row.arch for row in before], data.lat_dataset_size - len(before))
        rows_new = _measured(todo, standalone, cfg, anchor)
        for arch, timing in progress(
            rows_new, data.lat_dataset_size, "latency", "rows", quiet=quiet, done=len(before)
        ):
            _check_conditions(path, before, timing)
            unstable += not timing.stable
            table.append(_row(arch, timing, anchor))
            if anchor.drifting and not told:
                told = True
                say(
                    f"the machine is {abs(anchor.drift_percent):.1f}% "
                    f"{'slower' if anchor.drift_percent > 0 else 'faster'} than before the first row; rows "
                    "are scaled back, and less exact if it does other work at the same time"
                )
            cost.tick()
        rows = len(table.rows)
    write_provenance(path.parent, device, data, *settings, stem=path.stem)
    seconds = time.perf_counter() - start
    added = rows - len(before)
    if added < data.lat_dataset_size - len(before):
        say(f"the space has no further architectures; {rows} rows instead of {data.lat_dataset_size}")
    print(
        f"{path}: {rows} rows, {added} new in {seconds:.0f} s, {unstable} of them unsettled, "
        f"machine drift at the end {anchor.drift_percent:+.1f}%"
    )
    if out.json:
        print(
            json.dumps(
                {
                    "lat_dataset_path": str(path),
                    "rows": rows,
                    "new_rows": added,
                    "unstable": unstable,
                    "seconds": round(seconds, 2),
                    "drift_percent": round(anchor.drift_percent, 2),
                }
            )
        )
    return 0


def _measured(
    archs: Iterator[Arch], standalone: Callable[[Arch], Transformer], cfg: MeasureConfig, anchor: Anchor
) -> Iterator[tuple[Arch, Timing]]:
    """Yield the timing of each architecture; `TOGETHER` of them are measured in turn."""
    while group := list(islice(archs, TOGETHER)):
        timings = measure_in_turn([standalone(arch) for arch in group], cfg, anchor)
        yield from zip(group, timings, strict=True)


def _new_archs(space: SearchSpace, seed: int, known: Sequence[Arch | None], count: int) -> Iterator[Arch]:
    """Yield distinct architectures in an order that depends on the seed only,
    leaving out those already measured.
    """
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


def _check_conditions(path: Path, rows: Sequence[Row], timing: Timing) -> None:
    """Raise ConfigError where a file holds rows measured in another way or on another device."""
    held = rows[0].conditions if rows else {}
    if held:
        held = {"turn": "none"} | held
    for name in (
        "device",
        "threads",
        "dtype",
        "torch",
        "vocab_size",
        "qkv_dim",
        "beam",
        "source_len",
        "target_len",
        "turn",
    ):
        if name in held and held[name] != timing.conditions[name]:
            raise ConfigError(
                f"{path} holds rows measured with {name} {held[name]}, here it is "
                f"{timing.conditions[name]}; rows "
                "measured in different ways must not mix: give another --lat-dataset-path"
            )


def _reference(rows: Sequence[Row]) -> float | None:
    """Return the anchor's latency before the first row of an existing file."""
    for row in rows:
        if "anchor_ms" in row.conditions:
            return float(row.conditions["anchor_ms"]) / (1 + float(row.conditions["drift_percent"]) / 100)
    return None


def _row(arch: Arch, timing: Timing, anchor: Anchor) -> Row:
    """Return the row of one timing, of which the anchor takes note."""
    assert timing.anchor_ms is not None
    anchor.see(timing.anchor_ms)
    encoder, decoder = ((part.median_ms, part.spread_ms) for part in (timing.encoder, timing.decoder))
    how = {
        "stable": int(timing.stable),
        "anchor_len": " ".join(map(str, anchor.steps)),
        "anchor_ms": f"{timing.anchor_ms:.4f}",
        "drift_percent": f"{anchor.drift_percent:.3f}",
    }
    return row_of(arch, encoder, decoder, timing.conditions | how)
