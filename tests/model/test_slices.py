"""A slice of the SuperTransformer, the stand-alone SubTransformer and its closed-form size agree."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import random_model, spaces_with_archs

from hat.errors import ArchError, ConfigError
from hat.model.layers import EOS, PAD, ModelConfig, count_params
from hat.model.transformer import SuperTransformer, extract, implant
from hat.space import DIMS, Arch, DecoderSpace, EncoderSpace, SearchSpace

SOURCE = torch.tensor([[5, 6, 7, 8, EOS], [PAD, PAD, 9, 4, EOS]])
TARGET = torch.tensor([[EOS, 4, 5, 6], [EOS, 10, PAD, PAD]])
CONFIGS = [
    ModelConfig(encoder_normalize_before=pre, decoder_normalize_before=pre, **sharing)
    for pre in (False, True)
    for sharing in ({}, {"share_decoder_input_output_embed": True}, {"share_all_embeddings": True})
]
NAMES = [f"{norm}-{sharing}" for norm in ("post", "pre") for sharing in ("separate", "tied", "shared")]


@pytest.mark.parametrize("cfg", CONFIGS, ids=NAMES)
@settings(max_examples=12)
@given(st.data())
def test_slice_and_its_gradient_equal_the_extracted_sub(cfg: ModelConfig, data: st.DataObject) -> None:
    space, arch = data.draw(spaces_with_archs(one_width=cfg.share_all_embeddings))
    model = random_model(space, cfg)
    sub = extract(model, arch)
    ours, theirs = model(SOURCE, TARGET, arch), sub(SOURCE, TARGET)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    noise = torch.randn(ours.shape, dtype=torch.float64)
    (ours * noise).sum().backward()
    (theirs * noise).sum().backward()
    expected = {name: weight.grad for name, weight in sub.named_parameters()}
    for name, weight in model.named_parameters():
        if name not in expected:
            assert weight.grad is None, f"{name} is not part of the architecture"
            continue
        block = tuple(slice(size) for size in expected[name].shape)
        torch.testing.assert_close(weight.grad[block], expected[name], rtol=1e-9, atol=1e-11)
        outside = weight.grad.clone()
        outside[block] = 0
        assert not outside.any(), f"{name} has gradient outside its active block"


@pytest.mark.parametrize("cfg", CONFIGS[3:], ids=NAMES[3:])
@settings(max_examples=12)
@given(st.data())
def test_an_implanted_sub_computes_the_same_also_with_layers_that_are_new(
    cfg: ModelConfig, data: st.DataObject
) -> None:
    space, arch = data.draw(spaces_with_archs(one_width=cfg.share_all_embeddings))
    arch = replace(arch, decoder=replace(arch.decoder, cross_span=(1,) * arch.decoder.num_layers))
    space = replace(space, decoder=replace(space.decoder, cross_span_choice=(1,)))
    sub, model, largest = extract(random_model(space, cfg), arch), random_model(space, cfg), space.largest()
    implant(model, sub)
    expected = sub(SOURCE, TARGET)
    torch.testing.assert_close(model(SOURCE, TARGET, arch), expected, rtol=1e-9, atol=1e-9)
    kept = {dim: arch[dim] + largest[dim][len(arch[dim]) :] for dim in DIMS if dim.per_layer}
    kept |= {dim: arch[dim] for dim in DIMS if dim.attr == "embed_dim"}
    deep = Arch.of({dim: kept.get(dim, largest[dim]) for dim in DIMS})
    torch.testing.assert_close(model(SOURCE, TARGET, deep), expected, rtol=1e-9, atol=1e-9)
    for layer, theirs in zip(sub.encoder_layers, model.encoder_layers, strict=False):
        # narrower slices keep the units that count most
        norms = layer.ffn.up.weight.norm(dim=1) * layer.ffn.down.weight.norm(dim=0)
        assert torch.equal(theirs.ffn.up.bias[0], layer.ffn.up.bias[int(norms.argmax())])


@settings(max_examples=20)
@given(spaces_with_archs())
def test_a_sub_is_a_copy_of_exactly_its_size(pair: tuple[SearchSpace, Arch]) -> None:
    space, arch = pair
    model = random_model(space, ModelConfig())
    sub = extract(model, arch)
    before = sub(SOURCE, TARGET)
    assert torch.equal(model(SOURCE, TARGET), model(SOURCE, TARGET, space.largest()))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert torch.equal(sub(SOURCE, TARGET), before)
    assert extract(sub, arch).state_dict().keys() == sub.state_dict().keys()
    with pytest.raises(ArchError):
        extract(sub, replace(arch, encoder=replace(arch.encoder, embed_dim=999)))


@pytest.mark.parametrize("cfg", CONFIGS, ids=NAMES)
@settings(max_examples=8)
@given(st.data())
def test_names_are_unique_and_sizes_follow_the_closed_form(cfg: ModelConfig, data: st.DataObject) -> None:
    space, arch = data.draw(spaces_with_archs(one_width=cfg.share_all_embeddings))
    sub = extract(random_model(space, cfg), arch)
    named, unique = list(sub.named_parameters(remove_duplicate=False)), dict(sub.named_parameters())
    assert len({weight.data_ptr() for weight in unique.values()}) == len(unique)
    enc, dec = arch.encoder.embed_dim, arch.decoder.embed_dim
    embeddings, copies = 11 * enc + 26 * dec, 1
    if cfg.share_all_embeddings:
        embeddings, copies = 11 * max(enc, dec), 3
    elif cfg.share_decoder_input_output_embed:
        embeddings, copies = 11 * enc + 13 * dec, 2
    assert len(named) - len(unique) == copies - 1
    end_norms = 2 * (enc + dec) if cfg.encoder_normalize_before else 0
    total = sum(weight.numel() for weight in unique.values())
    assert total == count_params(arch, space) + embeddings + end_norms


def test_sharing_needs_one_dictionary_and_one_width() -> None:
    space = SearchSpace(
        EncoderSpace(8, 8, 1, (8,), (8,), (1,), (1,)),
        DecoderSpace(6, 8, 1, (6,), (8,), (1,), (1,), (1,), (1,)),
        8,
    )
    shared = ModelConfig(share_all_embeddings=True)
    for sizes in ((11, 13), 11):
        with pytest.raises(ConfigError, match=r"a joint dictionary .* equal widths, got 11 .* .8, 6."):
            SuperTransformer(space, sizes, shared)
