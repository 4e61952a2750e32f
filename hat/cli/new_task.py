"""scripts/new_task.py: a task folder for another language pair, from two text files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.arch.codec import SpaceOptions, space_of
from hat.cli.options import OutputOptions, command, parse, to_yaml_values
from hat.data.text import read_lines
from hat.errors import ConfigError, DataError
from hat.files.atomic import write_text_atomic
from hat.rng import rng_for

TEMPLATE = "toy.en-de"


@dataclass(frozen=True)
class NewTaskOptions:
    """New task"""

    name: str | None = None
    """name of the task, <name>.<source language>-<target language>, for example mine.en-fr"""
    source: str | None = None
    """text in the source language, one sentence a line"""
    target: str | None = None
    """its translation, line by line"""
    held_out: int = 500
    """sentences set aside for validation, and as many for the test"""
    pieces: int = 8000
    """pieces of the joint sentencepiece model"""
    length: int = 20
    """tokens of source and target at which latency is measured"""
    space: str | None = None
    """YAML file with another search space (default: that of the toy task)"""
    seed: int = 1
    """seed of the split"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write configs/<name>/ and data/raw/<name>/; see --help."""
    options, _ = parse(
        argv,
        NewTaskOptions,
        OutputOptions,
        prog="new_task.py",
        description="Make a task folder of two texts.",
    )
    if not (options.name and options.source and options.target):
        raise ConfigError("--name, --source and --target are needed; see new_task.py --help")
    match = re.fullmatch(r"([A-Za-z0-9_]+)\.([A-Za-z_]+)-([A-Za-z_]+)", options.name)
    if not match:
        raise ConfigError(f"--name {options.name!r} is not <name>.<source>-<target>, for example mine.en-fr")
    folder = Path("configs") / options.name
    if folder.exists():
        raise ConfigError(f"{folder} exists already; choose another --name or remove the folder")
    template = Path("configs") / TEMPLATE
    space_text = _space_text(options.space) if options.space else None
    texts = {
        path.relative_to(template): _adapted(path, options, match, space_text)
        for path in sorted(template.rglob("*"))
        if path.suffix in (".yml", ".sh") and path.parent.name != "evo_search" and "@" not in path.name
    }
    evo = template / "evo_search" / "toyende_cpu.yml"
    prefix = "".join(match.groups()).replace("_", "").lower()
    texts[Path("evo_search") / f"{prefix}_cpu.yml"] = _adapted(evo, options, match, None)
    texts[Path("preprocess.sh")] = _preprocess_script(options, match)
    _split(options, match[2], match[3])
    for path, text in texts.items():
        write_text_atomic(folder / path, text)
    print(f"made {folder} with {len(texts)} files; next: bash scripts/run_task.sh {options.name} cpu")
    return 0


def _adapted(path: Path, options: NewTaskOptions, name: re.Match, space_text: str | None) -> str:
    """Return a file of the template with the new names, length and search space."""
    text = path.read_text("utf-8")
    slug = "_".join(name.groups())
    text = text.replace("toyende", "".join(name.groups()).replace("_", "").lower())
    text = text.replace("toy_en_de", slug).replace(TEMPLATE, str(options.name))
    text = re.sub(r"(?m)^profile-length: .*$", f"profile-length: {options.length}", text)
    if space_text is not None and "# Search space" in text:
        start = text.index("# SuperTransformer\n")
        rest = text[start:].split("\n\n", 2)
        text = text[:start] + space_text + "\n" + (rest[2] if len(rest) > 2 else "")
        if "share-decoder" in space_text:
            text = text.replace("share-all-embeddings: True\n", "")
    return text


def _space_text(path: str) -> str:
    """Return the space file as the lines of a configuration, after checking it."""
    (space,) = parse(
        [f"--configs={path}"],
        SpaceOptions,
        prog="new_task.py --space",
        description="",
        config_flags=("--configs",),
    )
    space_of(space)
    given = to_yaml_values(space)
    lines = [f"{key}: {value}" for key, value in given.items()]
    if space.encoder_embed_dim != space.decoder_embed_dim:  # cannot share all embeddings
        lines.insert(0, "share-decoder-input-output-embed: True")
    return "# SuperTransformer\n\n# Search space\n" + "\n".join(lines) + "\n"


def _split(options: NewTaskOptions, source_lang: str, target_lang: str) -> None:
    """Write train, valid and test text: distinct non-empty pairs in a seeded order."""
    sides = [[line.strip(" \t\r") for line in read_lines(path)] for path in (options.source, options.target)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{options.source} has {len(sides[0])} lines and {options.target} has {len(sides[1])}; line n "
            "of one "
            "must translate line n of the other"
        )
    pairs = list(dict.fromkeys(pair for pair in zip(*sides, strict=True) if all(pair)))
    if len(pairs) < 4 * options.held_out:
        raise DataError(
            f"{len(pairs)} distinct pairs are too few to set {options.held_out} aside twice; lower "
            "--held-out or "
            "give more text"
        )
    rng_for(options.seed, "split").shuffle(pairs)
    held = options.held_out
    parts = {"valid": pairs[:held], "test": pairs[held : 2 * held], "train": pairs[2 * held :]}
    for split, chosen in parts.items():
        for column, lang in enumerate((source_lang, target_lang)):
            path = Path("data/raw") / str(options.name) / f"{split}.{lang}"
            write_text_atomic(path, "".join(f"{pair[column]}\n" for pair in chosen))


def _preprocess_script(options: NewTaskOptions, name: re.Match) -> str:
    source, target = name[2], name[3]
    return f"""#!/usr/bin/env bash
# data/raw/{options.name} -> data/binary/{"_".join(name.groups())}; work that is up to date is skipped
set -euo pipefail

cd "$(dirname "${{BASH_SOURCE[0]}}")/../.."
raw=data/raw/{options.name}
binary=data/binary/{"_".join(name.groups())}
if [ "$binary/test.{source}-{target}.{target}.idx" -nt "$raw/train.{source}" ]; then
    echo "$binary is up to date"
    exit 0
fi
"${{PYTHON:-python}}" scripts/preprocess.py --source-lang {source} --target-lang {target} \\
    --trainpref "$raw/train" --validpref "$raw/valid" --testpref "$raw/test" \\
    --sentencepiece {options.pieces} --joined-dictionary --workers "${{WORKERS:-1}}" --destdir "$binary"
"""
