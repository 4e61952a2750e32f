"""The search space: sizes of the SuperTransformer and the choices of its SubTransformers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hat.arch.config import Arch, DecoderArch, EncoderArch
from hat.errors import ArchError


@dataclass(frozen=True)
class EncoderSpace:
    """Super sizes of the encoder and what each SubTransformer may choose."""

    super_embed_dim: int
    super_ffn_dim: int
    super_layers: int
    embed_choice: tuple[int, ...]
    ffn_choice: tuple[int, ...]
    layers_choice: tuple[int, ...]
    self_heads_choice: tuple[int, ...]


@dataclass(frozen=True)
class DecoderSpace:
    """Super sizes of the decoder and what each SubTransformer may choose."""

    super_embed_dim: int
    super_ffn_dim: int
    super_layers: int
    embed_choice: tuple[int, ...]
    ffn_choice: tuple[int, ...]
    layers_choice: tuple[int, ...]
    self_heads_choice: tuple[int, ...]
    cross_heads_choice: tuple[int, ...]
    cross_span_choice: tuple[int, ...]


@dataclass(frozen=True)
class SearchSpace:
    """All SubTransformers of one SuperTransformer; `qkv_dim` is the total width of all heads, the same in
    each layer.

    Raises ArchError where a choice is empty, exceeds its super size, or gives heads that do not divide
    `qkv_dim`.
    """

    encoder: EncoderSpace
    decoder: DecoderSpace
    qkv_dim: int

    def __post_init__(self) -> None:
        for side, stack in (("encoder", self.encoder), ("decoder", self.decoder)):
            limits = {
                f"{side}-embed-choice": (stack.embed_choice, stack.super_embed_dim, f"{side}-embed-dim"),
                f"{side}-ffn-embed-dim-choice": (
                    stack.ffn_choice,
                    stack.super_ffn_dim,
                    f"{side}-ffn-embed-dim",
                ),
                f"{side}-layer-num-choice": (stack.layers_choice, stack.super_layers, f"{side}-layers"),
            }
            for key, (choice, limit, limit_key) in limits.items():
                _check_choice(key, choice, limit, limit_key)
        for key, choice in self._heads().items():
            _check_choice(key, choice, self.qkv_dim, "qkv-dim")
            for heads in choice:
                if self.qkv_dim % heads:
                    raise ArchError(
                        f"{key}: {heads} heads do not divide qkv-dim {self.qkv_dim}; choose divisors of it, "
                        f"or another qkv-dim"
                    )
        spans = self.decoder.cross_span_choice
        if not spans or any(span not in (1, 2, 3) for span in spans):
            raise ArchError(
                f"decoder-arbitrary-ende-attn-choice allows -1, 1 and 2 (the last one, two or three encoder "
                f"layers), got spans {spans}"
            )
        if min(spans) > min(self.encoder.layers_choice):
            raise ArchError(
                f"the shallowest encoder has {min(self.encoder.layers_choice)} layers, but every choice of "
                f"decoder-arbitrary-ende-attn-choice needs at least {min(spans)}; add -1 to it"
            )

    def _heads(self) -> dict[str, tuple[int, ...]]:
        return {
            "encoder-self-attention-heads-choice": self.encoder.self_heads_choice,
            "decoder-self-attention-heads-choice": self.decoder.self_heads_choice,
            "decoder-ende-attention-heads-choice": self.decoder.cross_heads_choice,
        }

    def spans_for(self, encoder_layers: int) -> tuple[int, ...]:
        """Return the span choices an encoder of this depth can serve."""
        return tuple(span for span in self.decoder.cross_span_choice if span <= encoder_layers)

    def largest(self) -> Arch:
        """Return the SubTransformer with every choice at its maximum."""
        return self._uniform(max)

    def smallest(self) -> Arch:
        """Return the SubTransformer with every choice at its minimum."""
        return self._uniform(min)

    def _uniform(self, pick: Callable[[tuple[int, ...]], int]) -> Arch:
        enc, dec = self.encoder, self.decoder
        num_enc, num_dec = pick(enc.layers_choice), pick(dec.layers_choice)
        return Arch(
            EncoderArch(
                pick(enc.embed_choice),
                (pick(enc.ffn_choice),) * num_enc,
                (pick(enc.self_heads_choice),) * num_enc,
            ),
            DecoderArch(
                pick(dec.embed_choice),
                (pick(dec.ffn_choice),) * num_dec,
                (pick(dec.self_heads_choice),) * num_dec,
                (pick(dec.cross_heads_choice),) * num_dec,
                (pick(self.spans_for(num_enc)),) * num_dec,
            ),
        )

    def check(self, arch: Arch) -> Arch:
        """Return `arch` if every value is one of the choices.

        Raises ArchError naming the first that is not.
        """
        enc, dec = arch.encoder, arch.decoder
        _check_member("encoder embed dim", enc.embed_dim, self.encoder.embed_choice, "encoder-embed-choice")
        _check_member(
            "encoder layers", enc.num_layers, self.encoder.layers_choice, "encoder-layer-num-choice"
        )
        _check_member("decoder embed dim", dec.embed_dim, self.decoder.embed_choice, "decoder-embed-choice")
        _check_member(
            "decoder layers", dec.num_layers, self.decoder.layers_choice, "decoder-layer-num-choice"
        )
        heads = self._heads()
        per_layer = (
            ("encoder ffn dim", enc.ffn_dims, self.encoder.ffn_choice, "encoder-ffn-embed-dim-choice"),
            ("encoder self heads", enc.self_heads, None, "encoder-self-attention-heads-choice"),
            ("decoder ffn dim", dec.ffn_dims, self.decoder.ffn_choice, "decoder-ffn-embed-dim-choice"),
            ("decoder self heads", dec.self_heads, None, "decoder-self-attention-heads-choice"),
            ("decoder cross heads", dec.cross_heads, None, "decoder-ende-attention-heads-choice"),
            (
                "decoder cross span",
                dec.cross_span,
                self.decoder.cross_span_choice,
                "decoder-arbitrary-ende-attn-choice",
            ),
        )
        for what, values, choice, key in per_layer:
            for layer, value in enumerate(values):
                _check_member(f"{what} at layer {layer}", value, choice or heads[key], key)
        return arch


def validation_archs(space: SearchSpace) -> dict[str, Arch]:
    """Return the largest and the smallest SubTransformer, both attending to two encoder layers where they
    can.

    HAT 2020 validates these two, with span 2 throughout; where the space has no span 2 its own extremes
    stand.
    """
    archs = {}
    for name, arch in (("largest", space.largest()), ("smallest", space.smallest())):
        dec = arch.decoder
        span = dec.cross_span if 2 not in space.spans_for(arch.encoder.num_layers) else (2,) * dec.num_layers
        archs[name] = Arch(
            arch.encoder, DecoderArch(dec.embed_dim, dec.ffn_dims, dec.self_heads, dec.cross_heads, span)
        )
    return archs


def _check_choice(key: str, choice: Iterable[int], limit: int, limit_key: str) -> None:
    values = tuple(choice)
    if not values or any(type(value) is not int or value < 1 or value > limit for value in values):
        raise ArchError(
            f"{key} must hold whole numbers from 1 to {limit} (see {limit_key}), got {list(values)}"
        )


def _check_member(what: str, value: int, choice: tuple[int, ...], key: str) -> None:
    if value not in choice:
        allowed = "{" + ", ".join(str(c) for c in sorted(set(choice))) + "}"
        raise ArchError(f"{what}: {value} is not in the space {allowed}; see {key}")
