"""Independent random streams named by their purpose, so nothing depends on the order of draws elsewhere."""

import hashlib
import random


def seed_for(seed: int, *stream: object) -> int:
    """Return a 63-bit seed for one purpose, such as `(seed, "dropout", update)`, the same everywhere."""
    digest = hashlib.sha256(f"{seed}:{stream!r}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def rng_for(seed: int, *stream: object) -> random.Random:
    """Return an independent generator for one purpose, for example `rng_for(cfg.seed, "arch", update)`."""
    return random.Random(seed_for(seed, *stream))
