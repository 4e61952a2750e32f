"""Makes `tests/strategies.py` importable and keeps slow machines from failing a property test."""

from hypothesis import settings

settings.register_profile("hat", deadline=None)
settings.load_profile("hat")
