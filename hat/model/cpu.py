"""What depends on the processor (docs/performance.md). N rows, I input, O output width, V vocabulary."""

import ctypes
import os
import platform
import re
import sys
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Amp = Literal["auto", "bf16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

SHORT = 64  # while training: up to this many keys two plain matrix products beat the fused kernel
CHUNK = 128  # columns that `largest` looks at together
RandomBits = np.random.Generator | torch.Generator
_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bf16 for CPUs and GPUs that multiply it themselves, fp32 for others."""
    if device.type == "cuda":
        # PyTorch answers for the current GPU, which is also what a device without a number means
        with nullcontext() if device.index is None else torch.cuda.device(device):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        bf16 = any(name in _cpu_facts() for name in ("amx_bf16", "avx512_bf16"))
    return torch.bfloat16 if bf16 else torch.float32


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return a type by name; fp16 has no fast form on CPUs and becomes what `auto` is."""
    return fast_dtype(device) if name == "auto" or (name, device.type) == ("fp16", "cpu") else DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """Return bf16, fp16 or fp32."""
    return next(name for name, value in DTYPES.items() if value == dtype)


def device_name(device: torch.device) -> str:
    """Return the model name of the processor or GPU, as it is recorded beside measurements."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = re.search(r"^(?:model name|Model).*?:(.*)", _cpu_facts(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _cpu_facts() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""  # not Linux


def random_bits(seed: int, device: torch.device) -> RandomBits:
    """Return a generator for `dropout_mask`; that of NumPy is twice as fast on CPUs as that of PyTorch."""
    cpu = device.type == "cpu"
    return np.random.Generator(np.random.SFC64(seed)) if cpu else torch.Generator(device).manual_seed(seed)


def dropout_mask(like: Tensor, rate: float, bits: RandomBits) -> Tensor:
    """Return zeros, a fraction `rate` (exact to 1/32768), and 1 / (1 - rate), in the shape and type of
    `like`, from four 15-bit numbers of each 64 random bits. All types drop the same elements.
    """
    count = like.numel()
    quarter = max(1, (count + 3) // 4)
    if isinstance(bits, np.random.Generator):
        numbers = bits.integers(_LOWEST, _HIGHEST, size=quarter, dtype=np.int64, endpoint=True)
        drawn = torch.from_numpy(numbers)
    else:
        drawn = torch.empty(quarter, dtype=torch.int64, device=like.device)
        drawn.random_(_LOWEST, None, generator=bits)
    uniform = drawn.view(torch.int16)[:count].view(like.shape).bitwise_right_shift_(1)
    kept = uniform.sub_(round((1 - rate) * 32768) - 16384)  # negative if the element stays
    if like.element_size() > 2:
        return (kept < 0).to(like.dtype).mul_(1 / (1 - rate))
    # the sign spread over all bits selects those of the scale; integers are twice as fast as comparing
    scale = torch.tensor(1 / (1 - rate), dtype=like.dtype).view(torch.int16).item()
    return kept.bitwise_right_shift_(15).bitwise_and_(scale).view(like.dtype)


class Matrix:
    """x [.., I] -> x @ weight^T + bias [.., O], and what follows: an `ElasticLinear` of fixed size."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self.weight, self.bias = weight_OI.detach(), None if bias_O is None else bias_O.detach()

    def __call__(self, x: Tensor, out_dim: int = 0) -> Tensor:
        """Return the product."""
        return F.linear(x, self.weight, self.bias)

    def relu(self, x: Tensor, out_dim: int = 0) -> Tensor:
        """Return the positive part of the product."""
        return self(x).relu_()

    def plus(self, x: Tensor, residual: Tensor, *dropout: object) -> Tensor:
        """Return the product and `residual`, added; nothing is dropped."""
        return self(x).add_(residual)


class PackedMatrix(Matrix):
    """On CPUs: weights in the blocks that oneDNN reads; products of few rows are bound by reading them."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous()), bias_O)

    def __call__(self, x: Tensor, out_dim: int = 0) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def relu(self, x: Tensor, out_dim: int = 0) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "relu", [], "")

    def plus(self, x: Tensor, residual: Tensor, *dropout: object) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")


def fixed_matrix(weight_OI: Tensor, bias_O: Tensor | None) -> Matrix:
    """Return the fastest exact form of a linear map for the device and type of its weight."""
    kind = PackedMatrix if weight_OI.device.type == "cpu" and can_pack(weight_OI.dtype) else Matrix
    return kind(weight_OI, bias_O)


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Return whether this build of PyTorch packs weights of `dtype` and multiplies by them rightly."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    weight, x = torch.eye(16, dtype=dtype), torch.arange(32, dtype=dtype).view(2, 16)
    try:
        packed = PackedMatrix(weight, torch.zeros(16, dtype=dtype))
        return bool(torch.equal(packed.plus(x, x), 2 * x) and torch.equal(packed.relu(x), x))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False  # operators of the compiler's runtime: absent from some builds


def largest(rows_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest values of each row, largest first, and their places, both [N, count]."""
    # on CPUs it is faster to look only in the chunks with the largest maxima
    if rows_NV.is_cuda or rows_NV.size(1) < 2 * count * CHUNK or rows_NV.size(1) % CHUNK:
        values, places = rows_NV.topk(count, dim=1)
        return values, places
    chunks = rows_NV.unflatten(1, (-1, CHUNK))
    which = chunks.amax(2).topk(count, dim=1).indices
    few = chunks.gather(1, which[:, :, None].expand(-1, -1, CHUNK)).flatten(1)
    values, places = few.topk(count, dim=1)
    return values, which.gather(1, places // CHUNK) * CHUNK + places % CHUNK


def keep_pages() -> None:
    """Let glibc reuse freed buffers of any size: mapping and clearing fresh pages costs 10-20% of a CPU step.
    Memory once used stays with the process (a few GiB while training), so small boards are left as they are.
    """
    if sys.platform != "linux" or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 12 << 30:
        return
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for threshold, value in ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 64 << 20)):  # MMAP, TRIM, TOP_PAD
            mallopt(threshold, value)
