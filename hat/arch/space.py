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
    """All SubTransformers of one SuperTransformer.

    `qkv_dim` is the total width of all heads, the same in each layer; `decoder_qkv` that of the decoder, also
    where it attends to the encoder, if it is another. Raises ArchError where a choice is empty, exceeds
    its super size, or gives heads that do not divide that width.
    """

    encoder: EncoderSpace
    decoder: DecoderSpace
    qkv_dim: int
    decoder_qkv: int | None = None

    def __post_init__(self) -> None:
        if self.decoder_qkv == self.qkv_dim:
            object.__setattr__(self, "decoder_qkv", None)  # equal spaces are written alike
        choices, sizes = self.choices, self.sizes
        for side in ("encoder", "decoder"):
            for what, limit in (("embed", "embed-dim"), ("ffn-embed-dim",) * 2, ("layer-num", "layers")):
                key, limit_key = f"{side}-{what}-choice", f"{side}-{limit}"
                _check_choice(key, choices[key], sizes[limit_key], limit_key)
        for key, choice in self._heads().items():
            width = self.qkv_dim if key.startswith("encoder") else self.decoder_qkv_dim
            _check_choice(key, choice, width, "qkv-dim")
            for heads in choice:
                if width % heads:
                    raise ArchError(
                        f"{key}: {heads} heads do not divide qkv-dim {width}; choose divisors of it, or "
                        "another qkv-dim"
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

    @property
    def decoder_qkv_dim(self) -> int:
        """Return the total width of all heads of a decoder's attention."""
        return self.decoder_qkv or self.qkv_dim

    @property
    def sizes(self) -> dict[str, int]:
        """Return the sizes of the SuperTransformer, by their keys."""
        return {
            "encoder-embed-dim": self.encoder.super_embed_dim,
            "encoder-ffn-embed-dim": self.encoder.super_ffn_dim,
            "encoder-layers": self.encoder.super_layers,
            "decoder-embed-dim": self.decoder.super_embed_dim,
            "decoder-ffn-embed-dim": self.decoder.super_ffn_dim,
            "decoder-layers": self.decoder.super_layers,
            "qkv-dim": self.qkv_dim,
            "qkv-dim of the decoder": self.decoder_qkv_dim,
        }

    @property
    def choices(self) -> dict[str, tuple[int, ...]]:
        """Return what SubTransformers choose from, by the keys of the choices; spans as numbers of layers."""
        return {
            "encoder-embed-choice": self.encoder.embed_choice,
            "encoder-ffn-embed-dim-choice": self.encoder.ffn_choice,
            "encoder-layer-num-choice": self.encoder.layers_choice,
            "decoder-embed-choice": self.decoder.embed_choice,
            "decoder-ffn-embed-dim-choice": self.decoder.ffn_choice,
            "decoder-layer-num-choice": self.decoder.layers_choice,
            **self._heads(),
            "decoder-arbitrary-ende-attn-choice": self.decoder.cross_span_choice,
        }

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
