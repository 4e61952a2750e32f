"""Parameters, FLOPs and latency of one architecture: the profiling part of train.py."""

from dataclasses import dataclass
from typing import Any

import torch

from hat.cli.task import DeviceOptions
from hat.errors import ConfigError
from hat.latency.measure import measure
from hat.latency.work import MeasureConfig
from hat.model.config import ModelConfig
from hat.model.count import count_params, profile_macs
from hat.model.extract import extract
from hat.model.precision import Amp, choose_dtype
from hat.model.transformer import SubTransformer, SuperTransformer
from hat.space import Arch, SearchSpace


@dataclass(frozen=True)
class ProfileOptions:
    """Profiling"""

    latcpu: bool = False
    """measure latency on the CPU and stop"""
    latgpu: bool = False
    """measure latency on the GPU and stop"""
    profile_flops: bool = False
    """count FLOPs and stop"""
    latiter: int = 300
    """most timed repeats of a latency measurement; it ends earlier once the median is known well enough"""
    lat_interval: float = 1.2
    """how well the median of a latency is to be known, in percent to either side; 2 takes half the time"""
    latsilent: bool = False
    """show no progress while measuring"""
    lat_beam: int = 5
    """beam of the timed search"""
    lat_amp: Amp = "auto"
    """number format of the timed model; auto takes what is fast on the device"""

    def asked(self) -> bool:
        """Return whether profiling is all the user wants."""
        return self.latcpu or self.latgpu or self.profile_flops


def random_sub(
    space: SearchSpace, arch: Arch, model: ModelConfig, vocab_sizes: tuple[int, int], seed: int
) -> SubTransformer:
    """Return `arch` as a stand-alone model with random weights: latency does not depend on their values."""
    noise = torch.Generator().manual_seed(seed)
    return extract(SuperTransformer(space, vocab_sizes, model, noise), arch)


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
    result = size(space, arch)
    limit = min(model.max_source_positions, model.max_target_positions)
    if length > limit:
        raise ConfigError(f"--profile-length {length} exceeds the {limit} positions of the model; lower it")
    if options.lat_beam < 1:
        raise ConfigError(f"--lat-beam must be at least 1, got {options.lat_beam}")
    sub = random_sub(space, arch, model, vocab_sizes, device_options.seed)
    if options.profile_flops:
        result["flops"] = 2 * profile_macs(sub, length)
    if options.latcpu or options.latgpu:
        if options.latgpu and not torch.cuda.is_available():
            raise ConfigError("--latgpu: this machine has no GPU that PyTorch can use; give --latcpu")
        device = torch.device("cuda", device_options.gpu or 0) if options.latgpu else torch.device("cpu")
        cfg = MeasureConfig(
            source_len=length,
            target_len=length,
            beam=options.lat_beam,
            max_iterations=options.latiter,
            interval_percent=options.lat_interval,
        )
        dtype = choose_dtype(options.lat_amp, device)
        timing = measure(sub.to(device, dtype).eval(), cfg)
        result["latency_ms"] = {
            "encoder": timing.encoder.median_ms,
            "decoder": timing.decoder.median_ms,
            "total": timing.total_ms,
            "spread": {
                "encoder": timing.encoder.spread_ms,
                "decoder": timing.decoder.spread_ms,
                "total": timing.total.spread_ms,
            },
        }
        result["conditions"] = timing.conditions
    return result


def describe(result: dict[str, Any]) -> str:
    """Return the readable form of a profile."""
    lines = [f"#Params: {result['params'] / 1e6:.2f} M (layers, without embeddings and output matrix)"]
    if result["flops"] is not None:
        lines.append(f"FLOPs: {result['flops'] / 1e9:.3f} G (without the output matrix)")
    latency = result["latency_ms"]
    if latency is not None:
        for part in ("encoder", "decoder", "total"):
            lines.append(f"latency {part}: {latency[part]:.2f} ms (spread {latency['spread'][part]:.2f})")
        shown = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
        lines.append(f"measured with {shown}")
    return "\n".join(lines)
