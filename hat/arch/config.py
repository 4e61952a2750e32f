"""One architecture as a frozen value.

Depth is derived from the per-layer tuples, so it cannot contradict them.
"""

from dataclasses import dataclass, fields

from hat.errors import ArchError


class _Layered:
    """Checks shared by both stacks: whole positive numbers, per-layer tuples of one length."""

    def __post_init__(self) -> None:
        lengths = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if isinstance(value, tuple):
                lengths[f.name] = len(value)
            if not numbers or any(type(n) is not int or n < 1 for n in numbers):
                raise ArchError(
                    f"{type(self).__name__}.{f.name} must hold positive whole numbers, one per layer, got "
                    f"{value!r}"
                )
        if len(set(lengths.values())) != 1:
            raise ArchError(f"per-layer lists of {type(self).__name__} must have equal length, got {lengths}")


@dataclass(frozen=True)
class EncoderArch(_Layered):
    """One encoder; every tuple has one entry per layer, first layer first."""

    embed_dim: int
    ffn_dims: tuple[int, ...]
    self_heads: tuple[int, ...]

    @property
    def num_layers(self) -> int:
        """Depth."""
        return len(self.ffn_dims)


@dataclass(frozen=True)
class DecoderArch(_Layered):
    """One decoder; every tuple has one entry per layer, first layer first."""

    embed_dim: int
    ffn_dims: tuple[int, ...]
    self_heads: tuple[int, ...]
    cross_heads: tuple[int, ...]
    cross_span: tuple[int, ...]  # how many last encoder layers are attended to: 1, 2 or 3

    @property
    def num_layers(self) -> int:
        """Depth."""
        return len(self.ffn_dims)


@dataclass(frozen=True)
class Arch:
    """One SubTransformer (HAT 2020, section 3.1).

    What the search chooses and a stand-alone model is built from.
    """

    encoder: EncoderArch
    decoder: DecoderArch

    def __post_init__(self) -> None:
        deepest = max(self.decoder.cross_span)
        if deepest > self.encoder.num_layers:
            raise ArchError(
                f"a decoder layer attends to the last {deepest} encoder layers, but the encoder has "
                f"{self.encoder.num_layers}; lower decoder-arbitrary-ende-attn or deepen the encoder"
            )
