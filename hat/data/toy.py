"""Seeded English-German sentence pairs for trying the whole toolkit in minutes."""

from pathlib import Path

from hat.data.toy_numbers import date_pair, number_pair, umlauts
from hat.data.toy_sentences import description_pair, sentence_pair
from hat.errors import ConfigError
from hat.files.atomic import write_text_atomic
from hat.rng import rng_for

MAKERS = (number_pair, date_pair, description_pair, description_pair, *[sentence_pair] * 5)
MAX_PAIRS = 200_000  # far below the number of sentences that the grammar has


def toy_pairs(seed: int, count: int) -> list[tuple[str, str]]:
    """Return `count` pairs; no English and no German sentence occurs twice.

    The first n pairs of a larger count are those of count n. Raises ConfigError beyond 200,000 pairs.
    """
    if not 0 <= count <= MAX_PAIRS:
        raise ConfigError(f"cannot make {count} toy pairs; 0 to {MAX_PAIRS} are allowed; ask for fewer")
    rng = rng_for(seed, "toy")
    pairs: dict[str, str] = {}
    taken: set[str] = set()
    while len(pairs) < count:
        english, german = map(umlauts, rng.choice(MAKERS)(rng))
        if english not in pairs and german not in taken:
            pairs[english] = german
            taken.add(german)
    return list(pairs.items())


def write_toy(
    folder: Path | str, seed: int = 1, train: int = 19_000, valid: int = 500, test: int = 500
) -> dict[str, int]:
    """Write {train,valid,test}.{en,de} and return the number of pairs of each split.

    The splits share no English and no German sentence. Raises ConfigError for a negative or too large size.
    """
    sizes = {"train": train, "valid": valid, "test": test}
    for split, size in sizes.items():
        if size < 0:
            raise ConfigError(f"--{split} {size}: 0 or more pairs are allowed; see make_toy_data.py --help")
    pairs, start = toy_pairs(seed, sum(sizes.values())), 0
    for split, size in sizes.items():
        for side, lang in enumerate(("en", "de")):
            lines = (pair[side] + "\n" for pair in pairs[start : start + size])
            write_text_atomic(Path(folder) / f"{split}.{lang}", "".join(lines))
        start += size
    return sizes
