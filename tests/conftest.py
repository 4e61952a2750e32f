"""Makes `tests/strategies.py` importable; property tests repeat, and do not fail slow machines."""

from hypothesis import settings

settings.register_profile("hat", deadline=None, derandomize=True)  # a run repeats the one before
settings.load_profile("hat")
