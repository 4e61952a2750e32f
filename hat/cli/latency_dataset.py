"""latency_dataset.py: measure random SubTransformers of a space, one CSV row each; profiling of train.py."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from hat.cli import settings as shared
from hat.cli.options import OutputOptions, only, stage, without
from hat.cli.settings import Settings
from hat.config import Options, option, to_yaml_values
from hat.errors import ConfigError
from hat.latency.measure import MeasureConfig, Subject, collect
from hat.model.layers import ModelConfig
from hat.run import Identity
from hat.space import SpaceOptions

_TASK = "arch data source_lang target_lang vocab_size profile_length"
_MODEL = """share_all_embeddings share_decoder_input_output_embed encoder_normalize_before
decoder_normalize_before max_source_positions max_target_positions"""


@dataclass(frozen=True)
class DatasetOptions(Options):
    """Latency dataset"""

    lat_dataset_path: str | None = option(None, "CSV file to write; rows in it stay and count", role="free")
    lat_dataset_size: int = option(200, "rows wanted", low=1, role="lengthens")
    lat_budget: float = option(math.inf, above=0, off=math.inf, role="lengthens")
    """seconds for the whole table; each row gets its share, but three turns at least"""


def parsed(argv: Sequence[str] | None) -> tuple[Any, ...]:
    """Return the settings and the options of the table."""
    used = (
        *(SpaceOptions, shared.EngineOptions, OutputOptions),
        only(shared.TaskOptions, *_TASK.split()),
        only(ModelConfig, *_MODEL.split()),
        only(shared.DeviceOptions, "gpu", "threads", "seed"),
        only(shared.RunOptions, "new_run"),
        without(shared.ProfileOptions, "profile_flops"),
    )
    text = "Measure the latency of random SubTransformers on this device."
    how: dict[str, Any] = {"prog": "latency_dataset.py", "description": text, "config_flags": ("--configs",)}
    return shared.parse_settings(argv, DatasetOptions, used=used, **how)


def run(options: tuple[Any, ...], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Collect rows, tell the user, and return what came out."""
    settings, data = options
    if not data.lat_dataset_path:
        raise ConfigError("--lat-dataset-path is needed: the CSV file to write")
    cfg, device = measuring(settings)
    space, rows = shared.space_and_arch(settings.space, settings.arch)[0], data.lat_dataset_size
    how = {"vocab_sizes": shared.profile_sizes(settings.task), "config": cfg, "model_config": settings.model}
    how |= {"device": device, "seed": settings.device.seed, "budget_s": data.lat_budget}
    how |= {"settings": to_yaml_values(data, *settings), "new_run": settings.run.new_run}
    how["progress"] = settings.output.bar and not settings.profile.latsilent
    table = collect(space, rows, out=data.lat_dataset_path, **how)
    print(
        f"{table.path}: {len(table)} rows, {table.new_rows} new in {table.seconds:.0f} s, each known to "
        f"{table.interval_percent:.1f}% (median), machine drift at the end {table.drift_percent:+.1f}%"
    )
    numbers = ("seconds", "interval_percent", "drift_percent")
    found = {name: round(getattr(table, name), 2) for name in numbers} | {"new_rows": table.new_rows}
    return {"lat_dataset_path": str(table.path), "rows": len(table), **found}


def identity(options: tuple[Any, ...]) -> Identity:
    """Return what the rows depend on, as the run will record it; nothing is made or changed."""
    settings, where = options[0], options[0].device
    device = torch.device("cuda", where.gpu or 0) if settings.profile.latgpu else torch.device("cpu")
    sizes, how = shared.profile_sizes(settings.task), measure_config(settings)
    space, _ = shared.space_and_arch(settings.space, settings.arch)
    return Subject(space, sizes, how, settings.model, device, where.seed).identity(where.threads)


def measure_config(settings: Settings) -> MeasureConfig:
    """Return how to measure."""
    options, engine, length = settings.profile, settings.engine, settings.task.sentence_length()
    return MeasureConfig(
        *(length, length, options.lat_beam, options.latiter, options.lat_interval, engine.precision),
        *(options.lat_row_budget, engine.runtime or "torch", engine.lat_command or ""),
    )


def measuring(settings: Settings) -> tuple[MeasureConfig, torch.device]:
    """Return how and where to measure, after fixing the threads: the GPU with --latgpu, else the CPU."""
    gpu = settings.profile.latgpu
    if gpu and not torch.cuda.is_available():
        raise ConfigError("--latgpu: this machine has no GPU that PyTorch can use; give --latcpu instead")
    where = shared.device_of(settings.device if gpu else replace(settings.device, cpu=True, gpu=None))
    return measure_config(settings), where


def describe(result: dict[str, Any]) -> str:
    """Return the readable form of a profile."""
    lines = [f"#Params: {result['params'] / 1e6:.2f} M (layers, without embeddings and output matrix)"]
    if result["flops"] is not None:
        lines.append(f"FLOPs: {result['flops'] / 1e9:.3f} G (without the output matrix)")
    if latency := result["latency_ms"]:
        parts = ("encoder", "decoder") if latency["encoder"] else ()  # some runtimes are timed as a whole
        lines += [f"latency {part}: {latency[part]:.2f} ms" for part in parts]
        lines.append(f"latency total: {latency['total']:.2f} +- {latency['interval']:.2f} ms")
        shown = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
        lines.append(f"measured with {shown}")
    return "\n".join(lines)


main = stage(parsed, run)
