"""What a front must beat: random architectures, and a grid of depths with everything else at its largest."""

from collections.abc import Iterator

from hat.rng import rng_for
from hat.search.limits import Gate
from hat.search.pool import Score
from hat.space import Arch, DecoderArch, EncoderArch, SearchSpace, sample


def random_archs(
    space: SearchSpace, latency_ms: Score, gate: Gate, seed: int, *, max_tries: int = 1000
) -> Iterator[Arch]:
    """Yield distinct random architectures that keep the limits, until `max_tries` draws in a row fail."""
    seen: set[Arch] = set()
    draw = failures = 0
    while failures < max_tries:
        arch = sample(space, rng_for(seed, "random search", draw))
        draw += 1
        if arch in seen or not gate([arch], latency_ms([arch]))[0]:
            failures += 1
            continue
        seen.add(arch)
        failures = 0
        yield arch


def depth_grid(space: SearchSpace, latency_ms: Score, gate: Gate) -> list[Arch]:
    """Return the architectures within the limits that differ from the largest in their depths only."""
    top = space.largest()
    enc, dec = top.encoder, top.decoder
    archs = []
    for layers in sorted(set(space.encoder.layers_choice), reverse=True):
        for depth in sorted(set(space.decoder.layers_choice), reverse=True):
            span = min(dec.cross_span[0], max(space.spans_for(layers)))
            encoder = EncoderArch(enc.embed_dim, enc.ffn_dims[:layers], enc.self_heads[:layers])
            heads = dec.self_heads[:depth], dec.cross_heads[:depth]
            archs.append(
                Arch(encoder, DecoderArch(dec.embed_dim, dec.ffn_dims[:depth], *heads, (span,) * depth))
            )
    return [arch for arch, fits in zip(archs, gate(archs, latency_ms(archs)), strict=True) if fits]
