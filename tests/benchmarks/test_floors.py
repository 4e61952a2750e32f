"""The bare products against counts in closed form and against the real pass."""

import pytest
import torch

from benchmarks.floors import BareProducts, Lengths, Product, decoding_products, training_products
from hat import ModelConfig, SubTransformer
from hat.space import Arch, DecoderArch, DecoderSpace, EncoderArch, EncoderSpace, SearchSpace

ARCH = Arch(EncoderArch(12, (16, 20), (2, 4)), DecoderArch(10, (24,), (4,), (2,), (2,)))
SPACE = SearchSpace(
    EncoderSpace(12, 20, 2, (12,), (16, 20), (2,), (2, 4)),
    DecoderSpace(10, 24, 1, (10,), (24,), (1,), (4,), (2,), (2,)),
    8,
)
VOCAB = 11


def macs(products: list[Product]) -> int:
    return sum(product.flops for product in products) // 2


def encoder_macs(b: int, s: int) -> int:
    projections = s * 12 * 24 + s * 8 * 12
    return b * sum(projections + 2 * s * s * 8 + 2 * s * 12 * ffn for ffn in (16, 20))


def test_training_products_equal_the_closed_form() -> None:
    b, s, t = 3, 5, 4
    decoder = t * 10 * 24 + 2 * t * t * 8 + t * 8 * 10  # self-attention
    decoder += t * 10 * 8 + 2 * s * 12 * 16 + 2 * t * 2 * s * 8 + t * 8 * 10  # attention to two layers
    decoder += 2 * t * 10 * 24 + t * 10 * VOCAB
    found = training_products(ARCH, SPACE, VOCAB, Lengths(b, s, t))
    assert macs(found) == encoder_macs(b, s) + b * decoder


def test_training_products_are_the_matrix_products_of_the_real_pass() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = SubTransformer(SPACE, ARCH, (VOCAB, VOCAB), ModelConfig(dropout=0.0))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0, 0.1)
    ids = torch.full((3, 5), 4)
    with FlopCounterMode(display=False) as counter:
        model(ids, ids[:, :4]).sum().backward()
    products = training_products(ARCH, SPACE, VOCAB, Lengths(3, 5, 4))
    assert counter.get_total_flops() == 3 * sum(product.flops for product in products)


@pytest.mark.parametrize("beam", [1, 5])
def test_decoding_products_equal_the_closed_form(beam: int) -> None:
    b, s, steps = 2, 6, 3
    each = 10 * 24 + 8 * 10 + 10 * 8 + 8 * 10 + 2 * 10 * 24 + 10 * VOCAB + 2 * 2 * s * 8
    seen = sum(2 * step * 8 for step in range(1, steps + 1))
    cross = b * 2 * s * 12 * 16  # once a sentence, not once a hypothesis
    found = decoding_products(ARCH, SPACE, VOCAB, Lengths(b, s, steps, beam))
    assert macs(found) == encoder_macs(b, s) + cross + b * beam * (steps * each + seen)


def test_bare_products_compute_the_gradients_of_a_product() -> None:
    for product in (Product("a", 4, 3, 5), Product("b", 4, 3, 5, groups=2)):
        bare = BareProducts([product], torch.float64, backward=True)
        (left, right, result), (by_right, by_left) = bare.operands[0], bare.backward
        left, right = left.clone().requires_grad_(), right.clone().requires_grad_()
        bare.run()
        torch.testing.assert_close(result, left @ right)
        (left @ right).backward(result)  # the result serves as the gradient that comes back
        torch.testing.assert_close(by_left[2], left.grad)
        torch.testing.assert_close(by_right[2], right.grad.mT)
