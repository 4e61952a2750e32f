"""Random small search spaces, architectures and models for property tests."""

import random

import torch
from hypothesis import strategies as st

from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import Arch, DecoderArch, DecoderSpace, EncoderArch, EncoderSpace, SearchSpace


def subset(draw: st.DrawFn, values: range | tuple[int, ...], largest: int | None = None) -> tuple[int, ...]:
    """Return a non-empty tuple of distinct values, in any order; `largest` is always in it."""
    chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True))
    if largest is not None and largest not in chosen:
        chosen.append(largest)
    return tuple(chosen)


@st.composite
def spaces(draw: st.DrawFn, *, one_width: bool = False) -> SearchSpace:
    """Return a space of tiny sizes: unequal widths unless `one_width`, any qkv-dim, every kind of choice."""
    qkv = draw(st.sampled_from((4, 6, 8, 12)))
    heads = tuple(n for n in range(1, 5) if qkv % n == 0)
    widths = [draw(st.integers(4, 14)) for _ in range(2)]
    if one_width:
        widths[1] = widths[0]
    ffns = [draw(st.integers(2, 16)) for _ in range(2)]
    depths = [draw(st.integers(1, 4)) for _ in range(2)]
    layers = subset(draw, range(1, depths[0] + 1))
    shallowest = draw(st.integers(1, min(3, min(layers))))
    embeds = [subset(draw, range(2, width + 1)) for width in widths]
    ffn_choices = [subset(draw, range(1, ffn + 1)) for ffn in ffns]
    encoder = EncoderSpace(
        widths[0], ffns[0], depths[0], embeds[0], ffn_choices[0], layers, subset(draw, heads)
    )
    decoder_layers, spans = subset(draw, range(1, depths[1] + 1)), subset(draw, (1, 2, 3), shallowest)
    decoder_heads = subset(draw, heads), subset(draw, heads)
    decoder = DecoderSpace(
        widths[1], ffns[1], depths[1], embeds[1], ffn_choices[1], decoder_layers, *decoder_heads, spans
    )
    return SearchSpace(encoder, decoder, qkv)


@st.composite
def archs(draw: st.DrawFn, space: SearchSpace) -> Arch:
    """Return any architecture of `space`, drawn without the sampler under test."""
    # a seeded generator instead of a draw for each layer: faster, and the example stays small
    rng = random.Random(draw(st.integers(0, 1 << 20)))
    enc, dec = space.encoder, space.decoder
    num_enc, num_dec = rng.choice(enc.layers_choice), rng.choice(dec.layers_choice)
    spans = [span for span in dec.cross_span_choice if span <= num_enc]

    def layers(choice: tuple[int, ...] | list[int], count: int) -> tuple[int, ...]:
        return tuple(rng.choice(choice) for _ in range(count))

    def side(space: EncoderSpace, count: int) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        heads = layers(space.self_heads_choice, count)
        return rng.choice(space.embed_choice), layers(space.ffn_choice, count), heads

    cross = layers(dec.cross_heads_choice, num_dec), layers(spans, num_dec)
    return Arch(EncoderArch(*side(enc, num_enc)), DecoderArch(*side(dec, num_dec), *cross))


@st.composite
def spaces_with_archs(draw: st.DrawFn, *, one_width: bool = False) -> tuple[SearchSpace, Arch]:
    """Return a space and one of its architectures."""
    space = draw(spaces(one_width=one_width))
    return space, draw(archs(space))


def random_model(space: SearchSpace, cfg: ModelConfig, sizes: tuple[int, int] = (11, 13)) -> SuperTransformer:
    """Return a float64 model in which no bias is 0 and no norm weight 1, so that no slice goes unnoticed."""
    model = SuperTransformer(space, (11, 11) if cfg.share_all_embeddings else sizes, cfg).double()
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise, dtype=torch.float64) * 0.4)
    return model
