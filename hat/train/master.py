"""Float32 master weights with a copy in the compute precision."""

import copy

import torch
from torch import Tensor, nn


class MasterWeights:
    """Float32 weights of a model and a copy of them in the compute type.

    The copy is cast once per update; autocast would cast every slice at every use. With float32 compute
    both are the same tensors. Gradients of the copy are added into `.grad` of the master in float32.
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
