"""Drawn architectures are in the space and depend on seed and update alone."""

import hashlib
import random
import subprocess
import sys
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from strategies import spaces

from hat.rng import rng_for, seed_for
from hat.space import DecoderSpace, EncoderSpace, SearchSpace, draw_arch, sample

SPACE = SearchSpace(
    EncoderSpace(8, 16, 3, (8, 4), (16, 8), (3, 2, 1), (4, 2)),
    DecoderSpace(8, 16, 3, (8, 4), (16, 8), (3, 2, 1), (4, 2), (4, 2), (1, 2, 3)),
    8,
)


@given(spaces(), st.integers(0, 1 << 32))
def test_samples_pass_the_check(space: SearchSpace, seed: int) -> None:
    space.check(sample(space, random.Random(seed)))


@given(spaces(), st.integers(0, 100), st.integers(0, 10_000))
def test_draws_are_pure_functions_of_seed_and_update(space: SearchSpace, seed: int, update: int) -> None:
    random.seed(0)
    first = draw_arch(space, seed, update)
    random.random()
    draw_arch(space, seed, update + 1)
    assert draw_arch(space, seed, update) == first


def test_seeds_and_updates_give_different_draws() -> None:
    draws = {draw_arch(SPACE, seed, update) for seed in range(20) for update in range(20)}
    assert len(draws) > 350  # the space has far more members


def test_draws_agree_between_processes() -> None:
    code = "from hat.rng import seed_for; print(seed_for(7, 'arch', 3), seed_for(7, 'arch', '3'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [int(word) for word in done.stdout.split()] == [seed_for(7, "arch", 3), seed_for(7, "arch", "3")]
    # a change of the stream would break every resume of older runs
    by_hand = int.from_bytes(hashlib.sha256(b"7:('arch', 3)").digest()[:8], "little") // 2
    assert seed_for(7, "arch", 3) == by_hand
    streams = [(7, "arch", 3), (7, "arch", "3"), (8, "arch", 3), (7, "arch"), (7, "a", 3)]
    assert len({seed_for(*stream) for stream in streams}) == len(streams)
    assert (
        len({seed_for(7, "arch", 3), seed_for(7, "arch", "3"), seed_for(8, "arch", 3), seed_for(7, "a")}) == 4
    )
    assert rng_for(7, "x").random() == rng_for(7, "x").random() != rng_for(7, "y").random()


def test_every_choice_is_drawn_uniformly() -> None:
    draws = [draw_arch(SPACE, 1, update) for update in range(3000)]
    for values, expected in (
        (Counter(arch.encoder.num_layers for arch in draws), 1000),
        (Counter(arch.decoder.embed_dim for arch in draws), 1500),
        (Counter(arch.decoder.cross_heads[0] for arch in draws), 1500),
        (Counter(a.decoder.cross_span[0] for a in draws if a.encoder.num_layers == 3), 333),
    ):
        assert len(values) > 1
        assert all(abs(count - expected) < 5 * expected**0.5 for count in values.values()), values
