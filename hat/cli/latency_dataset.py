"""latency_dataset.py: measure random SubTransformers of a space on this device, one CSV row each."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hat.cli.options import OutputOptions, command, only, without
from hat.cli.profile import measuring
from hat.cli.settings import (
    DeviceOptions,
    ProfileOptions,
    TaskOptions,
    parse_settings,
    profile_sizes,
    space_and_arch,
)
from hat.config import Options, option, to_yaml_values
from hat.errors import ConfigError
from hat.latency.collect import collect
from hat.model.layers import ModelConfig
from hat.space import SpaceOptions

_MODEL = """share_all_embeddings share_decoder_input_output_embed encoder_normalize_before
decoder_normalize_before max_source_positions max_target_positions"""


@dataclass(frozen=True)
class DatasetOptions(Options):
    """Latency dataset"""

    lat_dataset_path: str | None = None
    """CSV file to write; existing rows stay and count"""
    lat_dataset_size: int = option(200, low=1)
    """rows wanted"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Collect rows until the file has as many as wanted; see --help."""
    options = parsed(argv)
    found = run(options)
    if options[0].output.json:
        print(json.dumps(found))
    return 0


def parsed(argv: Sequence[str] | None) -> tuple[Any, ...]:
    """Return the settings and the options of the table."""
    return parse_settings(
        argv,
        DatasetOptions,
        prog="latency_dataset.py",
        description="Measure the latency of random SubTransformers on this device.",
        config_flags=("--configs",),
        used=(
            SpaceOptions,
            only(TaskOptions, "arch", "data", "source_lang", "target_lang", "vocab_size", "profile_length"),
            only(ModelConfig, *_MODEL.split()),
            only(DeviceOptions, "gpu", "threads", "seed"),
            without(ProfileOptions, "profile_flops"),
            OutputOptions,
        ),
    )


def run(options: tuple[Any, ...], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Collect rows, tell the user, and return what came out."""
    settings, data = options
    quiet = settings.output.no_progress_bar or settings.profile.latsilent
    if not data.lat_dataset_path:
        raise ConfigError("--lat-dataset-path is needed: the CSV file to write")
    cfg, device = measuring(settings)
    table = collect(
        space_and_arch(settings.space, settings.arch)[0],
        data.lat_dataset_size,
        vocab_sizes=profile_sizes(settings.task),
        config=cfg,
        model_config=settings.model,
        out=data.lat_dataset_path,
        device=device,
        seed=settings.device.seed,
        progress=not quiet and sys.stderr.isatty(),
        settings=to_yaml_values(data, *settings),
    )
    print(
        f"{table.path}: {len(table)} rows, {table.new_rows} new in {table.seconds:.0f} s, {table.unstable} "
        f"of them unsettled, machine drift at the end {table.drift_percent:+.1f}%"
    )
    found = {"lat_dataset_path": str(table.path), "rows": len(table), "new_rows": table.new_rows}
    found |= {"unstable": table.unstable, "seconds": round(table.seconds, 2)}
    return found | {"drift_percent": round(table.drift_percent, 2)}
