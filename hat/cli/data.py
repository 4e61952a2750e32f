"""Commands that make data, and a task folder of one's own."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import OutputOptions, only, parse, takes
from hat.config import Options, option, read_config, to_yaml_values
from hat.data import corpora, subwords, toy
from hat.data import preprocess as binary
from hat.data.text import write_rows
from hat.errors import ConfigError
from hat.files.atomic import write_text_atomic
from hat.space import SpaceOptions, space_of


@dataclass(frozen=True)
class PairOptions(Options):
    """Parallel text"""

    source_lang: str = option(help="ending of the source text")
    target_lang: str = option(help="ending of the target text")

    def pair(self, prefix: str) -> corpora.PathPair:
        """Return the two files of a text."""
        return Path(f"{prefix}.{self.source_lang}"), Path(f"{prefix}.{self.target_lang}")


@dataclass(frozen=True)
class CleanOptions(PairOptions):
    """Cleaning"""

    input: str = option(help="path of the text without .<language>", role="free")
    output: str = option(help="path of the cleaned text without .<language>", role="free")


@dataclass(frozen=True)
class SplitOptions(PairOptions):
    """Splitting"""

    inputs: tuple[str, ...] = option(help="paths of texts without .<language>, to be joined", role="free")
    train: str = option(help="path of the training text to write, without .<language>")
    valid: str | None = option(None, "path of the validation text to write, without .<language>")
    every: int = option(0, "make each pair of this number validation: 23 takes pairs 23, 46, ... of the text")
    test: str | None = option(None, "path of the test text to write, for --held-out")
    held_out: int = option(0, low=1, off=0)
    """draw so many distinct pairs for validation, and as many for --test; training has no sentence of them"""
    seed: int = option(1, "draws the pairs of --held-out")


@dataclass(frozen=True)
class BpeOptions(Options):
    """Byte-pair encoding"""

    inputs: tuple[str, ...] = option(help="texts to learn on together, or to split", role="free")
    codes: str = option(help="file of merges", role="free")
    to: str = option(help="folder to write to; each text keeps its name", role="free")
    merges: int = option(10000, "number of merges", low=1)
    workers: int = option(1, "number of processes; the result does not depend on it", low=1, role="free")


@dataclass(frozen=True)
class ToyOptions(Options):
    """Toy data"""

    to: str = option("data/raw/toy.en-de", "folder to write {train,valid,test}.{en,de} to", role="free")
    seed: int = option(1, "the same seed gives the same text everywhere")
    train: int = option(12_000, "training pairs", low=0)
    valid: int = option(200, "validation pairs", low=0)
    test: int = option(400, "test pairs", low=0)


@takes("hat preprocess", binary.PreprocessConfig, only(OutputOptions, "json"))
def preprocess(cfg: binary.PreprocessConfig, out: OutputOptions) -> dict:
    """Turn parallel text, one sentence per line, into dictionaries and binary data."""
    start = time.perf_counter()
    result = binary.preprocess(cfg, info=lambda line: print(line, flush=True))
    seconds = time.perf_counter() - start
    sentences = sum(split["sentences"] for split in result["splits"].values())
    print(f"{sentences} pairs in {seconds:.1f} s, {sentences / seconds:,.0f} pairs/s")
    return result | {"seconds": round(seconds, 3)}


@takes("hat prepare", corpora.PrepareConfig)
def prepare(cfg: corpora.PrepareConfig) -> None:
    """Take the sentences out of a published corpus and do the steps of the Moses scripts."""
    sentences, invalid = corpora.prepare(cfg)
    parts = f" ({' + '.join(map(str, sentences))})" if len(sentences) > 1 else ""
    print(f"{cfg.output}: {sum(sentences)} pairs{parts}")
    if invalid and cfg.replace_invalid:
        print(f"{cfg.output}: {invalid} lines have bytes that are not UTF-8, or U+FFFD")


@takes("hat clean", CleanOptions, corpora.Limits)
def clean(cfg: CleanOptions, limits: corpora.Limits) -> None:
    """Copy parallel text without pairs that have an empty side or are beyond limits."""
    kept, dropped = corpora.clean_pairs(cfg.pair(cfg.input), cfg.pair(cfg.output), limits)
    why = "with an empty side" if limits == corpora.Limits() else "outside the limits"
    print(f"{cfg.output}: {kept} pairs kept, {dropped} {why} dropped")


@takes("hat split-pairs", SplitOptions)
def split_pairs(cfg: SplitOptions) -> None:
    """Join parallel texts and put every n-th pair, or drawn ones, aside for validation."""
    inputs, train, valid, test = [*map(cfg.pair, cfg.inputs)], cfg.pair(cfg.train), cfg.valid, cfg.test
    if cfg.held_out:
        if not (valid and test) or cfg.every:
            raise ConfigError("--held-out needs --valid and --test, the texts to write, and no --every")
        both = cfg.pair(valid), cfg.pair(test)
        kept, aside = corpora.split_at_random(inputs, train, *both, cfg.held_out, cfg.seed)
    else:
        kept, aside = corpora.split_pairs(inputs, train, cfg.pair(valid) if valid else None, cfg.every)
    print(f"{cfg.train}: {kept} pairs" + (f", {cfg.valid}: {aside}" if cfg.valid else ""))


@takes("hat learn-bpe", only(BpeOptions, "inputs", "codes", "merges", "workers"))
def learn_bpe(cfg: BpeOptions) -> None:
    """Learn byte-pair merges with subword-nmt."""
    merges = subwords.learn_bpe([*map(Path, cfg.inputs)], Path(cfg.codes), cfg.merges, cfg.workers)
    print(f"{cfg.codes}: {merges} merges")


@takes("hat apply-bpe", only(BpeOptions, "inputs", "codes", "to", "workers"))
def apply_bpe(cfg: BpeOptions) -> None:
    """Split words into subwords with subword-nmt."""
    for path in subwords.apply_bpe(Path(cfg.codes), [*map(Path, cfg.inputs)], Path(cfg.to), cfg.workers):
        print(f"{path} written")


@takes("hat toy-data", ToyOptions)
def toy_data(cfg: ToyOptions) -> None:
    """Write generated English-German sentence pairs, no sentence in more than one split."""
    sizes = toy.write_toy(cfg.to, cfg.seed, cfg.train, cfg.valid, cfg.test)
    print(f"{cfg.to}: " + ", ".join(f"{size} {split}" for split, size in sizes.items()) + " pairs")


@dataclass(frozen=True)
class NewTaskOptions(Options):
    """New task"""

    name: str = option(help="name of the task, <name>.<source language>-<target language>, as mine.en-fr")
    source: str = option(help="text in the source language, one sentence a line", role="free")
    target: str = option(help="its translation, line by line", role="free")
    template: str = option(help="task folder in configs/ that recipes are taken from")
    held_out: int = option(500, "sentences set aside for validation, and as many for the test", low=1)
    pieces: int = option(8000, "pieces of the joint sentencepiece model", low=1)
    length: int = option(20, "tokens of source and target at which latency is measured", low=1)
    space: str | None = option(None, "YAML file with another search space (default: that of the template)")
    seed: int = option(1, "seed of the split")


@takes("hat new-task", NewTaskOptions, OutputOptions)
def new_task(options: NewTaskOptions, out: OutputOptions) -> dict:
    """Make a task folder of two texts: configs/<name>/ and data/raw/<name>/."""
    match = re.fullmatch(r"([A-Za-z0-9_]+)\.([A-Za-z0-9_]+)-([A-Za-z0-9_]+)", options.name)
    if not match or match[2] == match[3]:
        form = "<name>.<source>-<target> with two languages, as mine.en-fr"
        raise ConfigError(f"--name {options.name!r} is not {form}")
    folder = Path("configs") / options.name
    if folder.exists():
        raise ConfigError(f"{folder} exists already; choose another --name or remove the folder")
    texts = _texts(Path("configs") / options.template, options, match)
    pairs, count = corpora.line_pairs((Path(options.source), Path(options.target))), options.held_out
    splits = corpora.hold_out(pairs, count, count, options.seed, "--held-out")
    subwords.check_pieces((line for pair in splits["train"] for line in pair), options.pieces, "--pieces")
    for split, chosen in splits.items():
        write_rows([Path(f"data/raw/{options.name}/{split}.{lang}") for lang in match.groups()[1:]], chosen)
    for path, text in texts.items():
        write_text_atomic(folder / path, text)
    print(f"made {folder} with {len(texts)} files; next: bash scripts/run_task.sh {options.name} cpu")
    return {"folder": folder, "files": sorted(map(str, texts))}


def _texts(template: Path, options: NewTaskOptions, name: re.Match) -> dict[Path, str]:
    evo = sorted((template / "evo_search").glob("*_cpu.yml"))
    super_yml = sorted((template / "supertransformer").glob("*.yml"))[:1]  # one space is enough
    data = read_config(super_yml[0]).get("data") if super_yml else None
    if len(evo) != 1 or data is None:
        needs = "supertransformer/*.yml with a data key and one evo_search/*_cpu.yml"
        raise ConfigError(f"{template} cannot serve as a template: it needs {needs}")
    old_prefix = evo[0].stem.removesuffix("_cpu")
    slug, prefix = "_".join(name.groups()), "".join(name.groups()).replace("_", "").lower()
    renames = {old_prefix: prefix, Path(str(data)).name: slug, template.name: str(options.name)}
    space_text = _space_text(options.space) if options.space else None
    texts, device = {}, [f"{kind}/cpu.yml" for kind in ("latency_dataset", "latency_predictor")]
    others = [template / name for name in ("subtransformer/common.yml", *device)]
    for path in (*super_yml, evo[0], *sorted(template.glob("*.sh")), *others):
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
    script = '"$(dirname "${BASH_SOURCE[0]}")/../../scripts/preprocess.sh"'
    facts = f"{options.name} {name[2]} {name[3]} {options.pieces}"
    texts[Path("preprocess.sh")] = f'#!/usr/bin/env bash\nexec bash {script} {facts} -- "$@"\n'
    return texts


def _space_text(path: str) -> str:
    flags = {"prog": "hat new-task --space", "description": "", "config_flags": ("--configs",)}
    (space,) = parse([f"--configs={path}"], SpaceOptions, **flags)
    space_of(space)
    lines = [f"{key}: {value}" for key, value in to_yaml_values(space).items()]
    if space.encoder_embed_dim != space.decoder_embed_dim:  # cannot share all embeddings
        lines.insert(0, "share-decoder-input-output-embed: True")
    return "# SuperTransformer\n\n# Search space\n" + "\n".join(lines) + "\n"
