"""hat space: how many architectures a search space holds, and how large they are."""

import json
from collections.abc import Sequence

from hat.cli.options import OutputOptions, command, only
from hat.cli.settings import parse_settings, space_and_arch
from hat.model.count import count_params
from hat.space import ArchOptions, SpaceOptions


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Count the architectures of a search space, by dimension and by numbers of layers."""
    (settings,) = parse_settings(
        argv,
        prog="hat space",
        description=main.__doc__ or "",
        config_flags=("--configs", "--sub-configs"),
        used=(SpaceOptions, ArchOptions, only(OutputOptions, "json")),
    )
    space, _ = space_and_arch(settings.space, settings.arch)
    params: dict[str, int] = {
        name: count_params(getattr(space, name)(), space) for name in ("smallest", "largest")
    }
    print(f"{space.size():,} architectures\n\n{'dimension':46}{'choices':>20}  different settings")
    for dim, count in space.sizes_by_dim().items():
        shown = f"{dim.side} {dim.text.partition(':')[0]}{', each layer' if dim.per_layer else ''}"
        choices = ", ".join(str(dim.encode(value)) for value in dict.fromkeys(space[dim]))
        print(f"{shown:46}{choices:>20}  {count:,}")
    print("\nencoder layers  decoder layers  architectures")
    by_depth = space.sizes_by_depth()
    for (encoder, decoder), count in by_depth.items():
        print(f"{encoder:14}  {decoder:14}  {count:,}")
    sizes = ", ".join(f"{name} {count:,}" for name, count in params.items())
    print(f"\n#Params of the layers, without embeddings and output matrix: {sizes}")
    if settings.output.json:
        depths = [[*depth, count] for depth, count in space.sizes_by_depth().items()]
        dims = {dim.choice_key: count for dim, count in space.sizes_by_dim().items()}
        print(
            json.dumps(
                {"architectures": space.size(), "by_layers": depths, "by_dimension": dims, "params": params}
            )
        )
    return 0
