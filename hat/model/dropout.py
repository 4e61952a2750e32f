"""Dropout whose masks are a function of a seed.

A value passed along the forward pass, not a module's state.
"""

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1


class Dropout:
    """Drops elements with masks from its own random numbers; without a seed (evaluation) it changes nothing.

    One object serves one forward pass. Two passes with one seed drop the same elements, so a resumed run
    repeats the uninterrupted one whatever other random numbers were drawn.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._numbers: np.random.Generator | torch.Generator | None = None

    @property
    def active(self) -> bool:
        """Return whether anything is dropped at rates above 0."""
        return self.seed is not None

    def __call__(self, x: Tensor, rate: float) -> Tensor:
        """Return `x` with a fraction `rate` of its elements zero and the others scaled by 1 / (1 - rate)."""
        if not self.active or rate <= 0:
            return x
        return x * self._mask(x, rate)

    def plus(self, residual: Tensor, x: Tensor, rate: float) -> Tensor:
        """Return `residual` + self(x, rate) in one pass."""
        if not self.active or rate <= 0:
            return residual + x
        return _PlusMasked.apply(residual, x, self._mask(x, rate))

    def _mask(self, x: Tensor, rate: float) -> Tensor:
        """Return zeros and 1 / (1 - rate) in the shape and type of `x`.

        Four 15-bit uniform numbers come from each 64 random bits, a quarter of the draws of a Bernoulli mask;
        the rate is exact to 1/32768. The same elements are dropped whatever the type.
        """
        count = x.numel()
        bits = self._bits(max(1, (count + 3) // 4), x.device)
        uniform = bits.view(torch.int16)[:count].view(x.shape).bitwise_right_shift_(1)
        kept = uniform.sub_(round((1 - rate) * 32768) - 16384)  # negative where an element stays
        if x.element_size() > 2:
            return (kept < 0).to(x.dtype).mul_(1 / (1 - rate))
        # the sign spread over all bits selects those of the scale; integers are twice as fast as comparing
        scale = torch.tensor(1 / (1 - rate), dtype=x.dtype).view(torch.int16).item()
        return kept.bitwise_right_shift_(15).bitwise_and_(scale).view(x.dtype)

    def _bits(self, count: int, device: torch.device) -> Tensor:
        """Return `count` times 64 random bits; on CPUs from a generator twice as fast as that of PyTorch."""
        assert self.seed is not None
        if self._numbers is None:
            self._numbers = (
                np.random.Generator(np.random.SFC64(self.seed))
                if device.type == "cpu"
                else torch.Generator(device).manual_seed(self.seed)
            )
        if isinstance(self._numbers, np.random.Generator):
            drawn = self._numbers.integers(_LOWEST, _HIGHEST, size=count, dtype=np.int64, endpoint=True)
            return torch.from_numpy(drawn)
        bits = torch.empty(count, dtype=torch.int64, device=device)
        return bits.random_(_LOWEST, None, generator=self._numbers)


class _PlusMasked(torch.autograd.Function):
    """residual + x * mask, without the pass that the derivative of `addcmul` makes for its scale of one."""

    @staticmethod
    def forward(ctx: FunctionCtx, residual: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return torch.addcmul(residual, x, mask)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        (mask,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad, grad * mask, None


EVAL = Dropout()
