"""Independent random streams named by their purpose, so nothing depends on the order of draws elsewhere."""

import hashlib
import random


def seed_for(seed: int, *stream: object) -> int:
    """Return a 63-bit seed for one named purpose, for example `seed_for(cfg.seed, "dropout", update)`. The
    same arguments give the same number on every machine and Python version.
    """
    digest = hashlib.sha256(f"{seed}:{stream!r}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def rng_for(seed: int, *stream: object) -> random.Random:
    """Return an independent generator for one purpose, for example `rng_for(cfg.seed, "arch", update)`."""
    return random.Random(seed_for(seed, *stream))
