"""Packed products are products: they run on the same operands and give the same results."""

import pytest
import torch

from hat.bench.packed import PackedProducts, can_pack, can_pack_int8, linear_runner
from hat.bench.products import Product

PRODUCT = Product("w", 5, 64, 48)


@pytest.mark.skipif(not can_pack(), reason="this torch has no packed kernels")
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_packed_product_equals_the_product(dtype: torch.dtype, error: float) -> None:
    noise = torch.Generator().manual_seed(1)
    left, right = (torch.randn(shape, generator=noise).to(dtype) for shape in ((5, 64), (64, 48)))
    with torch.no_grad():
        found = linear_runner(PRODUCT, dtype, right)(left)
    torch.testing.assert_close(found.float(), left.float() @ right.float(), rtol=error, atol=20 * error)


@pytest.mark.skipif(not can_pack_int8(), reason="this torch has no int8 kernel")
def test_int8_product_is_near_the_product() -> None:
    noise = torch.Generator().manual_seed(1)
    left, right = torch.randn(5, 64, generator=noise) * 0.3, torch.randn(64, 48, generator=noise)
    quantised = (left / 0.01).round().clamp(-128, 127).add(128).to(torch.uint8)
    with torch.no_grad():
        found = linear_runner(PRODUCT, torch.int8, right)(quantised)
    wanted = left @ right
    assert (found.float() - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.skipif(not can_pack_int8(), reason="this torch has no int8 kernel")
def test_every_product_runs_in_every_format() -> None:
    products = [PRODUCT, Product("s", 2, 8, 4, groups=3, attention=True), PRODUCT]
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        packed = PackedProducts(products, dtype)
        assert len(packed._run) == 3
        packed.forward()
