"""Parameters, FLOPs and latency of one architecture: the profiling part of train.py."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from hat.cli.task import DeviceOptions, TaskOptions, device_of
from hat.config import Options, option
from hat.errors import ConfigError
from hat.model.count import count_params
from hat.model.cpu import Amp
from hat.model.layers import ModelConfig
from hat.space import Arch, SearchSpace

if TYPE_CHECKING:
    from hat.latency.measure import MeasureConfig


@dataclass(frozen=True)
class ProfileOptions(Options):
    """Profiling"""

    latcpu: bool = False
    """measure latency on the CPU and stop"""
    latgpu: bool = False
    """measure latency on the GPU and stop"""
    profile_flops: bool = False
    """count FLOPs and stop"""
    latiter: int = option(300, low=2)
    """most timed repeats of a latency measurement; it ends earlier once the median is known well enough"""
    lat_interval: float = option(1.2, low=0, high=100)
    """how well the median of a latency is to be known, in percent to either side; 2 takes half the time"""
    latsilent: bool = False
    """show no progress while measuring"""
    lat_beam: int = option(5, low=1)
    """beam of the timed search"""
    lat_amp: Amp = "auto"
    """number format of the timed model; auto takes what is fast on the device"""

    def asked(self) -> bool:
        """Return whether profiling is all the user wants."""
        return self.latcpu or self.latgpu or self.profile_flops

    def measure_config(self, length: int) -> "MeasureConfig":
        """Return how to measure sentences of `length` tokens."""
        from hat.latency.measure import MeasureConfig  # late: training measures nothing

        repeats, interval = (self.lat_beam, self.latiter), self.lat_interval
        return MeasureConfig(length, length, *repeats, interval_percent=interval, dtype=self.lat_amp)


def measuring(
    options: ProfileOptions, task: TaskOptions, device: DeviceOptions
) -> "tuple[MeasureConfig, torch.device]":
    """Return how and where to measure, after fixing the threads: the GPU with --latgpu, else the CPU."""
    if options.latgpu and not torch.cuda.is_available():
        raise ConfigError("--latgpu: this machine has no GPU that PyTorch can use; give --latcpu instead")
    where = device_of(device if options.latgpu else replace(device, cpu=True, gpu=None))
    return options.measure_config(task.sentence_length()), where


def size(space: SearchSpace, arch: Arch) -> dict[str, Any]:
    """Return {params, flops, latency_ms}, of which only the first is known without a model."""
    return {"params": count_params(arch, space), "flops": None, "latency_ms": None}


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
