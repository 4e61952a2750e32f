"""The model laid out for translating computes what the model computes, step by step, in every number type.

Padding and kernels do not change results either.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import random_model, spaces_with_archs
from torch import Tensor

from hat.model.cpu import SHORT, Matrix, PackedMatrix, largest
from hat.model.elastic import EVAL, Dropout
from hat.model.inference import CHUNK, InferenceModel
from hat.model.layers import EOS, PAD, ModelConfig, attend
from hat.model.transformer import SuperTransformer
from hat.space import Arch, DecoderArch, DecoderSpace, EncoderArch, EncoderSpace, SearchSpace

TINY = SearchSpace(
    EncoderSpace(12, 16, 3, (12, 8), (16,), (3,), (2, 1)),
    DecoderSpace(10, 16, 3, (10, 6), (16, 8), (3, 2), (2, 4), (2, 4), (1, 2, 3)),
    8,
)
EXACT = {"rtol": 1e-11, "atol": 1e-12}


def model_of(space: SearchSpace, pre_norm: bool = False) -> SuperTransformer:
    cfg = ModelConfig(encoder_normalize_before=pre_norm, decoder_normalize_before=pre_norm)
    return random_model(space, cfg).eval()


def arch_with(spans: tuple[int, ...]) -> Arch:
    layers = len(spans)
    return TINY.check(
        Arch(
            EncoderArch(8, (16,) * 3, (2, 1, 2)),
            DecoderArch(10, (16, 8, 16)[:layers], (2, 4, 2)[:layers], (4, 2, 4)[:layers], spans),
        )
    )


def sentences(seed: int, lengths: list[int]) -> Tensor:
    """Return random sources [B, S], left-padded, each with EOS at its end."""
    noise = torch.Generator().manual_seed(seed)
    source = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        source[row, max(lengths) - length : -1] = torch.randint(4, 11, (length - 1,), generator=noise)
    source[:, -1] = EOS
    return source


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("spans", [(1, 1), (2, 3), (3, 1, 2), (2, 2, 2)])
@torch.inference_mode()
def test_steps_equal_full_decoding(spans: tuple[int, ...], pre_norm: bool) -> None:
    """Hypotheses differ, change places, sentences leave, and the cache grows, all on the way."""
    model, arch, beam = model_of(TINY, pre_norm), arch_with(spans), 3
    source = sentences(1, [6, 2, 4])
    noise = torch.Generator().manual_seed(7)
    tokens = torch.randint(4, 13, (9, 1), generator=noise)
    tokens[:, 0] = EOS
    fixed = InferenceModel(model, arch)
    state = fixed.start(fixed.encode(source), beam, capacity=2)
    for step in range(9):
        logits = fixed.step(tokens[:, -1], state)
        rows = source.repeat_interleave(beam, 0)
        full = model(rows, tokens, arch)[:, -1]
        torch.testing.assert_close(logits, full, **EXACT)
        if step in (2, 5):
            kept = torch.tensor([0, 2]) if step == 2 else torch.tensor([1])
            state.keep(kept)
            tokens, source = tokens.unflatten(0, (-1, beam))[kept].flatten(0, 1), source[kept]
        if step in (1, 2, 3, 5, 6):
            origin = torch.randint(0, beam, (len(source), beam), generator=noise)
            state.reorder(origin)
            tokens = tokens[(origin + beam * torch.arange(len(source))[:, None]).flatten()]
        tokens = torch.cat([tokens, torch.randint(4, 13, (len(tokens), 1), generator=noise)], 1)
    assert state.length == 9


@settings(max_examples=25)
@given(spaces_with_archs(), st.booleans(), st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_steps_equal_full_decoding_in_any_space(
    pair: tuple[SearchSpace, Arch], pre_norm: bool, lengths: list[int]
) -> None:
    space, arch = pair
    model, source = model_of(space, pre_norm), sentences(2, lengths)
    target = torch.randint(4, 13, (len(lengths), 5), generator=torch.Generator().manual_seed(1))
    found = model.encode(source, arch)
    full = model.logits(model.decode(target, found, arch))
    fixed = InferenceModel(model, arch)
    torch.testing.assert_close(fixed.encode(source).outputs, found.outputs, **EXACT)
    state = fixed.start(found, 1, capacity=1)
    logits = torch.stack([fixed.step(column, state) for column in target.unbind(1)], 1)
    torch.testing.assert_close(logits, full, **EXACT)


@pytest.mark.parametrize("lengths", [[7, 3], [70, 5], [66, 65, 1]])
@torch.inference_mode()
def test_padding_does_not_change_results(lengths: list[int]) -> None:
    model, arch = model_of(TINY), arch_with((1, 3, 2))
    source = sentences(3, lengths)
    target = torch.full((len(lengths), 6), PAD)
    sizes = [6, 4, 1][: len(lengths)]
    for row, size in enumerate(sizes):
        target[row, :size] = torch.tensor([EOS, 5, 6, 7, 8, 9])[:size]
    together = model(source, target, arch)
    for row, (length, size) in enumerate(zip(lengths, sizes, strict=True)):
        alone = model(source[row : row + 1, -length:], target[row : row + 1, :size], arch)
        torch.testing.assert_close(together[row : row + 1, :size], alone, **EXACT)
        outputs = [each[row : row + 1, -length:] for each in model.encode(source, arch).outputs]
        expected = model.encode(source[row : row + 1, -length:], arch).outputs
        torch.testing.assert_close(outputs, list(expected), **EXACT)


@pytest.mark.parametrize("length", [7, SHORT + 1])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_scaled_alike_by_both_kernels_while_training_and_not(length: int, masked: bool) -> None:
    noise = torch.Generator().manual_seed(1)
    flat = [torch.randn(2, length, 12, generator=noise, dtype=torch.float64) for _ in range(3)]
    q, k, v = (x.view(2, length, 3, 4).transpose(1, 2) for x in flat)
    mask = torch.full((length, length), -torch.inf, dtype=q.dtype).triu_(1) if masked else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    for drop, rate in ((EVAL, 0.5), (Dropout(2), 0.0), (Dropout(2), 1e-9)):
        torch.testing.assert_close(attend(*flat, 3, mask, drop, rate), expected)


SPACE = SearchSpace(
    EncoderSpace(64, 128, 3, (64, 48), (128, 96), (3,), (4, 2)),
    DecoderSpace(64, 128, 3, (64, 48), (128, 96), (3, 2), (4, 2), (4, 2), (1, 2, 3)),
    64,
)
ARCH = Arch(EncoderArch(48, (96,) * 3, (4, 2, 4)), DecoderArch(64, (128, 96), (2, 4), (4, 2), (3, 1)))
VOCAB = 4096 + 5


def model_in(dtype: torch.dtype) -> SuperTransformer:
    return SuperTransformer(SPACE, VOCAB, generator=torch.Generator().manual_seed(2)).to(dtype).eval()


def tokens(rows: int, length: int) -> Tensor:
    noise = torch.Generator().manual_seed(rows)
    return torch.randint(4, VOCAB, (rows, length), generator=noise)


@torch.inference_mode()
def steps(fixed: InferenceModel, source: Tensor, target: Tensor) -> Tensor:
    state = fixed.start(fixed.encode(source), 1, capacity=2)
    return torch.stack([fixed.step(column, state) for column in target.unbind(1)], dim=1)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("rows", [3, 20])
@torch.inference_mode()
def test_float32_agrees_to_1e_5(rows: int, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packed:
        monkeypatch.setattr("hat.model.cpu.can_pack", lambda dtype: False)
    model = model_in(torch.float32)
    source, target = tokens(rows, 5), tokens(rows, 6)
    source[0, :3] = PAD
    fixed, expected = InferenceModel(model, ARCH), model(source, target, ARCH)
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


@pytest.mark.parametrize("count", [2, 10])
def test_the_best_of_a_large_vocabulary_are_found_in_chunks(count: int) -> None:
    """Also where all of them share one chunk, and where the row ends in the padding of the vocabulary."""
    rows = torch.randn(6, 5000, generator=torch.Generator().manual_seed(count))
    rows[0, 300 : 300 + count] += 20
    rows[1, -count:] += 20
    rows[:, PAD] = -torch.inf
    padded = F.pad(rows, (0, -5000 % CHUNK), value=-torch.inf)
    assert padded.size(1) >= 4 * count * CHUNK  # else the plain way is taken
    assert all(map(torch.equal, largest(padded, count), rows.topk(count, dim=1)))
