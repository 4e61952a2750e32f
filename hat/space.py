"""Architectures and search spaces, all made of the table `DIMS` (docs/extending.md). No torch here."""

import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from itertools import islice, product
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

from hat.config import fill, option, read_config
from hat.errors import ArchError, ConfigError
from hat.rng import rng_for

Gene = tuple[int, ...]
SIDES = ("encoder", "decoder")
QKV = {"encoder": "qkv-dim", "decoder": "qkv-dim of the decoder"}  # total width of all heads
_SIZES = {"embed-dim": "super_embed_dim", "ffn-embed-dim": "super_ffn_dim", "layers": "super_layers"}


@dataclass(frozen=True)
class Dim:
    """One elastic dimension of one side; its values are whole numbers from 1 to `limit` (a number, or the key
    of a super size, then the default of a choice). An `added` one may be left out: it is 1 then.
    """

    side: str  # "encoder" or "decoder"
    attr: str  # field or property of EncoderArch or DecoderArch
    key: str  # stem of the YAML keys
    limit: str | int
    text: str  # in the plural, for help and documentation
    codes: Mapping[int, int] | None = field(default=None, hash=False)  # number in YAML files: value
    added: bool = False

    @property
    def per_layer(self) -> bool:
        """Whether each layer has its own value."""
        return self.attr not in ("embed_dim", "num_layers")

    @property
    def label(self) -> str:
        """Name in messages, such as "encoder ffn dim"."""
        return f"{self.side} {self.attr.removeprefix('num_').replace('_dims', '_dim').replace('_', ' ')}"

    @property
    def choice_attr(self) -> str:
        """Field of EncoderSpace or DecoderSpace that holds the choice, such as "ffn_choice"."""
        return f"{self.attr.removeprefix('num_').removesuffix('_dims').removesuffix('_dim')}_choice"

    @property
    def arch_key(self) -> str:
        """YAML key of its values in an architecture."""
        return f"{self.key}-all-subtransformer" if self.per_layer else f"{self.key}-subtransformer"

    @property
    def choice_key(self) -> str:
        """YAML key of its choice in a space."""
        return f"{self.key.removesuffix('-dim') if self.attr == 'embed_dim' else self.key}-choice"

    def decode(self, codes: tuple[int, ...], key: str) -> tuple[int, ...]:
        """Return the values that `codes` stand for in a YAML file; raises ArchError naming `key`."""
        if self.codes and (wrong := set(codes) - set(self.codes)):
            meaning = "-1, 1 and 2 (the last one, two or three encoder layers)"
            raise ArchError(f"{key} allows {meaning}, got {min(wrong)}")
        return tuple(self.codes[code] for code in codes) if self.codes else codes

    def encode(self, value: int) -> int:
        """Return the number that stands for `value` in a YAML file."""
        return next(code for code, v in self.codes.items() if v == value) if self.codes else value


def _dims(side: str) -> tuple[Dim, ...]:
    rows = [  # in the order of genes and features of the 2020 release
        Dim(side, "embed_dim", f"{side}-embed-dim", f"{side}-embed-dim", "widths"),
        Dim(side, "num_layers", f"{side}-layer-num", f"{side}-layers", "depths"),
        Dim(side, "ffn_dims", f"{side}-ffn-embed-dim", f"{side}-ffn-embed-dim", "FFN widths"),
        Dim(side, "self_heads", f"{side}-self-attention-heads", QKV[side], "self-attention head counts"),
    ]
    if side == "decoder":
        text = "attention spans: -1 the last encoder layer, 1 the last two, 2 the last three"
        codes = {-1: 1, 1: 2, 2: 3}  # the release counts the *extra* encoder layers, with -1 for none
        key = "decoder-ende-attention-heads"
        rows += [
            Dim(side, "cross_heads", key, QKV[side], "cross-attention head counts"),
            Dim(side, "cross_span", "decoder-arbitrary-ende-attn", 3, text, codes),
        ]
    return tuple(rows)


DIMS = tuple(dim for side in SIDES for dim in _dims(side))


