"""The model laid out for translating computes what the model computes, in every number type."""

import pytest
import torch
from torch import Tensor

from hat.errors import ConfigError
from hat.model.cpu import Int8Matrix, Matrix, PackedMatrix, fixed_matrix, largest
from hat.model.inference import CHUNK, PADDED_FROM, InferenceModel
from hat.model.layers import PAD
from hat.model.transformer import SuperTransformer
from hat.space import Arch, DecoderArch, DecoderSpace, EncoderArch, EncoderSpace, SearchSpace

SPACE = SearchSpace(
    EncoderSpace(64, 128, 3, (64, 48), (128, 96), (3,), (4, 2)),
    DecoderSpace(64, 128, 3, (64, 48), (128, 96), (3, 2), (4, 2), (4, 2), (1, 2, 3)),
    64,
)
ARCH = Arch(EncoderArch(48, (96,) * 3, (4, 2, 4)), DecoderArch(64, (128, 96), (2, 4), (4, 2), (3, 1)))
VOCAB = PADDED_FROM + 5


def model_in(dtype: torch.dtype) -> SuperTransformer:
    return SuperTransformer(SPACE, VOCAB, generator=torch.Generator().manual_seed(2)).to(dtype).eval()


def tokens(rows: int, length: int) -> Tensor:
    noise = torch.Generator().manual_seed(rows)
    return torch.randint(4, VOCAB, (rows, length), generator=noise)


@torch.inference_mode()
def steps(fixed: InferenceModel, source: Tensor, target: Tensor) -> Tensor:
    state = fixed.start(fixed.encode(source), 1, capacity=2)
    return torch.stack([fixed.step(column, state) for column in target.unbind(1)], dim=1)


@pytest.mark.parametrize("matrix", [fixed_matrix, Matrix])
@pytest.mark.parametrize("rows", [3, 20])
@torch.inference_mode()
def test_float32_agrees_to_1e_5(rows: int, matrix: type) -> None:
    model = model_in(torch.float32)
    source, target = tokens(rows, 5), tokens(rows, 6)
    source[0, :3] = PAD
    fixed, expected = InferenceModel(model, ARCH, matrix), model(source, target, ARCH)
    for weight in model.parameters():
        weight.zero_()  # later changes of the model do not reach it
    logits = steps(fixed, source, target)
    torch.testing.assert_close(logits[..., :VOCAB], expected, rtol=1e-5, atol=1e-5)
    assert logits.size(2) % CHUNK == 0 and logits[..., VOCAB:].eq(-torch.inf).all()


@torch.inference_mode()
def test_bfloat16_agrees_within_its_rounding() -> None:
    """Both are compared with the same weights in float32: the fast path may not be the worse one."""
    model = model_in(torch.bfloat16)
    source, target = tokens(4, 6), tokens(4, 8)
    exact = model.float()(source, target, ARCH)
    model = model.bfloat16()
    plain = (model(source, target, ARCH).float() - exact).square().mean().sqrt()
    fast = (steps(InferenceModel(model, ARCH), source, target)[..., :VOCAB].float() - exact).square().mean()
    assert fast.sqrt() < 1.2 * plain and plain < 0.02 * exact.std()


@torch.inference_mode()
def test_8_bit_weights_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source, target = model_in(torch.float32), tokens(4, 6), tokens(4, 8)
    exact = model(source, target, ARCH)
    found = steps(InferenceModel(model, ARCH, Int8Matrix), source, target)[..., :VOCAB]
    assert (found - exact).square().mean().sqrt() < 0.05 * exact.std()
    assert found.argmax(2).eq(exact.argmax(2)).float().mean() > 0.9
    with pytest.raises(ConfigError, match="float32 weights on the CPU, got torch.bfloat16 on cpu"):
        InferenceModel(model.bfloat16(), ARCH, Int8Matrix)
    monkeypatch.setattr("hat.model.cpu.can_int8", lambda: False)
    with pytest.raises(ConfigError, match="was built without 8-bit kernels.* without --int8"):
        Int8Matrix(torch.eye(4), None)


@pytest.mark.parametrize("kind", [Matrix, PackedMatrix])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_multiply(kind: type, dtype: torch.dtype) -> None:
    noise, shapes = torch.Generator().manual_seed(1), ((40, 24), (40,), (7, 24), (7, 40))
    weight, bias, x, residual = (torch.randn(shape, generator=noise).to(dtype) for shape in shapes)
    matrix: Matrix = kind(weight, bias)
    error = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    product = x.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(matrix(x).double(), product, **error)
    torch.testing.assert_close(matrix.relu(x).double(), product.relu(), **error)
    torch.testing.assert_close(matrix.plus(x, residual).double(), product + residual.double(), **error)
    torch.testing.assert_close(kind(weight, None)(x).double(), product - bias.double(), **error)


def test_a_far_value_makes_only_its_group_of_rows_coarse() -> None:
    rows = 2 * Int8Matrix.ROWS + 3
    noise, shapes = torch.Generator().manual_seed(1), ((40, 24), (40,), (rows, 24), (rows, 40))
    weight, bias, x, residual = (torch.randn(shape, generator=noise) for shape in shapes)
    x[-1, 0] = 1000.0
    matrix, far = Int8Matrix(weight, bias), torch.arange(rows) >= 2 * Int8Matrix.ROWS
    exact = x @ weight.T + bias
    errors = (matrix(x) - exact).abs()
    assert errors[~far].max() < 0.5 < errors[far].max()
    assert torch.equal(matrix.relu(x), matrix(x).relu())
    assert torch.equal(matrix.plus(x, residual), matrix(x) + residual)


@pytest.mark.parametrize("count", [2, 10])
def test_the_best_of_a_large_vocabulary_are_found_in_chunks(count: int) -> None:
    """Also where all of them share one chunk, and where the row ends in the padding of the vocabulary."""
    rows = torch.randn(6, 5000, generator=torch.Generator().manual_seed(count))
    rows[0, 300 : 300 + count] += 20
    rows[1, -count:] += 20
    rows[:, PAD] = -torch.inf
    padded = torch.nn.functional.pad(rows, (0, -5000 % CHUNK), value=-torch.inf)
    assert padded.size(1) >= 4 * count * CHUNK  # else the plain way is taken
    assert all(map(torch.equal, largest(padded, count), rows.topk(count, dim=1)))
