"""Errors a user can cause. Each message says what failed, the value, what is allowed and what to do."""

import difflib
from collections.abc import Iterable


class HatError(Exception):
    """Base of all errors that are the input's fault.

    Commands print it without a traceback and exit with 2.
    """


class ConfigError(HatError):
    """An option or YAML key is unknown, missing or has a value that is not allowed."""


class ArchError(HatError):
    """An architecture or search space contradicts itself, or an architecture is outside its space."""


class DataError(HatError):
    """A data file is missing, damaged or does not fit the others."""


class CheckpointError(HatError):
    """A checkpoint or predictor file is missing, damaged or belongs to another model."""


class TrainingError(HatError):
    """Training cannot go on, for example because the loss is not finite."""


class RankError(HatError):
    """Another process of the same run died or does not answer."""


class Infeasible(HatError):
    """No architecture of the space meets the constraint."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' for the nearest known name, or an empty string when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def brief(value: object, limit: int = 200) -> str:
    """Return the text of `value` for a message: what a file holds may be long or move the cursor."""
    return ascii(str(value))[1:-1][:limit]


def install(extra: str) -> str:
    """Return the command that installs the packages of one of the extras in setup.py."""
    return f"pip install 'hardware-aware-transformers[{extra}]'"
