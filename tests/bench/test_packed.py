"""Products in our layouts compute what the bare ones compute."""

import pytest
import torch

from hat.bench.packed import PackedProducts, int8_products
from hat.bench.products import BareProducts, Product
from hat.model.cpu import can_int8

PRODUCTS = [
    Product("w", 5, 64, 48),
    Product("s", 2, 8, 4, groups=3, attention=True),
    Product("w", 5, 64, 48),
]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_packed_products_equal_the_bare_ones(dtype: torch.dtype, error: float) -> None:
    bare, packed = BareProducts(PRODUCTS, dtype), PackedProducts(PRODUCTS, dtype)
    bare.forward()
    for (_, _, result), run in zip(bare.operands, packed.runs, strict=True):
        torch.testing.assert_close(run(), result, rtol=error, atol=error)
    packed.forward()


@pytest.mark.skipif(not can_int8(), reason="this torch has no 8-bit kernels")
def test_int8_products_are_near_the_bare_ones() -> None:
    bare, packed = BareProducts(PRODUCTS, torch.float32), int8_products(PRODUCTS)
    bare.forward()
    for (_, _, result), run in zip(bare.operands, packed.runs, strict=True):
        assert (run() - result).norm() < 0.03 * result.norm()
