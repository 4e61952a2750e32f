"""`hat <command>`: every command of the toolkit in one table; each is a function of its arguments."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import hat
from hat.cli.options import command, parser_of
from hat.errors import ConfigError, package, suggest

# "module:function" below `hat.cli` of each command, and what it does, in one line
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Train and search": {
        "train": ("train:main", "train or profile a SuperTransformer or a SubTransformer (train.py)"),
        "evo-search": ("evo_search:main", "search under a latency constraint (evo_search.py)"),
        "latency-dataset": ("latency_dataset:main", "measure a latency table (latency_dataset.py)"),
        "latency-predictor": ("latency_predictor:main", "train a predictor (latency_predictor.py)"),
        "distill": ("distill:main", "make training data of a teacher's translations"),
        "space": ("train:space", "count the architectures of a search space"),
        "run": ("run:main", "run every stage of a task in order"),
        "average": ("files:average", "average the checkpoints of a run"),
        "report": ("files:report", "make a page of a run: front, curves, latencies, costs"),
    },
    "Translate and score": {
        "translate": ("translate:translate", "translate plain text"),
        "export": ("translate:export_model", "write a model as a bundle or for another engine"),
        "generate": ("translate:generate", "translate a split of binary data"),
        "score": ("translate:score", "score translations"),
    },
    "Data": {
        "init": ("files:init", "put configs/ and scripts/ into a folder to work in"),
        "preprocess": ("data:preprocess", "make binary data of a parallel text"),
        "new-task": ("data:new_task", "make a task of your own text"),
        "prepare": ("data:prepare", "normalise and tokenise raw text as the release did"),
        "clean": ("data:clean", "drop sentence pairs beyond limits"),
        "split-pairs": ("data:split_pairs", "join texts and set every n-th pair aside"),
        "learn-bpe": ("data:learn_bpe", "learn joint byte-pair codes"),
        "apply-bpe": ("data:apply_bpe", "split text into subwords"),
        "toy-data": ("data:toy_data", "generate English-German sentences"),
    },
    "Files": {
        "download": ("files:download_model", "download released models and latency tables"),
        "convert": ("files:convert", "convert a checkpoint of the 2020 release"),
        "fetch": ("files:fetch", "download a file and take others out of it, checked"),
    },
}
COMMANDS = {name: each for group in GROUPS.values() for name, each in group.items()}
SHELLS = ("bash", "zsh", "tcsh")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:  # while it is imported a signal ends the process at once
        return load(words[0])(words[1:])
    return _without_command(words)


@command
def _without_command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print("usage: hat <command> [options]; hat <command> --help explains the options of one\n")
        for title, commands in GROUPS.items():
            print(title, *(f"  {name:18} {does}" for name, (_, does) in commands.items()), "", sep="\n")
        print(f"Other\n  {'completion':18} print completions of a shell: {', '.join(SHELLS)}")
        return 0 if words else 2
    name, *rest = words
    if name == "--version":
        print(f"hat {hat.__version__}")
        return 0
    if name != "completion":
        raise ConfigError(f"unknown command {name!r}{suggest(name, COMMANDS)}; see hat --help")
    if len(rest) != 1 or rest[0] not in SHELLS:
        raise ConfigError(f"hat completion takes one of {', '.join(SHELLS)}, got {rest}")
    shtab = package("shtab", "shell")
    root = argparse.ArgumentParser(prog="hat", description="Hardware-Aware Transformers")
    commands = root.add_subparsers()
    for name, (_, does) in COMMANDS.items():
        commands.add_parser(name, help=does)
        commands.choices[name] = parser_of(load(name))
    print(shtab.complete(root, rest[0]))
    return 0


def load(name: str) -> Callable[[Sequence[str]], int]:
    """Return the function of a command."""
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(import_module(f"hat.cli.{module}"), function)  # type: ignore[no-any-return]
