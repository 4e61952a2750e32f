"""Dropout whose masks are a function of a seed.

A value passed along the forward pass, not a module's state.
"""

import torch
from torch import Tensor


class Dropout:
    """Drops elements with masks from its own generator; without one (evaluation) it changes nothing.

    One object serves one forward pass. Two passes with generators seeded alike drop the same elements, so a
    resumed run repeats the uninterrupted one whatever other random numbers were drawn.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def __call__(self, x: Tensor, rate: float) -> Tensor:
        """Return `x` with a fraction `rate` of its elements zero and the others scaled by 1 / (1 - rate)."""
        if self.generator is None or rate <= 0:
            return x
        return x * self._mask(x, rate)

    def plus(self, residual: Tensor, x: Tensor, rate: float) -> Tensor:
        """Return `residual` + self(x, rate) in one pass."""
        if self.generator is None or rate <= 0:
            return residual + x
        return torch.addcmul(residual, x, self._mask(x, rate))

    def _mask(self, x: Tensor, rate: float) -> Tensor:
        """Return zeros and 1 / (1 - rate) in the shape and type of `x`.

        Four 15-bit uniform numbers come from each 64 random bits, a quarter of the draws of a Bernoulli mask;
        the rate is exact to 1/32768. The same elements are dropped whatever the type.
        """
        count = x.numel()
        bits = torch.empty((count + 3) // 4, dtype=torch.int64, device=x.device)
        bits.random_(-(1 << 63), None, generator=self.generator)
        uniform = bits.view(torch.int16)[:count].view(x.shape).bitwise_right_shift_(1)
        kept = uniform.sub_(round((1 - rate) * 32768) - 16384)  # negative where an element stays
        if x.element_size() > 2:
            return (kept < 0).to(x.dtype).mul_(1 / (1 - rate))
        # the sign spread over all bits selects those of the scale; integers are twice as fast as comparing
        scale = torch.tensor(1 / (1 - rate), dtype=x.dtype).view(torch.int16).item()
        return kept.bitwise_right_shift_(15).bitwise_and_(scale).view(x.dtype)


EVAL = Dropout()
