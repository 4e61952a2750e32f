"""Parameters, FLOPs and latency of one architecture: the profiling part of train.py."""

from dataclasses import replace
from typing import Any

import torch

from hat.cli.settings import Settings, device_of
from hat.errors import ConfigError
from hat.latency.measure import MeasureConfig


def measuring(settings: Settings) -> tuple[MeasureConfig, torch.device]:
    """Return how and where to measure, after fixing the threads: the GPU with --latgpu, else the CPU."""
    options, length = settings.profile, settings.task.sentence_length()
    if options.latgpu and not torch.cuda.is_available():
        raise ConfigError("--latgpu: this machine has no GPU that PyTorch can use; give --latcpu instead")
    where = device_of(settings.device if options.latgpu else replace(settings.device, cpu=True, gpu=None))
    repeats, interval = (options.lat_beam, options.latiter), options.lat_interval
    return MeasureConfig(length, length, *repeats, interval_percent=interval, dtype=options.lat_amp), where


def describe(result: dict[str, Any]) -> str:
    """Return the readable form of a profile."""
    lines = [f"#Params: {result['params'] / 1e6:.2f} M (layers, without embeddings and output matrix)"]
    if result["flops"] is not None:
        lines.append(f"FLOPs: {result['flops'] / 1e9:.3f} G (without the output matrix)")
    if latency := result["latency_ms"]:
        for part, spread in latency["spread"].items():
            lines.append(f"latency {part}: {latency[part]:.2f} ms (spread {spread:.2f})")
        shown = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
        lines.append(f"measured with {shown}")
    return "\n".join(lines)
