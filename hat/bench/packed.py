"""Products in the layouts our decoder multiplies with: packed float32 and bfloat16, and 8-bit weights.

They stand beside the bare products and show what is left in the kernels themselves.
"""

from collections.abc import Callable, Sequence

import torch

from hat.bench.products import BareProducts, Product
from hat.model.cpu import Int8Matrix, Matrix, fixed_matrix

INT8_KERNEL = (
    "int8 products: quantized.linear_dynamic on 8-bit weights with one scale an output, rounding the float32 "
    "inputs to 8 bits as they come; attention products in float32"
)


class PackedProducts:
    """Runs products with weights laid out by `matrix`; those of attention have none and run as they are."""

    def __init__(
        self,
        products: Sequence[Product],
        dtype: torch.dtype,
        matrix: Callable[[torch.Tensor, None], Matrix] = fixed_matrix,
    ) -> None:
        self.runs: list[Callable[[], object]] = []
        weights: dict[tuple[str, int, int], Matrix] = {}
        for product, (left, right, result) in zip(
            products, BareProducts(products, dtype).operands, strict=True
        ):
            if product.attention:
                self.runs.append(lambda a=left, b=right, out=result: torch.bmm(a, b, out=out))
                continue
            key = (product.name, product.k, product.n)
            if key not in weights:
                weights[key] = matrix(right.mT, None)
            self.runs.append(lambda weight=weights[key], x=left: weight(x))

    @torch.inference_mode()
    def forward(self) -> None:
        """Run every product once."""
        for run in self.runs:
            run()


def int8_products(products: Sequence[Product]) -> PackedProducts:
    """Return the products with 8-bit weights."""
    return PackedProducts(products, torch.float32, Int8Matrix)
