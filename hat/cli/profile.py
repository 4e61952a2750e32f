"""Parameters, FLOPs and latency of one architecture: the profiling part of train.py."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from hat.cli.settings import DeviceOptions, ProfileOptions, TaskOptions, device_of
from hat.errors import ConfigError
from hat.model.layers import ModelConfig
from hat.space import Arch, SearchSpace

if TYPE_CHECKING:
    from hat.latency.measure import MeasureConfig


def measuring(
    options: ProfileOptions, task: TaskOptions, device: DeviceOptions
) -> "tuple[MeasureConfig, torch.device]":
    """Return how and where to measure, after fixing the threads: the GPU with --latgpu, else the CPU."""
    if options.latgpu and not torch.cuda.is_available():
        raise ConfigError("--latgpu: this machine has no GPU that PyTorch can use; give --latcpu instead")
    where = device_of(device if options.latgpu else replace(device, cpu=True, gpu=None))
    return options.measure_config(task.sentence_length()), where


def profile(
    space: SearchSpace,
    arch: Arch,
    model: ModelConfig,
    vocab_sizes: tuple[int, int],
    length: int,
    options: ProfileOptions,
    device_options: DeviceOptions,
) -> dict[str, Any]:
    """Return {params, flops, latency_ms}; what was not asked for is None."""
    if options.latgpu and not torch.cuda.is_available():
        raise ConfigError("--latgpu: this machine has no GPU that PyTorch can use; give --latcpu")
    gpu = torch.device("cuda", device_options.gpu or 0) if options.latgpu else None
    from hat.latency.collect import profile as profiled  # late: training measures nothing

    return profiled(
        space,
        arch,
        vocab_sizes=vocab_sizes,
        config=options.measure_config(length),
        model_config=model,
        flops=options.profile_flops,
        device=gpu or ("cpu" if options.latcpu else None),
        seed=device_options.seed,
    )


def describe(result: dict[str, Any]) -> str:
    """Return the readable form of a profile."""
    lines = [f"#Params: {result['params'] / 1e6:.2f} M (layers, without embeddings and output matrix)"]
    if result["flops"] is not None:
        lines.append(f"FLOPs: {result['flops'] / 1e9:.3f} G (without the output matrix)")
    if latency := result["latency_ms"]:
        for part in ("encoder", "decoder", "total"):
            lines.append(f"latency {part}: {latency[part]:.2f} ms (spread {latency['spread'][part]:.2f})")
        shown = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
        lines.append(f"measured with {shown}")
    return "\n".join(lines)
