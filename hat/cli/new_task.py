"""hat new-task: a task folder for another language pair, made of two texts."""

import re
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import OutputOptions, parse, takes
from hat.config import Options, option, read_config, to_yaml_values
from hat.data.corpora import hold_out, line_pairs
from hat.data.subwords import check_pieces
from hat.data.text import write_rows
from hat.errors import ConfigError
from hat.files.atomic import write_text_atomic
from hat.space import SpaceOptions, space_of

HARDWARE = "cpu"  # the device files that are taken over


@dataclass(frozen=True)
class NewTaskOptions(Options):
    """New task"""

    name: str
    """name of the task, <name>.<source language>-<target language>, for example mine.en-fr"""
    source: str = option(role="free")
    """text in the source language, one sentence a line"""
    target: str = option(role="free")
    """its translation, line by line"""
    template: str
    """task folder in configs/ that recipes are taken from"""
    held_out: int = option(500, low=1)
    """sentences set aside for validation, and as many for the test"""
    pieces: int = option(8000, low=1)
    """pieces of the joint sentencepiece model"""
    length: int = option(20, low=1)
    """tokens of source and target at which latency is measured"""
    space: str | None = None
    """YAML file with another search space (default: that of the template)"""
    seed: int = 1
    """seed of the split"""


@takes("hat new-task", NewTaskOptions, OutputOptions)
def new_task(options: NewTaskOptions, out: OutputOptions) -> dict:
    """Make a task folder of two texts: configs/<name>/ and data/raw/<name>/."""
    match = re.fullmatch(r"([A-Za-z0-9_]+)\.([A-Za-z0-9_]+)-([A-Za-z0-9_]+)", options.name)
    if not match or match[2] == match[3]:
        raise ConfigError(
            f"--name {options.name!r} is not <name>.<source>-<target> with two languages, as mine.en-fr"
        )
    folder = Path("configs") / options.name
    if folder.exists():
        raise ConfigError(f"{folder} exists already; choose another --name or remove the folder")
    texts = _texts(Path("configs") / options.template, options, match)
    pairs, count = line_pairs((Path(options.source), Path(options.target))), options.held_out
    splits = hold_out(pairs, count, count, options.seed, "--held-out")
    check_pieces((line for pair in splits["train"] for line in pair), options.pieces, "--pieces")
    for split, chosen in splits.items():
        write_rows([Path(f"data/raw/{options.name}/{split}.{lang}") for lang in match.groups()[1:]], chosen)
    for path, text in texts.items():
        write_text_atomic(folder / path, text)
    print(f"made {folder} with {len(texts)} files; next: bash scripts/run_task.sh {options.name} {HARDWARE}")
    return {"folder": folder, "files": sorted(map(str, texts))}


def _texts(template: Path, options: NewTaskOptions, name: re.Match) -> dict[Path, str]:
    """Return the files of the new folder: those of the template for one device, with the new names."""
    evo = sorted((template / "evo_search").glob(f"*_{HARDWARE}.yml"))
    super_yml = sorted((template / "supertransformer").glob("*.yml"))[:1]  # one space is enough
    data = read_config(super_yml[0]).get("data") if super_yml else None
    if len(evo) != 1 or data is None:
        raise ConfigError(
            f"{template} cannot serve as a template: it needs supertransformer/*.yml with a data key and one "
            f"evo_search/*_{HARDWARE}.yml; choose another --template"
        )
    old_prefix = evo[0].stem.removesuffix(f"_{HARDWARE}")
    slug, prefix = "_".join(name.groups()), "".join(name.groups()).replace("_", "").lower()
    renames = {old_prefix: prefix, Path(str(data)).name: slug, template.name: str(options.name)}
    space_text = _space_text(options.space) if options.space else None
    texts = {}
    for path in (
        *super_yml,
        evo[0],
        *sorted(template.glob("*.sh")),
        template / "subtransformer/common.yml",
        template / f"latency_dataset/{HARDWARE}.yml",
        template / f"latency_predictor/{HARDWARE}.yml",
    ):
        text = path.read_text("utf-8")
        for old, new in renames.items():
            text = text.replace(old, new)
        text = re.sub(r"(?m)^profile-length: .*$", f"profile-length: {options.length}", text)
        if space_text and "# SuperTransformer\n" in text:  # sizes and choices, two paragraphs, are replaced
            shared = "" if "share-decoder" in space_text else "share-all-embeddings: True\n"
            text = text.replace("share-all-embeddings: True\n", shared)
            before, _, after = text.partition("# SuperTransformer\n")
            text = before + space_text + "\n" + "".join(after.split("\n\n", 2)[2:])
        texts[Path(str(path.relative_to(template)).replace(old_prefix, prefix))] = text
    texts[Path("preprocess.sh")] = _preprocess_script(options, name)
    return texts


def _space_text(path: str) -> str:
    """Return the space file as the lines of a configuration, after checking it."""
    flags = {"prog": "hat new-task --space", "description": "", "config_flags": ("--configs",)}
    (space,) = parse([f"--configs={path}"], SpaceOptions, **flags)
    space_of(space)
    lines = [f"{key}: {value}" for key, value in to_yaml_values(space).items()]
    if space.encoder_embed_dim != space.decoder_embed_dim:  # cannot share all embeddings
        lines.insert(0, "share-decoder-input-output-embed: True")
    return "# SuperTransformer\n\n# Search space\n" + "\n".join(lines) + "\n"


def _preprocess_script(options: NewTaskOptions, name: re.Match) -> str:
    slug, (source, target) = "_".join(name.groups()), name.groups()[1:]
    return f"""#!/usr/bin/env bash
# data/raw/{options.name} -> data/binary/{slug}; work that is up to date is skipped
set -euo pipefail

usage() {{
    echo "usage: bash configs/{options.name}/preprocess.sh [folder with train.{source}, train.{target}, ...]"
}}

raw=$(realpath -m -- "${{1:-.}}")
src={source} tgt={target} work=data/text/{slug} binary=data/binary/{slug}
# shellcheck source=scripts/steps.sh
. "$(dirname "${{BASH_SOURCE[0]}}")/../../scripts/steps.sh"
begin 1 "$@"
count_workers "${{WORKERS:-1}}"
if [ $# -eq 0 ]; then raw=data/raw/{options.name}; fi
pieces {options.pieces} "$raw"/{{train,valid,test}}
"""
