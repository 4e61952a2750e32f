"""The device a figure is taken on, and the number formats it is taken in there."""

import torch

from hat.errors import ConfigError
from hat.model.cpu import dtype_name, fast_dtype

CPU = torch.device("cpu")


def device_named(name: str) -> torch.device:
    """Return the device of `--device`; raises ConfigError where PyTorch can use no GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: this machine has no GPU that PyTorch can use, allowed here is cpu; leave it out, "
            "or install a build of PyTorch for this GPU"
        )
    return torch.device(name)


def formats(device: torch.device) -> tuple[str, str]:
    """Return the fast number format and fp32.

    On CPUs the fast one is bf16 also where AMX is missing, as the targets say; GPUs without bf16 take fp16.
    """
    return "bf16" if device.type == "cpu" else dtype_name(fast_dtype(device)), "fp32"