@dataclass(frozen=True)
class EncoderArch:
    """One encoder; every tuple has one positive whole number per layer, first layer first, else ArchError."""

    embed_dim: int
    ffn_dims: tuple[int, ...]
    self_heads: tuple[int, ...]

    def __post_init__(self) -> None:
        name, lengths = type(self).__name__, dict[str, int]()
        for f in fields(self):
            if (value := getattr(self, f.name)) == () == f.default:  # an added dimension
                object.__setattr__(self, f.name, value := (1,) * self.num_layers)
            numbers = value if isinstance(value, tuple) else (value,)
            lengths |= {f.name: len(value)} if isinstance(value, tuple) else {}
            if not numbers or any(type(n) is not int or n < 1 for n in numbers):
                what = "must hold positive whole numbers, one per layer"
                raise ArchError(f"{name}.{f.name} {what}, got {value!r}")
        if len(set(lengths.values())) != 1:
            raise ArchError(f"per-layer lists of {name} must have equal length, got {lengths}")

    @property
    def num_layers(self) -> int:
        """Depth."""
        return len(self.ffn_dims)


@dataclass(frozen=True)
class DecoderArch(EncoderArch):
    """One decoder: what an encoder has, and the attention of each layer to the encoder."""

    cross_heads: tuple[int, ...]
    cross_span: tuple[int, ...]  # how many last encoder layers are attended to: 1, 2 or 3


@dataclass(frozen=True)
class Arch:
    """One SubTransformer (HAT 2020, 3.1). Raises ArchError for a span beyond the layers of the encoder."""

    encoder: EncoderArch
    decoder: DecoderArch

    def __post_init__(self) -> None:
        deepest, layers = max(self.decoder.cross_span), self.encoder.num_layers
        if deepest > layers:
            what = f"a decoder layer attends to the last {deepest} encoder layers of {layers}"
            raise ArchError(f"{what}; lower decoder-arbitrary-ende-attn or deepen the encoder")

    def __getitem__(self, dim: Dim) -> tuple[int, ...]:
        """Return the values of a dimension, one for each layer; a width or a depth alone in its tuple."""
        value = getattr(getattr(self, dim.side), dim.attr)
        return value if dim.per_layer else (value,)

    @classmethod
    def of(cls, values: Mapping[Dim, tuple[int, ...]]) -> "Arch":
        """Return the architecture of arch[dim] == values[dim]; ArchError for lists of other lengths."""
        sides: dict[str, dict[str, Any]] = {side: {} for side in SIDES}
        for dim, value in values.items():
            sides[dim.side][dim.attr] = value if dim.per_layer else value[0]
        depth = {side: parts.pop("num_layers") for side, parts in sides.items()}
        for dim, value in values.items():
            if dim.per_layer and len(value) != depth[dim.side]:
                what = f"{dim.arch_key} lists {len(value)} layers, but the depth is {depth[dim.side]}"
                raise ArchError(f"{what}; give one entry per layer")
        return cls(EncoderArch(**sides["encoder"]), DecoderArch(**sides["decoder"]))

    @classmethod
    def from_yaml(cls, source: str | Path | Mapping[str, Any]) -> "Arch":
        """Return the architecture of ten *-subtransformer keys of a YAML file or mapping, else ArchError."""
        if (arch := arch_of(_options(ArchOptions, source))) is None:
            raise ArchError("no *-subtransformer key found; the file describes no architecture")
        return arch

    def to_yaml(self) -> dict[str, int | list[int]]:
        """Return the release's *-subtransformer keys and their values, in the release's order."""
        order = ("embed_dim", "ffn_dims", "num_layers", "self_heads")
        dims = sorted(DIMS, key=lambda dim: (*order, dim.attr).index(dim.attr))
        values = {dim: [dim.encode(value) for value in self[dim]] for dim in dims}
        return {dim.arch_key: v if dim.per_layer else v[0] for dim, v in values.items()}


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
class DecoderSpace(EncoderSpace):
    """Super sizes of the decoder and what each SubTransformer may choose."""

    cross_heads_choice: tuple[int, ...]
    cross_span_choice: tuple[int, ...]


