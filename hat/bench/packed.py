"""Products with weights packed once for the kernel: bfloat16 and float32 by oneDNN, int8 by oneDNN.

They show what is left in the kernels themselves. int8 takes activations that are quantised already.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hat.bench.products import BareProducts, Product

KERNEL = {
    "packed": "mkldnn._linear_pointwise on weights packed once",
    "int8": "onednn.qlinear_pointwise: int8 weights packed once, one scale a row, ready int8 activations",
}


def linear_runner(product: Product, dtype: torch.dtype, right_KN: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what multiplies [m, k] by the packed form of a weight [k, n] in `dtype`."""
    weight = right_KN.mT.contiguous()
    if dtype == torch.int8:
        scale = weight.float().abs().amax(1).clamp(min=1e-6) / 127
        whole = (weight.float() / scale[:, None]).round().to(torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(whole, [product.m, product.k])
        zeros = torch.zeros(product.n, dtype=torch.int64)

        def multiply_int8(left: Tensor) -> Tensor:
            return torch.ops.onednn.qlinear_pointwise(
                left, 0.01, 128, packed, scale, zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
            )

        return multiply_int8
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, product.m)
    return lambda left: torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], "")


class PackedProducts:
    """Runs products on packed weights; those of attention, which have none, run as they are.

    With int8, attention is in bfloat16.
    """

    def __init__(self, products: Sequence[Product], dtype: torch.dtype) -> None:
        self._run: list[Callable[[], object]] = []
        runners: dict[tuple[str, int, int], Callable[[Tensor], Tensor]] = {}
        plain = torch.bfloat16 if dtype == torch.int8 else dtype
        bare = BareProducts(products, plain)
        for product, (left, right, result) in zip(products, bare.operands, strict=True):
            if product.attention:
                self._run.append(lambda a=left, b=right, out=result: torch.bmm(a, b, out=out))
                continue
            key = (product.name, product.k, product.n)
            if key not in runners:
                runners[key] = linear_runner(product, dtype, right)
            if dtype == torch.int8:
                left = (left * 100).round().clamp(-127, 127).add(128).to(torch.uint8)
            self._run.append(lambda run=runners[key], a=left: run(a))

    @torch.no_grad()
    def forward(self) -> None:
        """Run every product once."""
        for run in self._run:
            run()


def can_pack() -> bool:
    """Return whether this torch and processor have the packed kernels."""
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def can_pack_int8() -> bool:
    """Return whether this torch and processor have the int8 kernel."""
    return can_pack() and hasattr(torch.ops.onednn, "qlinear_pointwise")
