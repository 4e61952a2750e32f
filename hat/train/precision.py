"""Number formats: which one is fast on a device, and float32 master weights with a copy to compute in."""

import copy
import platform
import subprocess
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

Amp = Literal["auto", "bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return what is fast on `device`: bf16 on CPUs with AMX and on GPUs that have it, fp16 on other GPUs, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _has_fast_bf16() else torch.float32


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
    try:
        for line in Path("/proc/cpuinfo").read_text().split("\n"):
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    try:
        name = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True
        ).stdout
    except OSError:
        name = ""
    return name.strip() or platform.processor() or platform.machine()


def _has_fast_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags


class MasterWeights:
    """Float32 weights of a model and a copy of them in the compute type.

    The copy is cast once per update; autocast would cast every slice at every use. With float32 compute both are
    the same tensors. Gradients of the copy are added into `.grad` of the master in float32.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.master = model
        self.compute = model
        if dtype != torch.float32:
            self.compute = copy.deepcopy(model).to(dtype)
        self._pairs = list(zip(model.parameters(), self.compute.parameters(), strict=True))

    def collect(self) -> None:
        """Add the gradients of the copy to those of the master and clear them; unused weights keep None."""
        if self.compute is self.master:
            return
        for master, copied in self._pairs:
            if copied.grad is not None:
                if master.grad is None:
                    master.grad = copied.grad.float()
                else:
                    master.grad.add_(copied.grad)
                copied.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast the master weights into the copy, after each change of the master."""
        if self.compute is not self.master:
            copies: list[Tensor] = [copied for _, copied in self._pairs]
            torch._foreach_copy_(copies, [master for master, _ in self._pairs])
