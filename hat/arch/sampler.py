"""Draw architectures uniformly, choice by choice."""

import random

from hat.arch.config import Arch, DecoderArch, EncoderArch
from hat.arch.space import SearchSpace
from hat.rng import rng_for


def sample(space: SearchSpace, rng: random.Random) -> Arch:
    """Return one SubTransformer.

    Each dimension of each layer is drawn independently (HAT 2020, section 3.2).
    """

    def draw(choice: tuple[int, ...], times: int) -> tuple[int, ...]:
        return tuple(rng.choice(choice) for _ in range(times))

    enc, dec = space.encoder, space.decoder
    num_enc = rng.choice(enc.layers_choice)
    encoder = EncoderArch(
        rng.choice(enc.embed_choice), draw(enc.ffn_choice, num_enc), draw(enc.self_heads_choice, num_enc)
    )
    num_dec = rng.choice(dec.layers_choice)
    decoder = DecoderArch(
        rng.choice(dec.embed_choice),
        draw(dec.ffn_choice, num_dec),
        draw(dec.self_heads_choice, num_dec),
        draw(dec.cross_heads_choice, num_dec),
        draw(space.spans_for(num_enc), num_dec),
    )
    return Arch(encoder, decoder)


def draw_arch(space: SearchSpace, seed: int, update: int) -> Arch:
    """Return the SubTransformer trained at one update.

    A pure function, so all ranks and all resumes agree.
    """
    return sample(space, rng_for(seed, "arch", update))
