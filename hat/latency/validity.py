"""What a latency table and its predictor are valid for, and whether something else lies within that.

The conditions stand in the columns of a table; those that all rows share go with the predictor.
"""

import json
from collections.abc import Iterable, Mapping

from hat.errors import ConfigError
from hat.log import info
from hat.space import DIMS, SearchSpace

OF_MODEL = ["space", "qkv_dim", "vocab_size", "source_len", "target_len", "beam"]
OF_DEVICE = ["device", "threads", "dtype", "torch", "runtime", "estimate", "anchor", "reference_ms"]
SHARED = [*OF_MODEL, *OF_DEVICE]  # by all rows of a table; the other conditions are of a single row
MINOR = ("torch", "estimate")  # what else changes a latency by little
VOCABULARY_PERCENT = 5.0  # sizes that differ by less change a latency by little
_DIMS = {dim.choice_key for dim in DIMS}
_AGAIN = "measure a table for this with latency_dataset.py, and train a predictor on it"


def conditions_of_space(space: SearchSpace, vocab_size: int) -> dict[str, str]:
    """Return the conditions of a table that are those of a task; the space as JSON."""
    choices = {dim.choice_key: sorted(set(space[dim])) for dim in DIMS}
    text = json.dumps(choices, separators=(",", ":"))
    return {"space": text, "qkv_dim": str(space.qkv_dim), "vocab_size": str(vocab_size)}


def described(conditions: Mapping[str, str]) -> dict[str, str]:
    """Return conditions with one entry for each dimension of the space, such as `4, 8`."""
    known = dict(conditions)
    choices = json.loads(known.pop("space", "{}"))
    if "source_len" in known:  # older tables hold one length
        known.setdefault("target_len", known["source_len"])
    return known | {key: ", ".join(map(str, values)) for key, values in choices.items()}


def differences(held: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return the conditions of `held` that `here` are others, such as `beam 5, here it is 2`."""
    old, new = described(held), described(here)
    return [
        f"{name} {old[name]}, here it is {value}"
        for name, value in new.items()
        if old.get(name, value) != value
    ]


def check_one_table(rows: Iterable[Mapping[str, str]]) -> None:
    """Raise ConfigError if rows with these conditions were not measured alike."""
    first: Mapping[str, str] = {}
    for number, conditions in enumerate(rows, 1):
        shared = {name: conditions.get(name, "unknown") for name in SHARED if name != "space"}
        shared |= {"space": conditions["space"]} if "space" in conditions else {}
        first = first or shared
        if found := differences(first, shared):
            what = found[0].replace("here it", f"that of row {number}")
            raise ConfigError(
                f"the first row of the table was measured with {what}; keep such rows in tables of their "
                "own, or give --mixed to learn from all of them"
            )


def check_valid(of: str, conditions: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Check that a predictor or table holds for something else, whose conditions are `here`.

    Raises ConfigError naming both values if not. What changes little, and what is not known of files of
    2020 and of version 0.1, is said in one line.
    """
    old, new = described(conditions), described(here)
    unknown = sorted(set(new) - set(old) - _DIMS) + ["the search space"] * bool(_DIMS & set(new) - set(old))
    if unknown:
        info(f"{of} does not say what it is valid for, which could not be checked: {', '.join(unknown)}")
    for name in [name for name in new if name in old]:
        held, value = old[name], new[name]
        text = f"{of} is valid for {name} {held}, here it is {value}"
        little = name in MINOR or name == "vocab_size" and _percent(held, value) <= VOCABULARY_PERCENT
        within = name in _DIMS and set(value.split(", ")) <= set(held.split(", "))
        if held == value or within:
            continue
        if not little:
            raise ConfigError(f"{text}; {_AGAIN}")
        info(f"{text}, which changes latencies by little")


def _percent(held: str, value: str) -> float:
    """Return how far two numbers lie apart, in percent of the first."""
    return 100 * abs(int(value) / int(held) - 1)
