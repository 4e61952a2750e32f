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

    def _mask(self, x: Tensor, rate: float) -> Tensor:
        """Return zeros and 1 / (1 - rate) in the shape and type of `x`.

        Four 16-bit uniform numbers come from each 64 random bits, a quarter of the draws of a Bernoulli mask;
        the rate is exact to 1/65536.
        """
        count = x.numel()
        bits = torch.empty((count + 3) // 4, dtype=torch.int64, device=x.device)
        bits.random_(-(1 << 63), None, generator=self.generator)
        threshold = round(rate * 65536) - 32768
        keep = bits.view(torch.int16)[:count].view(x.shape) >= threshold
        return keep.to(x.dtype).mul_(1 / (1 - rate))


EVAL = Dropout()
