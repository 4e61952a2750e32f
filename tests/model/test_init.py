"""Initial weights, the position table and the embedding scale."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from hat.model.layers import EOS, PAD, ModelConfig, positions, sinusoids
from hat.model.transformer import SuperTransformer, Transformer, extract
from hat.space import DecoderSpace, EncoderSpace, SearchSpace


def space(enc: int, dec: int, qkv: int = 24) -> SearchSpace:
    return SearchSpace(
        EncoderSpace(enc, 48, 2, (enc, enc // 2), (48, 24), (2, 1), (2,)),
        DecoderSpace(dec, 40, 2, (dec, dec // 2), (40, 20), (2, 1), (2,), (2,), (1, 2)),
        qkv,
    )


@pytest.mark.parametrize("widths", [(64, 64), (64, 48)])
def test_xavier_bounds(widths: tuple[int, int]) -> None:
    enc, dec, qkv = *widths, 24
    model = SuperTransformer(space(enc, dec), (50, 60))
    rows = 3 * qkv if enc == dec else qkv  # separate matrices have their own fan
    fans = {
        "encoder.*self_attn.qkv": 3 * qkv + enc,
        "encoder.*self_attn.out": qkv + enc,
        "encoder.*ffn": enc + 48,
        "decoder.*self_attn.qkv": 3 * qkv + dec,
        "decoder.*cross_attn.q": rows + dec,
        "decoder.*cross_attn.kv": rows + enc,
        "decoder.*(self|cross)_attn.out": qkv + dec,
        "decoder.*ffn": dec + 40,
    }
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            assert bool((weight == 1).all())
        elif name.endswith("bias"):
            assert not weight.any()
        elif "embed" not in name and name != "output.weight":
            (fan,) = (fan for part, fan in fans.items() if re.fullmatch(rf"{part}(\.\w+)?\.weight", name))
            bound = math.sqrt(6 / fan)
            assert 0.97 * bound < weight.abs().max() <= bound
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings(tied: bool) -> None:
    model = SuperTransformer(space(64, 48), (500, 700), ModelConfig(share_decoder_input_output_embed=tied))
    assert model.source_embed.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert model.target_embed.weight.std().item() == pytest.approx(48**-0.5, rel=0.05)
    assert not model.source_embed.weight[PAD].any() and not model.target_embed.weight[PAD].any()
    assert (model.output is model.target_embed) is tied
    if not tied:
        assert model.output.weight.std().item() == pytest.approx(48**-0.5, rel=0.05)
        assert model.output.weight[PAD].any()  # an ordinary row of a matrix
    target = torch.tensor([[EOS, 6, PAD]])
    model(torch.tensor([[PAD, 5, EOS]]), target).square().sum().backward()
    grads = model.source_embed.weight.grad, model.target_embed.weight.grad
    assert grads[0][5].any() and not grads[0][PAD].any() and (tied or not grads[1][PAD].any())


def test_512_of_640_is_320_sines_then_192_cosines() -> None:
    table = sinusoids(40, 640)[:, :512]
    frequency = [math.exp(-i * math.log(10000) / 319) for i in range(320)]
    for place in (0, 2, 3, 17, 39):
        sines = [math.sin(place * f) for f in frequency]
        cosines = [math.cos(place * f) for f in frequency[:192]]
        torch.testing.assert_close(table[place], torch.tensor(sines + cosines), rtol=0, atol=1e-5)
    assert not table[PAD].any()
    for width in (1, 2, 3, 7):
        narrow = sinusoids(9, width)
        assert narrow.shape == (9, width) and bool(narrow.isfinite().all())
        assert width % 2 == 0 or not narrow[:, -1].any()


def test_positions_count_real_tokens_from_two() -> None:
    ids = torch.tensor([[PAD, PAD, 7, 8, EOS], [4, 5, 6, 7, EOS], [EOS, 5, PAD, PAD, PAD]])
    assert positions(ids).tolist() == [[1, 1, 2, 3, 4], [2, 3, 4, 5, 6], [2, 3, 1, 1, 1]]


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_embedding_scale_and_positions_of_a_slice(original: bool, alone: bool) -> None:
    """With silent branches a post-norm encoder layer is two norms, so its input can be checked."""
    sizes = space(16, 16)
    model: Transformer = SuperTransformer(sizes, 11, ModelConfig(vocab_original_scaling=original))
    arch = sizes.smallest()
    for layer in model.encoder_layers:
        for part in (layer.self_attn.out, layer.ffn.down):
            part.weight.detach().zero_()
    ids = torch.tensor([[5, 6, EOS]])
    expected = model.source_embed.weight[ids, :8] * math.sqrt(16 if original else 8)
    expected = expected + sinusoids(20, 16)[2:5, :8]  # the super table's front columns
    expected = F.layer_norm(F.layer_norm(expected, (8,), eps=1e-5), (8,), eps=1e-5)
    found = extract(model, arch).encode(ids) if alone else model.encode(ids, arch)
    torch.testing.assert_close(found.outputs[0], expected)
