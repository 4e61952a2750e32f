"""scripts/make_release_configs.py: what is written from the table of released models.

One YAML for each SubTransformer, and the table of all models in README.md.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import OutputOptions, command, parse
from hat.errors import ConfigError
from hat.files.atomic import write_text_atomic
from hat.files.released import TABLE, ReleasedModel, released_models
from hat.space import Arch, ArchOptions, arch_of

BEGIN = "<!-- models: written by scripts/make_release_configs.py --readme=README.md -->"
END = "<!-- end of models -->"


@dataclass(frozen=True)
class ReleaseConfigOptions:
    """What to write"""

    to: str = str(TABLE.parent)
    """folder of the task folders"""
    readme: str | None = None
    """file whose table of models, between two comments, is written anew"""


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
    readme = None if options.readme is None else _with_table(Path(options.readme))
    for path, text in files.items():
        write_text_atomic(Path(options.to) / path, text)
    print(f"{options.to}: {len(files)} architectures written")
    if options.readme is not None and readme is not None:
        write_text_atomic(Path(options.readme), readme)
        print(f"{options.readme}: table of models written")
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


def markdown_table(models: Sequence[ReleasedModel]) -> str:
    """Return the table of all models: the SubTransformers with their figures, then the SuperTransformers."""
    lines = [
        "| task | device | latency | #Params | FLOPs | BLEU | SacreBLEU | model |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for m in sorted(models, key=lambda model: model.is_super):
        figures = (
            ["any (SuperTransformer)", *[""] * 5]
            if m.is_super
            else [
                m.hardware,
                m.latency,
                f"{m.params_m:.2f} M",
                f"{m.flops_g:.2f} G",
                f"{m.bleu:.1f}",
                f"{m.sacrebleu:.1f}",
            ]
        )
        lines.append(f"| {' | '.join([m.task_name, *figures, f'[`{m.model_name}`]({m.url})'])} |")
    return "\n".join(lines) + "\n"


def _with_table(path: Path) -> str:
    """Return the text of a file with a new table between its two comments; ConfigError without them."""
    try:
        before, begin, rest = path.read_text("utf-8").partition(f"{BEGIN}\n")
        _, end, after = rest.partition(END)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error}); give a text file as --readme") from error
    if not (begin and end):
        raise ConfigError(f"{path} lacks the lines {BEGIN} and {END}; put them where the table belongs")
    return f"{before}{begin}{markdown_table(released_models())}{end}{after}"


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
        *(f"{key}: {value}" for key, value in released_arch(model).to_yaml().items()),
    ]
    return "\n".join(lines) + "\n"
