"""A space whose models take no time."""

import pytest

from hat.space import DecoderSpace, EncoderSpace, SearchSpace


@pytest.fixture
def tiny_space() -> SearchSpace:
    """Return three layers at most, of 16 columns at most."""
    return SearchSpace(
        EncoderSpace(16, 24, 3, (16, 12), (24, 8), (3, 2), (4, 2)),
        DecoderSpace(16, 24, 2, (16, 12), (24, 8), (2, 1), (4, 2), (4, 2), (1, 2, 3)),
        qkv_dim=8,
    )
