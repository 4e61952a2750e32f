"""Linear maps with fixed weights, laid out once for the kernel that multiplies by them.

N rows, I input width, O output width.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hat.errors import ConfigError


class Matrix(Protocol):
    """x [N, I] -> x @ weight.T + bias [N, O], with what usually follows it."""

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Return the product [N, O]."""
        ...

    def relu(self, x_NI: Tensor) -> Tensor:
        """Return the positive part of the product [N, O]."""
        ...

    def plus(self, x_NI: Tensor, residual_NO: Tensor) -> Tensor:
        """Return the product and `residual`, added [N, O]."""
        ...


class PlainMatrix:
    """As PyTorch multiplies everywhere."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self.weight = weight_OI.detach().clone(memory_format=torch.contiguous_format)
        self.bias = None if bias_O is None else bias_O.detach().clone()

    def __call__(self, x_NI: Tensor) -> Tensor:
        return F.linear(x_NI, self.weight, self.bias)

    def relu(self, x_NI: Tensor) -> Tensor:
        return F.linear(x_NI, self.weight, self.bias).relu_()

    def plus(self, x_NI: Tensor, residual_NO: Tensor) -> Tensor:
        return F.linear(x_NI, self.weight, self.bias).add_(residual_NO)


class PackedMatrix:
    """On CPUs: weights in the blocks that oneDNN reads.

    A product of few rows is bound by reading the weights, and these are read in the order they lie in: up to
    2.4 times faster than `PlainMatrix` in bfloat16 (docs/performance.md).
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous())
        self.bias = None if bias_O is None else bias_O.detach().clone()

    def __call__(self, x_NI: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x_NI, self.weight, self.bias, "none", [], "")

    def relu(self, x_NI: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x_NI, self.weight, self.bias, "relu", [], "")

    def plus(self, x_NI: Tensor, residual_NO: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x_NI, residual_NO, self.weight, self.bias, "add")


class Int8Matrix:
    """On CPUs: 8-bit weights with one scale for each output; inputs are rounded to 8 bits as they come.

    The model must be float32: one operator finds the range of its input, rounds, multiplies 8 by 8 bits, sums
    in 32, scales and adds the bias, in FBGEMM or oneDNN. Up to `ROWS` rows share a range, so that one far
    value does not make the others of a large batch coarse.
    """

    ROWS = 16

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        if not can_int8():
            raise ConfigError(
                f"PyTorch {torch.__version__} was built without 8-bit kernels, which 8-bit weights need; "
                "translate without --int8, or install a build with FBGEMM or oneDNN"
            )
        weight = weight_OI.detach()
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            raise ConfigError(
                f"8-bit weights are made from float32 weights on the CPU, got {weight.dtype} on "
                f"{weight.device}; give --cpu --amp=fp32"
            )
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        rounded = (weight / scale[:, None]).round_().to(torch.int8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch means to move these operators elsewhere
            quantised = torch._make_per_channel_quantized_tensor(
                rounded, scale.double(), torch.zeros(len(scale), dtype=torch.long), 0
            )
            bias = None if bias_O is None else bias_O.detach()
            self.weight = torch.ops.quantized.linear_prepack(quantised, bias)

    def __call__(self, x_NI: Tensor) -> Tensor:
        return self._by_groups(torch.ops.quantized.linear_dynamic, x_NI)

    def relu(self, x_NI: Tensor) -> Tensor:
        return self._by_groups(torch.ops.quantized.linear_relu_dynamic, x_NI)

    def plus(self, x_NI: Tensor, residual_NO: Tensor) -> Tensor:
        return self(x_NI).add_(residual_NO)

    def _by_groups(self, product: Callable[[Tensor, object], Tensor], x_NI: Tensor) -> Tensor:
        if len(x_NI) <= self.ROWS:
            return product(x_NI, self.weight)
        return torch.cat([product(group, self.weight) for group in x_NI.split(self.ROWS)])


def fixed_matrix(weight_OI: Tensor, bias_O: Tensor | None) -> Matrix:
    """Return the fastest exact form of a linear map for the device and type of its weight."""
    kind = PackedMatrix if weight_OI.device.type == "cpu" and can_pack(weight_OI.dtype) else PlainMatrix
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


def can_int8() -> bool:
    """Return whether this build of PyTorch has the kernels of `Int8Matrix`."""
    return any(engine != "none" for engine in torch.backends.quantized.supported_engines)
