"""scripts/make_release_configs.py: one YAML for each released SubTransformer, from the table of models."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.arch.codec import ArchOptions, arch_of, arch_to_yaml
from hat.arch.config import Arch
from hat.cli.options import OutputOptions, command, parse
from hat.files.atomic import write_text_atomic
from hat.files.released import TABLE, ReleasedModel, released_models


@dataclass(frozen=True)
class ReleaseConfigOptions:
    """What to write"""

    to: str = str(TABLE.parent)
    """folder of the task folders"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the files; see --help."""
    options, out = parse(
        argv,
        ReleaseConfigOptions,
        OutputOptions,
        prog="make_release_configs.py",
        description="Write <task>/subtransformer/<model>.yml for each released SubTransformer.",
    )
    files = release_configs(released_models())
    for path, text in files.items():
        write_text_atomic(Path(options.to) / path, text)
    print(f"{options.to}: {len(files)} architectures written")
    if out.json:
        print(json.dumps({"files": [str(Path(options.to) / path) for path in files]}))
    return 0


def release_configs(models: Sequence[ReleasedModel]) -> dict[Path, str]:
    """Return the content of every architecture file by its path below configs/."""
    return {
        Path(model.task_name, "subtransformer", f"{model.model_name}.yml"): _text(model)
        for model in models
        if not model.is_super
    }


def released_arch(model: ReleasedModel) -> Arch:
    """Return the architecture of a released SubTransformer; ArchError where its row contradicts itself."""
    arch = arch_of(
        ArchOptions(
            encoder_embed_dim_subtransformer=model.encoder_embed_dim,
            encoder_ffn_embed_dim_all_subtransformer=model.encoder_ffn_embed_dim,
            encoder_layer_num_subtransformer=model.encoder_layer_num,
            encoder_self_attention_heads_all_subtransformer=model.encoder_self_attention_heads,
            decoder_embed_dim_subtransformer=model.decoder_embed_dim,
            decoder_ffn_embed_dim_all_subtransformer=model.decoder_ffn_embed_dim,
            decoder_layer_num_subtransformer=model.decoder_layer_num,
            decoder_self_attention_heads_all_subtransformer=model.decoder_self_attention_heads,
            decoder_ende_attention_heads_all_subtransformer=model.decoder_ende_attention_heads,
            decoder_arbitrary_ende_attn_all_subtransformer=model.decoder_arbitrary_ende_attn,
        )
    )
    assert arch is not None  # a SuperTransformer has none
    return arch


def _text(model: ReleasedModel) -> str:
    lines = [
        f"# {model.latency} on {model.hardware}, {model.params_m:.2f} M parameters, {model.flops_g:.2f} G "
        f"FLOPs, BLEU {model.bleu:.1f}, SacreBLEU {model.sacrebleu:.1f}",
        "# written by scripts/make_release_configs.py",
        *(f"{key}: {value}" for key, value in arch_to_yaml(released_arch(model)).items()),
    ]
    return "\n".join(lines) + "\n"
