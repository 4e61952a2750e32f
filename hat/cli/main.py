"""`hat <command>`: every command of the toolkit in one table; each is a function of its arguments."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

import hat
from hat.errors import install, suggest


class Command(NamedTuple):
    """Where a command is, as "module:function" below `hat.cli`, and what it does, in one line."""

    where: str
    does: str


GROUPS: dict[str, dict[str, Command]] = {
    "Train and search": {
        "train": Command("train:main", "train or profile a SuperTransformer or a SubTransformer (train.py)"),
        "evo-search": Command("evo_search:main", "search under a latency constraint (evo_search.py)"),
        "latency-dataset": Command("latency_dataset:main", "measure a latency table (latency_dataset.py)"),
        "latency-predictor": Command("latency_predictor:main", "train a predictor (latency_predictor.py)"),
        "run": Command("run:main", "run every stage of a task in order"),
        "average": Command("average_checkpoints:main", "average the checkpoints of a run"),
        "report": Command("report:main", "make a page of a run: front, curves, latencies, costs"),
    },
    "Translate and score": {
        "translate": Command("deploy:translate", "translate plain text"),
        "export": Command("deploy:export_model", "write a model as a bundle or for another engine"),
        "generate": Command("translate:generate", "translate a split of binary data"),
        "score": Command("translate:score", "score translations"),
    },
    "Data": {
        "init": Command("init:main", "put configs/ and scripts/ into a folder to work in"),
        "preprocess": Command("data:preprocess", "make binary data of a parallel text"),
        "new-task": Command("new_task:new_task", "make a task of your own text"),
        "prepare": Command("data:prepare", "normalise and tokenise raw text as the release did"),
        "clean": Command("data:clean", "drop sentence pairs beyond limits"),
        "split-pairs": Command("data:split_pairs", "join texts and set every n-th pair aside"),
        "learn-bpe": Command("data:learn_bpe", "learn joint byte-pair codes"),
        "apply-bpe": Command("data:apply_bpe", "split text into subwords"),
        "toy-data": Command("data:toy_data", "generate English-German sentences"),
    },
    "Files": {
        "download": Command("files:download_model", "download released models and latency tables"),
        "convert": Command("files:convert", "convert a checkpoint of the 2020 release"),
        "fetch": Command("files:fetch", "download one file, checked"),
        "unpack": Command("files:unpack_files", "take files out of an archive, checked"),
        "unpack-data": Command("files:unpack_data", "take binary data out of an archive"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
SHELLS = ("bash", "zsh", "tcsh")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    name, *rest = words
    if name == "--version":
        print(f"hat {hat.__version__}")
        return 0
    if name == "completion":
        return _completion(rest)
    if name not in COMMANDS:
        near = suggest(name, COMMANDS)
        print(f"ConfigError: unknown command {name!r}{near}; see hat --help", file=sys.stderr)
        return 2
    return load(name)(rest)


def load(name: str) -> Callable[[Sequence[str]], int]:
    """Return the function of a command."""
    module, _, function = COMMANDS[name].where.partition(":")
    found: Callable[[Sequence[str]], int] = getattr(import_module(f"hat.cli.{module}"), function)
    return found


def _overview() -> str:
    lines = ["usage: hat <command> [options]; hat <command> --help explains the options of one", ""]
    for title, commands in GROUPS.items():
        lines += [title, *(f"  {name:18} {command.does}" for name, command in commands.items()), ""]
    lines += ["Other", f"  {'completion':18} print completions of a shell: {', '.join(SHELLS)}"]
    return "\n".join(lines)


def _completion(words: Sequence[str]) -> int:
    """Print the completion script of a shell for all commands."""
    if len(words) != 1 or words[0] not in SHELLS:
        print(f"ConfigError: hat completion takes one of {', '.join(SHELLS)}, got {words}", file=sys.stderr)
        return 2
    try:
        import shtab
    except ImportError:
        print(
            f"ConfigError: completions need shtab, which is not installed; run: {install('shell')}",
            file=sys.stderr,
        )
        return 2
    import argparse

    from hat.cli.options import parser_of

    root = argparse.ArgumentParser(prog="hat", description="Hardware-Aware Transformers")
    commands = root.add_subparsers()
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.does)
        commands.choices[name] = parser_of(load(name))
    print(shtab.complete(root, words[0]))
    return 0
