"""Number formats: which one is fast on a device, and the names both are recorded under."""

import platform
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch

Amp = Literal["auto", "bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return what is fast on `device`.

    Bf16 with AMX or on GPUs that have it, fp16 on other GPUs, else fp32.
    """
    if device.type == "cuda":
        # PyTorch answers for the current GPU, which is also what a device without a number means
        with nullcontext() if device.index is None else torch.cuda.device(device):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if bf16 else torch.float16
    return torch.bfloat16 if "amx_bf16" in _cpu_facts() else torch.float32


def choose_dtype(amp: Amp, device: torch.device) -> torch.dtype:
    """Return the compute type for `--amp`; fp16 has no fast form on CPUs and becomes their default."""
    if amp == "auto" or (amp == "fp16" and device.type == "cpu"):
        return fast_dtype(device)
    return DTYPES[amp]


def dtype_name(dtype: torch.dtype) -> str:
    """Return bf16, fp16 or fp32."""
    return next(name for name, value in DTYPES.items() if value == dtype)


def device_name(device: torch.device) -> str:
    """Return the model name of the processor or GPU, as it is recorded beside measurements."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in _cpu_facts().split("\n"):
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cpu_facts() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""  # not Linux
