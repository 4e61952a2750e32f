"""Rows of an invented device whose latency adds up layer by layer."""

import math
import random

from hat.latency.table import Row, row_of
from hat.space import Arch, DecoderArch, EncoderArch


def draw_arch(rng: random.Random) -> Arch:
    depth = rng.randint(1, 6)
    pick = [
        tuple(rng.choice(c) for _ in range(depth)) for c in ((1024, 2048, 3072), (4, 8), (4, 8), (1, 2, 3))
    ]
    encoder = EncoderArch(rng.choice((512, 640)), tuple(rng.choices((1024, 2048), k=6)), (8,) * 6)
    return Arch(encoder, DecoderArch(rng.choice((512, 640)), *pick))


def true_ms(arch: Arch) -> float:
    """An additive latency: a part for the encoder and one for each decoder layer."""
    enc, dec = arch.encoder, arch.decoder
    layers = zip(dec.ffn_dims, dec.self_heads, dec.cross_heads, dec.cross_span, strict=True)
    per_layer = [8 + dec.embed_dim / 160 + f / 1024 + s / 8 + c / 8 + a / 2 for f, s, c, a in layers]
    return 3 + enc.embed_dim * sum(enc.ffn_dims) / 4e6 + sum(per_layer)


def rows_of(count: int, seed: int = 0, noise: float = 0.0) -> list[Row]:
    rng = random.Random(seed)
    rows = []
    for n in range(count):
        arch = draw_arch(rng)
        ms = true_ms(arch) * math.exp(rng.gauss(0, noise))
        rows.append(row_of(arch, (0.2 * ms, 0.1), (0.8 * ms, 0.1), {"device": "toy", "iterations": n}))
    return rows
