"""Dropout: which rate acts where, and the masks themselves."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hat.model.elastic import EVAL, Dropout
from hat.model.layers import EOS, PAD, ModelConfig
from hat.model.transformer import SuperTransformer, extract
from hat.space import DecoderSpace, EncoderSpace, SearchSpace

SPACE = SearchSpace(
    EncoderSpace(16, 16, 2, (16, 12), (16, 4), (2, 1), (2,)),
    DecoderSpace(20, 16, 2, (20, 10), (16, 8), (2, 1), (2,), (2,), (1, 2)),
    8,
)
CFG = ModelConfig(dropout=0.4, attention_dropout=0.07, activation_dropout=0.2)
SOURCE = torch.tensor([[5, 6, 7, EOS], [PAD, 8, 9, EOS]])
TARGET = torch.tensor([[EOS, 4, 5], [EOS, 6, PAD]])


class Spy(Dropout):
    """Records the last size of what would be dropped, and the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, float]] = []

    def __call__(self, x: Tensor, rate: float) -> Tensor:
        self.seen.append((x.size(-1), round(rate, 9)))
        return x


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_rates_scale_with_the_width_except_where_the_reference_does_not(alone: bool, pre_norm: bool) -> None:
    cfg = replace(CFG, encoder_normalize_before=pre_norm, decoder_normalize_before=pre_norm)
    model, arch, spy = SuperTransformer(SPACE, 11, cfg), SPACE.smallest(), Spy()
    (extract(model, arch) if alone else model)(SOURCE, TARGET, arch, spy)
    enc, dec = 12 / 16, 10 / 20
    expected = [
        (12, 0.4 * enc),  # source embedding
        (4, 0.07),  # attention weights over 4 tokens
        (12, 0.4),  # parity: the residual of the encoder's self-attention is not scaled
        (4, 0.2 * enc),  # after the ReLU
        (12, 0.4 * enc),
        (10, 0.4 * dec),  # target embedding
        (3, 0.07),
        (10, 0.4 * dec),
        (4, 0.07),  # attention to the encoder
        (10, 0.4 * dec),
        (8, 0.2 * dec),
        (10, 0.4 * dec),
    ]
    assert spy.seen == [(size, pytest.approx(rate)) for size, rate in expected]


@pytest.mark.parametrize("rate", [0.0001, 0.1, 0.3, 0.5, 0.9])
def test_mask_rate_and_scale(rate: float) -> None:
    dropped = Dropout(1)(torch.ones(401, 499, dtype=torch.float64), rate)
    zeros = (dropped == 0).double().mean().item()
    deviation = (rate * (1 - rate) / dropped.numel()) ** 0.5
    assert abs(zeros - rate) < 4 * deviation + 1 / 32768
    assert set(dropped.unique().tolist()) == {0.0, 1 / (1 - rate)}
    zero = (dropped == 0).double().flatten()
    for lag in range(1, 9):  # four numbers come from one 64-bit draw
        assert abs((zero[lag:] * zero[:-lag]).mean().item() - rate**2) < 0.004, lag


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3, 7), (0, 4), (999,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rate", [0.1, 0.999])
def test_the_mask_is_that_of_the_seed_in_any_type(shape: tuple, dtype: torch.dtype, rate: float) -> None:
    narrow, wide = (Dropout(5)(torch.ones(shape, dtype=kind), rate) for kind in (dtype, torch.float32))
    assert torch.equal(narrow.float(), wide.to(dtype).float()) and narrow.shape == shape


def test_what_is_dropped_follows_the_seed_and_the_call() -> None:
    x, drop = torch.ones(1000), Dropout(5)
    first, second = drop(x, 0.5), drop(x, 0.5)
    assert not torch.equal(first, second) and not torch.equal(first, Dropout(6)(x, 0.5))
    torch.manual_seed(0)
    assert torch.equal(first, Dropout(5)(x, 0.5)), "the global generator must not matter"
    assert EVAL(x, 0.9) is x and Dropout(1)(x, 0.0) is x
    model = SuperTransformer(SPACE, 11, CFG)
    one, two, three = (model(SOURCE, TARGET, drop=Dropout(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three) and not torch.equal(one, model(SOURCE, TARGET))
