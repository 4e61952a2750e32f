"""Draw architectures uniformly, choice by choice, at random or in turn."""

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


def draw_arch(space: SearchSpace, seed: int, number: int) -> Arch:
    """Return the SubTransformer of draw `number`; with one draw for each update that is the update.

    A pure function, so all ranks and all resumes agree.
    """
    return sample(space, rng_for(seed, "arch", number))


def draw_fair_arch(space: SearchSpace, seed: int, number: int) -> Arch:
    """Return the SubTransformer of draw `number`, each choice of each dimension equally often.

    Any run of n draws that starts at a multiple of n holds each of n widths or encoder depths once, in
    random order. Dimensions that exist at some depths only take turns among the draws of these depths, so
    that each size of each layer gets its share of those (strict fairness of FairNAS, 2019, for a space whose
    choices depend on each other). A pure function, as `draw_arch`.
    """

    def turn(choice: tuple[int, ...], count: int, *dimension: object) -> int:
        """Return the choice of the `count`-th draw that asks for this dimension."""
        order = list(choice)
        rng_for(seed, "fair", *dimension, count // len(order)).shuffle(order)
        return order[count % len(order)]

    enc, dec = space.encoder, space.decoder
    num_enc = turn(enc.layers_choice, number, "encoder layers")
    # each depth is drawn once in each block, so the block's number counts the draws of any one depth
    of_depth = number // len(enc.layers_choice)
    num_dec = turn(dec.layers_choice, of_depth, "decoder layers", num_enc)
    of_depths = of_depth // len(dec.layers_choice)

    def layers(choice: tuple[int, ...], times: int, name: str) -> tuple[int, ...]:
        return tuple(turn(choice, of_depths, name, num_enc, num_dec, layer) for layer in range(times))

    return Arch(
        EncoderArch(
            turn(enc.embed_choice, number, "encoder embed"),
            layers(enc.ffn_choice, num_enc, "encoder ffn"),
            layers(enc.self_heads_choice, num_enc, "encoder self heads"),
        ),
        DecoderArch(
            turn(dec.embed_choice, number, "decoder embed"),
            layers(dec.ffn_choice, num_dec, "decoder ffn"),
            layers(dec.self_heads_choice, num_dec, "decoder self heads"),
            layers(dec.cross_heads_choice, num_dec, "decoder cross heads"),
            layers(space.spans_for(num_enc), num_dec, "decoder cross span"),
        ),
    )