Pick = Callable[[Dim, tuple[int, ...], int], int]  # dimension, values it allows, layer -> one of the values


@dataclass(frozen=True)
class SearchSpace:
    """All SubTransformers of one SuperTransformer; `qkv_dim` is the width of all heads of a layer together,
    `decoder_qkv` the decoder's if another. ArchError for a choice that cannot be, such as 3 heads of 512.
    """

    encoder: EncoderSpace
    decoder: DecoderSpace
    qkv_dim: int
    decoder_qkv: int | None = None

    def __post_init__(self) -> None:
        if self.decoder_qkv == self.qkv_dim:
            object.__setattr__(self, "decoder_qkv", None)  # equal spaces are written alike
        for dim in DIMS:
            key, choice, see = dim.choice_key, self[dim], f" (see {dim.limit})"
            limit, see = (dim.limit, "") if isinstance(dim.limit, int) else (self.sizes[dim.limit], see)
            if not choice or any(type(value) is not int or not 1 <= value <= limit for value in choice):
                raise ArchError(f"{key} must hold whole numbers from 1 to {limit}{see}, got {list(choice)}")
            if dim.limit in QKV.values() and (wrong := [heads for heads in choice if limit % heads]):
                raise ArchError(f"{key}: {wrong[0]} heads do not divide {dim.limit} {limit}; choose divisors")
        spans, shallowest = self.decoder.cross_span_choice, min(self.encoder.layers_choice)
        if min(spans) > shallowest:
            what = f"every choice of decoder-arbitrary-ende-attn-choice needs at least {min(spans)}"
            raise ArchError(f"the shallowest encoder has {shallowest} layers, but {what}; add -1 to it")

    def __getitem__(self, dim: Dim) -> tuple[int, ...]:
        """Return the choice of a dimension, spans as numbers of layers."""
        return tuple(getattr(getattr(self, dim.side), dim.choice_attr))

    @classmethod
    def from_yaml(cls, source: str | Path | Mapping[str, Any]) -> "SearchSpace":
        """Return the space of a YAML file, or a mapping with its keys, as in configs/*/supertransformer. A
        choice left out holds the super size alone, or, if the file gives an architecture, what that uses.
        Other keys are ignored. Raises ArchError for values that contradict each other.
        """
        return space_of(_options(SpaceOptions, source), arch_of(_options(ArchOptions, source)))

    @property
    def decoder_qkv_dim(self) -> int:
        """Total width of all heads of a decoder's attention."""
        return self.decoder_qkv or self.qkv_dim

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the SuperTransformer, by their YAML keys."""
        sides = {f"{s}-{key}": getattr(getattr(self, s), attr) for s in SIDES for key, attr in _SIZES.items()}
        return {**sides, QKV["encoder"]: self.qkv_dim, QKV["decoder"]: self.decoder_qkv_dim}

    @property
    def choices(self) -> dict[str, list[int]]:
        """Choices of all dimensions, by their YAML keys."""
        return {dim.choice_key: [dim.encode(value) for value in self[dim]] for dim in DIMS}

    def allowed(self, dim: Dim, encoder_layers: int) -> tuple[int, ...]:
        """Return the choice of a dimension, of spans those that an encoder of this depth can serve."""
        return tuple(n for n in self[dim] if n <= encoder_layers or dim.attr != "cross_span")

    def build(self, pick: Pick) -> Arch:
        """Return what `pick` chooses: of the encoder, then the decoder the depth, then DIMS by layer."""
        values, depth = dict[Dim, tuple[int, ...]](), dict[str, int]()
        for dim in _DEPTH_FIRST:
            allowed = self.allowed(dim, depth.get("encoder", 0))
            layers = depth[dim.side] if dim.per_layer else 1
            values[dim] = tuple(pick(dim, allowed, layer) for layer in range(layers))
            if dim.attr == "num_layers":
                depth[dim.side] = values[dim][0]
        return Arch.of(values)

    def largest(self) -> Arch:
        """Return the SubTransformer with every choice at its maximum."""
        return self.build(lambda dim, allowed, layer: max(allowed))

    def smallest(self) -> Arch:
        """Return the SubTransformer with every choice at its minimum."""
        return self.build(lambda dim, allowed, layer: min(allowed))

    def size(self) -> int:
        """Return how many different SubTransformers the space has."""
        return sum(self.sizes_by_depth().values())

    def sizes_by_depth(self) -> dict[tuple[int, int], int]:
        """Return how many SubTransformers have so many encoder and decoder layers, the deepest first."""
        found, sized = dict[tuple[int, int], int](), [dim for dim in DIMS if dim.attr != "num_layers"]
        depths = (sorted(set(side.layers_choice), reverse=True) for side in (self.encoder, self.decoder))
        for encoder, decoder in product(*depths):
            layers = {"encoder": encoder, "decoder": decoder}
            counts = {dim: len(set(self.allowed(dim, encoder))) for dim in sized}
            powers = (n ** (layers[dim.side] if dim.per_layer else 1) for dim, n in counts.items())
            found[encoder, decoder] = prod(powers)
        return found

    def sizes_by_dim(self) -> dict[Dim, int]:
        """Return how many different settings each dimension has, over all depths of its side."""
        found = {}
        for dim in DIMS:
            count = len(set(self.allowed(dim, max(self.encoder.layers_choice))))
            depths = set(getattr(self, dim.side).layers_choice) if dim.per_layer else {1}
            found[dim] = sum(count**depth for depth in depths)
        return found

    def check(self, arch: Arch) -> Arch:
        """Return `arch` if every value is one of the choices; raises ArchError naming the first other."""
        for dim in sorted(DIMS, key=lambda dim: dim.per_layer):
            for layer, value in enumerate(arch[dim]):
                if value not in self[dim]:
                    place = f"{dim.label} at layer {layer}" if dim.per_layer else dim.label
                    allowed = ", ".join(map(str, sorted(set(self[dim]))))
                    what = f"{value} is not in the space {{{allowed}}}; see {dim.choice_key}"
                    raise ArchError(f"{place}: {what}")
        return arch


def space_from_plain(values: Mapping[str, Any]) -> SearchSpace:
    """Return the space whose `asdict` is `values`; older files have one qkv-dim for both sides."""
    plain = dict[str, dict[str, Any]]()
    for side in SIDES:
        plain[side] = {key: tuple(v) if isinstance(v, list) else v for key, v in values[side].items()}
    sides = EncoderSpace(**plain["encoder"]), DecoderSpace(**plain["decoder"])
    return SearchSpace(*sides, values["qkv_dim"], values.get("decoder_qkv"))


def sample(space: SearchSpace, rng: random.Random) -> Arch:
    """Return one SubTransformer; each dimension of each layer is drawn independently (HAT 2020, 3.2)."""

    def pick(dim: Dim, allowed: tuple[int, ...], layer: int) -> int:
        # a dimension added later leaves the random numbers of spaces that do not use it as they were
        return allowed[0] if dim.added and len(allowed) == 1 else rng.choice(allowed)

    return space.build(pick)


def draw_arch(space: SearchSpace, seed: int, number: int) -> Arch:
    """Return the SubTransformer of draw `number`: a pure function, so all ranks and all resumes agree."""
    return sample(space, rng_for(seed, "arch", number))


def draw_fair_arch(space: SearchSpace, seed: int, number: int) -> Arch:
    """Return the SubTransformer of draw `number`, each choice equally often (FairNAS, 2019); a pure function.
    Any n draws from a multiple of n on hold each of n widths or encoder depths once, in random order. What
    exists at some depths only takes turns among the draws of these depths.
    """

    def turn(dim: Dim, allowed: tuple[int, ...], count: int, *where: int) -> int:
        order = list(allowed)
        rng_for(seed, "fair", dim.label.removesuffix(" dim"), *where, count // len(order)).shuffle(order)
        return order[count % len(order)]

    enc, dec = (dim for dim in DIMS if dim.attr == "num_layers")
    # each depth is drawn once in each block, so the block's number counts the draws of any one depth
    num_enc, of_depth = turn(enc, space[enc], number), number // len(space[enc])
    num_dec, of_depths = turn(dec, space[dec], of_depth, num_enc), of_depth // len(space[dec])

    def pick(dim: Dim, allowed: tuple[int, ...], layer: int) -> int:
        if dim.per_layer:
            return turn(dim, allowed, of_depths, num_enc, num_dec, layer)
        return {enc: num_enc, dec: num_dec}.get(dim) or turn(dim, allowed, number)

    return space.build(pick)


def validation_archs(space: SearchSpace) -> dict[str, Arch]:
    """Return the largest and the smallest SubTransformer, with span 2 if the space has it (HAT 2020)."""

    def pick_by(of: Callable[[tuple[int, ...]], int]) -> Pick:
        return lambda dim, allowed, _: 2 if dim.attr == "cross_span" and 2 in allowed else of(allowed)

    return {name: space.build(pick_by(of)) for name, of in (("largest", max), ("smallest", min))}


def _positions(space: SearchSpace, dim: Dim) -> int:
    return int(getattr(space, dim.side).super_layers) if dim.per_layer else 1


def gene_choices(space: SearchSpace) -> list[tuple[int, ...]]:
    """Return what each gene position may hold, in the order of DIMS; layers are all super layers."""
    return [space[dim] for dim in DIMS for _ in range(_positions(space, dim))]


def gene_of(arch: Arch, space: SearchSpace) -> Gene:
    """Return a gene of `arch`; positions of layers that it does not have hold the first choice."""
    unused = {dim: space[dim][:1] * (_positions(space, dim) - len(arch[dim])) for dim in DIMS}
    return tuple(n for dim in DIMS for n in arch[dim] + unused[dim])


def arch_of_gene(gene: Gene, space: SearchSpace) -> Arch:
    """Return the architecture of a gene; a span deeper than the encoder becomes the deepest one that fits."""
    numbers = iter(gene)
    values = {dim: tuple(islice(numbers, _positions(space, dim))) for dim in DIMS}

    def pick(dim: Dim, allowed: tuple[int, ...], layer: int) -> int:
        value = values[dim][layer]
        return min(value, max(allowed)) if dim.attr == "cross_span" else value

    return space.build(pick)


_PER_LAYER = tuple(dim for dim in DIMS if dim.per_layer)
# in the order of `features` and of `layer_features`
FEATURE_NAMES = tuple(dim.key.replace("-", "_") + ("_avg" if dim.per_layer else "") for dim in DIMS)
LAYER_FEATURE_NAMES = (
    *FEATURE_NAMES,
    *(f"{dim.key.replace('-', '_')}_square_avg" for dim in _PER_LAYER),
    "decoder_ende_attention_heads_times_arbitrary_avg",
)


def features(arch: Arch) -> list[float]:
    """Return what the predictor of 2020 sees: widths, depths, and means over layers (of spans: 1 to 3)."""
    return [fmean(arch[dim]) for dim in DIMS]


def layer_features(arch: Arch) -> list[float]:
    """Return the features, then means over layers of each layer's squares, and of its heads times its span.
    Squares tell layers of 512 and 1536 from two of 1024: a cost need not be linear in the sizes of a layer.
    """
    squares = [fmean(value * value for value in arch[dim]) for dim in _PER_LAYER]
    products = map(operator.mul, arch.decoder.cross_heads, arch.decoder.cross_span)
    return [*features(arch), *squares, fmean(products)]


def layer_columns(arch: Arch, space: SearchSpace) -> list[float]:
    """Return one row of a regression on what each layer holds, equally long for all architectures of a space.
    Of each side: width, a flag for each super layer (1.0 if it is used), and for each per-layer dimension its
    values and their sum. An unused layer holds the mean of the others, so only its flag has an effect.
    """
    row: list[float] = []
    for dim in DIMS:
        values, depth = arch[dim], getattr(arch, dim.side).num_layers
        unused = getattr(space, dim.side).super_layers - depth
        if dim.attr == "num_layers":
            row += [1.0] * depth + [0.0] * unused
        else:
            typical = fmean(values)
            row += [*map(float, values), *[typical] * unused, typical * depth][: None if dim.per_layer else 1]
    return row


_DEPTH_FIRST = sorted(DIMS, key=lambda dim: (dim.side == "decoder", dim.attr != "num_layers"))


def _field(key: str, default: Any, text: str) -> tuple[str, Any, Any]:
    kind = tuple[int, ...] if default == () else int if default else int | None
    return key.replace("-", "_"), kind, option(default, help=text)


_SIZE_OPTIONS = (
    ("embed-dim", 512, "width of the SuperTransformer's {}"),
    ("ffn-embed-dim", 2048, "FFN width of the SuperTransformer's {}"),
    ("layers", 6, "{} layers of the SuperTransformer"),
    ("attention-heads", 8, "{} heads if their choice is not given"),
)
_SPACE_FIELDS = [
    *(_field(f"{s}-{key}", size, text.format(s)) for s in SIDES for key, size, text in _SIZE_OPTIONS),
    _field("qkv-dim", None, "total width of all heads of one attention (default: width of the side)"),
    *(_field(dim.choice_key, (), f"choice of {dim.side} {dim.text}") for dim in DIMS),
]
_ARCH_FIELDS = [
    _field(dim.arch_key, *((), f"{text}, one for each layer") if dim.per_layer else (None, text[:-1]))
    for dim in DIMS
    for text in [f"{dim.side} {dim.text}"]
]


class SpaceOptions(make_dataclass("_SpaceFields", _SPACE_FIELDS, frozen=True)):  # type: ignore[misc]
    """Search space. A choice left out holds the super size alone, or, if an architecture is given, what that
    uses."""


class ArchOptions(make_dataclass("_ArchFields", _ARCH_FIELDS, frozen=True)):  # type: ignore[misc]
    """One SubTransformer; lists have one entry per layer used."""


def space_of(options: SpaceOptions, arch: Arch | None = None) -> SearchSpace:
    """Return the space of the options; a choice left out holds what `arch` uses, or the super size alone."""
    given = _by_key(options)
    sides = {side: {attr: given[f"{side}-{key}"] for key, attr in _SIZES.items()} for side in SIDES}
    for dim in DIMS:
        size = f"{dim.side}-attention-heads" if dim.limit in QKV.values() else dim.limit
        alone = [1 if isinstance(size, int) else given[size]]
        left_out = sorted(set(arch[dim]), reverse=True) if arch else alone
        choice = dim.decode(given[dim.choice_key], dim.choice_key)
        sides[dim.side][dim.choice_attr] = choice or tuple(left_out)
    qkv, widths = given["qkv-dim"], [given[f"{side}-embed-dim"] for side in SIDES]
    qkv_dims = widths if qkv is None else [qkv]
    return SearchSpace(EncoderSpace(**sides["encoder"]), DecoderSpace(**sides["decoder"]), *qkv_dims)


def arch_of(options: ArchOptions) -> Arch | None:
    """Return the architecture of the options, None if there is none; raises ArchError if it is not whole."""
    values = _by_key(options)
    given = {dim: value for dim in DIMS if (value := values[dim.arch_key]) not in (None, ())}
    if not given:
        return None
    if lacks := ", ".join(dim.arch_key for dim in DIMS if dim not in given and not dim.added):
        raise ArchError(f"the architecture lacks {lacks}; give all ten *-subtransformer keys or none")
    codes = {dim: value if dim.per_layer else (value,) for dim, value in given.items()}
    return Arch.of({dim: dim.decode(value, dim.arch_key) for dim, value in codes.items()})


def _by_key(options: Any) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in vars(options).items()}


def _options(group: Any, source: str | Path | Mapping[str, Any]) -> Any:
    try:
        return fill(group, source if isinstance(source, Mapping) else read_config(source))
    except ConfigError as error:
        raise ArchError(str(error)) from error
