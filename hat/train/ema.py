"""Moving average of the weights, in float32 beside the master weights."""

import copy

import torch
from torch import Tensor, nn

_WARM = (
    10.0  # the average forgets its first weights quickly: decay (1 + n) / (10 + n) at update n, if smaller
)


class MovingAverage:
    """Exponential moving average of a model's weights; validated, searched and inherited in their place."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._pairs = list(zip(self.model.parameters(), model.parameters(), strict=True))

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Move the average towards the weights after update number `num_updates`, the first being 1."""
        decay = min(self.decay, (1 + num_updates) / (_WARM + num_updates))
        averages: list[Tensor] = [average for average, _ in self._pairs]
        torch._foreach_lerp_(averages, [weight.detach() for _, weight in self._pairs], 1 - decay)

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Go on from these averages, named as in `named_parameters`."""
        for name, average in self.model.named_parameters():
            average.copy_(weights[name])

    def in_type(self, dtype: torch.dtype) -> nn.Module:
        """Return the model with averaged weights of this type, not to be changed."""
        return self.model if dtype == torch.float32 else copy.deepcopy(self.model).to(dtype)
