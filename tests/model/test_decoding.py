"""Step-by-step decoding equals full decoding; padding and kernels do not change results."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import random_model, spaces_with_archs

from hat.model.cpu import SHORT
from hat.model.elastic import EVAL, Dropout
from hat.model.inference import InferenceModel
from hat.model.layers import EOS, PAD, ModelConfig, attend
from hat.model.transformer import SuperTransformer
from hat.space import Arch, DecoderArch, DecoderSpace, EncoderArch, EncoderSpace, SearchSpace

SPACE = SearchSpace(
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
    return SPACE.check(
        Arch(
            EncoderArch(8, (16,) * 3, (2, 1, 2)),
            DecoderArch(10, (16, 8, 16)[:layers], (2, 4, 2)[:layers], (4, 2, 4)[:layers], spans),
        )
    )


def sentences(seed: int, lengths: list[int]) -> torch.Tensor:
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
    model, arch, beam = model_of(SPACE, pre_norm), arch_with(spans), 3
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
    model, arch = model_of(SPACE), arch_with((1, 3, 2))
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


@torch.inference_mode()
def test_the_encoder_returns_its_last_layers_last_first() -> None:
    model, arch = model_of(SPACE), arch_with((3,) * 2)
    found = model.encode(sentences(6, [4]), arch)
    assert len(found.outputs) == 3
    spanned, mask = found.by_span(arch)[3]
    assert torch.equal(spanned, torch.cat(found.outputs, 1)) and spanned.shape == (1, 12, 8) and mask is None
    for weight in model.encoder_layers[2].parameters():
        weight.zero_()
    changed = model.encode(sentences(6, [4]), arch).outputs
    assert not changed[0].any() and all(map(torch.equal, changed[1:], found.outputs[1:]))
