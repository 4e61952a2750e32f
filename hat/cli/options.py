"""Command lines from dataclasses: a field is a flag and a YAML key, the text below it is its help.

Precedence: field default < YAML file (the last one given wins) < flag.
"""

import argparse
import ast
import dataclasses
import functools
import inspect
import math
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import configargparse

from hat.cli.interrupt import Terminated, terminating
from hat.cli.missing import config_commands, near_config
from hat.cli.yaml_file import FlatYamlParser, open_config
from hat.errors import ConfigError, HatError, suggest
from hat.log import say


@dataclass(frozen=True)
class OutputOptions:
    """Output"""

    json: bool = False
    """print one machine-readable JSON line last"""
    no_progress_bar: bool = False
    """print plain lines instead of progress bars"""


# Keys of the release's YAML files that have no effect here, each with the reason.
IGNORED = {
    "ddp-backend": "gradients of all processes are always summed in one reduction",
    "criterion": "the loss is always label-smoothed cross entropy",
    "lr-shrink": "both schedules follow from their own formula",
    "num-workers": "batches are memory-mapped and assembled by one background thread",
    "log-format": "use --no-progress-bar for plain lines",
    "skip-invalid-size-inputs-valid-test": "too long validation pairs are an error",
    "no-epoch-checkpoints": "use --keep-last-epochs 1",
    "fp16-scale-window": "the loss scale follows torch's GradScaler",
    "memory-efficient-fp16": "weights are always kept once in float32 and once in the compute precision",
    "find-unused-parameters": "inactive layers need no flag",
}


def parse(
    argv: Sequence[str] | None,
    *groups: type,
    prog: str,
    description: str,
    config_flags: Sequence[str] = (),
) -> tuple[Any, ...]:
    """Return one instance of each dataclass in `groups`, filled from `argv` and the YAML files it names.

    Raises ConfigError for unknown flags or keys (the nearest known one is suggested) and for values of the
    wrong type (file and line are named).
    """
    parser = _Parser(prog, description, config_flags)
    for group in groups:
        parser.add_dataclass(group)
    words = list(sys.argv[1:] if argv is None else argv)
    values = vars(parser.parse_strict(words))
    try:
        return tuple(group(**{f.name: values[f.name] for f in dataclasses.fields(group)}) for group in groups)
    except ConfigError as error:
        place = parser.place_of(str(error), words)
        raise (ConfigError(f"{place}: {error}") if place else error) from error


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Make a `main` print user errors in one line and return 2, and return 130 or 143 when told to end."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            with terminating():
                return main(argv)
        except HatError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
        except (OSError, MemoryError) as error:
            return _refused_by_system(error)
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            return _refused_by_system(error)
        except KeyboardInterrupt:
            say("interrupted; run the same command again to go on")
            return 130
        except Terminated:
            print("terminated; run the same command again to go on", file=sys.stderr)
            return 143

    return run


def _refused_by_system(error: Exception) -> int:
    """Say in one line what the system refused: a file, or memory; returns exit code 2."""
    if isinstance(error, OSError):
        print(f"HatError: {error}; check the path, its permissions and the free disk space", file=sys.stderr)
    else:
        reason = str(error).split("\n")[0] or "no memory left"
        print(
            f"HatError: not enough memory ({reason}); lower --max-tokens or the model's sizes",
            file=sys.stderr,
        )
    return 2


def to_yaml_values(*instances: object) -> dict[str, Any]:
    """Return the resolved options under their YAML names, ready to be written beside a run's output."""
    values: dict[str, Any] = {}
    for instance in instances:
        for f in dataclasses.fields(instance):  # type: ignore[arg-type]
            value = getattr(instance, f.name)
            if value is not None and value != ():
                values[f.name.replace("_", "-")] = list(value) if isinstance(value, tuple) else value
    return values


class _Parser(configargparse.ArgParser):
    def __init__(self, prog: str, description: str, config_flags: Sequence[str]) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=_HelpFormatter,
            config_file_parser_class=FlatYamlParser,
            config_file_open_func=_open_config,
            allow_abbrev=False,
            add_config_file_help=False,
            add_env_var_help=False,
        )
        self._config_flags = config_flags
        for flag in config_flags:
            self.add_argument(
                flag, is_config_file=True, metavar="YAML", help="YAML file with further options"
            )
        hidden = self.add_argument_group("accepted for old files, without effect")
        for name, why in IGNORED.items():
            hidden.add_argument(f"--{name}", nargs="?", const="", default=None, metavar="X", help=why)

    def add_dataclass(self, group: type) -> None:
        texts = _field_texts(group)
        section = self.add_argument_group(
            " ".join((group.__doc__ or group.__name__).split("\n\n")[0].split())
        )
        hints = typing.get_type_hints(group)
        for f in dataclasses.fields(group):
            if f"--{f.name.replace('_', '-')}" in self._option_string_actions:
                continue  # two groups share the option
            self._add_field(section, f, hints[f.name], texts.get(f.name, ""))

    def _add_field(self, section: Any, f: dataclasses.Field, hint: Any, text: str) -> None:
        flag = f"--{f.name.replace('_', '-')}"
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        default = None if required else f.default
        if default not in (None, (), False, ""):
            text += f" (default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"
        common: dict[str, Any] = {"default": default, "help": text.replace("%", "%%"), "dest": f.name}
        kind, many = _kind(hint)
        if kind is bool:
            action = "store_true" if f.name.startswith("no_") else argparse.BooleanOptionalAction
            section.add_argument(flag, action=action, **common)
            return
        choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else None
        convert = _CONVERT.get(kind, _one_of(choices) if choices else str)
        common["metavar"] = f.name.split("_")[-1].upper() if not choices else "{" + ",".join(choices) + "}"
        if "const" in f.metadata:  # the flag alone means this value
            common |= {"nargs": "?", "const": f.metadata["const"]}
        if many:
            common |= {"nargs": "+", "action": _TupleAction}
        section.add_argument(flag, type=convert, required=required, **common)

    def place_of(self, message: str, argv: Sequence[str]) -> str | None:
        """Return file and line of the first option in `message` that a file sets and `argv` does not."""
        given = {word.split("=")[0] for word in argv}
        for flag in re.findall(r"--([a-z0-9-]+)", message):
            if f"--{flag}" not in given and flag in self._config_file_parser.places:
                return str(self._config_file_parser.places[flag])
        return None

    def parse_strict(self, argv: list[str]) -> argparse.Namespace:
        for flag in self._config_flags:
            if sum(word.split("=")[0] == flag for word in argv) > 1:
                raise ConfigError(f"{flag} is given twice; keep one of them")
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [word for word in unknown if word.startswith("-")]
            word = (flags or unknown)[0].split("=")[0]
            raise ConfigError(
                f"unknown option {word}{suggest(word, self._option_string_actions)}; see {self.prog} --help"
            )
        for name, why in IGNORED.items():
            if getattr(namespace, name.replace("-", "_"), None) is not None:
                say(f"{self.prog}: --{name} has no effect here: {why}")
        return namespace

    def convert_item_to_command_line_arg(
        self, action: argparse.Action | None, key: str, value: str | list[str]
    ) -> list[str]:
        """Turn one YAML entry into flags, after checking it, so that errors name file and line."""
        where = self._config_file_parser.places.get(key, "configuration")
        if action is None:
            known = [name.lstrip("-") for name in self._option_string_actions]
            raise ConfigError(f"{where}: unknown key {key!r}{suggest(key, known)}; see {self.prog} --help")
        flag = f"--{key}"
        texts = value if isinstance(value, list) else [value]
        if action.nargs == 0:
            if _as_bool(value, f"{where}: {key}"):
                return [flag]
            off = f"--no-{key}"  # said aloud, so that it overrides an earlier file
            return [off] if off in action.option_strings else []
        if isinstance(value, list) and action.nargs != "+":
            if action.type is not _float_pair:
                raise ConfigError(f"{where}: {key} takes one value, got the list {value}")
            texts = [", ".join(value)]
        if not texts:
            raise ConfigError(f"{where}: {key} needs at least one value, got an empty list")
        for text in texts:
            try:
                if callable(action.type):
                    action.type(text)
            except (ValueError, argparse.ArgumentTypeError) as error:
                raise ConfigError(f"{where}: {key}: {error}") from error
        return [flag, *texts] if action.nargs == "+" else [f"{flag}={texts[0]}"]

    def error(self, message: str) -> typing.NoReturn:
        known = sys.exc_info()[1]
        if isinstance(known, HatError):  # configargparse would only wrap it
            raise known
        raise ConfigError(f"{message}; see {self.prog} --help")


class _HelpFormatter(argparse.HelpFormatter):
    """Wide enough that a flag and its text stand on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=44, width=110)


class _TupleAction(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _open_config(path: str, mode: str = "r") -> TextIO:
    """Open a configuration; where it is missing, the error says which search writes it, or its like."""
    try:
        return open_config(path, mode)
    except ConfigError as error:
        searches = "" if Path(path).exists() else " or ".join(f"`{line}`" for line in config_commands(path))
        hint = f"; it is written by {searches}" if searches else near_config(path)
        raise ConfigError(f"{error}{hint}") from error


def _as_bool(value: str | list[str], where: str) -> bool:
    text = value.lower() if isinstance(value, str) else ""
    if text in ("true", "yes", "on"):
        return True
    if text in ("false", "no", "off"):
        return False
    raise ConfigError(f"{where} must be True or False, got {value!r}")


def _int(text: str) -> int:
    if not re.fullmatch(r"[+-]?(0|[1-9][0-9]*)", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number such as 4096")
    return int(text)


def _float(text: str) -> float:
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text) or re.match(
        r"[+-]?0[0-9]", text
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 0.1 or 1e-7")
    value = float(text)
    if math.isinf(value):
        raise argparse.ArgumentTypeError(f"{text!r} is too large for a number")
    return value


def _float_pair(text: str) -> tuple[float, float]:
    parts = text.strip().strip("()[]").split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a pair of numbers such as (0.9, 0.98)")
    return _float(parts[0].strip()), _float(parts[1].strip())


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not one of {', '.join(choices)}{suggest(text, choices)}"
            )
        return text

    return convert


_CONVERT: dict[Any, Callable[[str], Any]] = {
    int: _int,
    float: _float,
    tuple[float, float]: _float_pair,
}


def _kind(hint: Any) -> tuple[Any, bool]:
    """Return the scalar type of a field and whether it holds many."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and args[-1] is Ellipsis:
        return args[0], True
    return hint, False


@functools.cache
def _field_texts(group: type) -> dict[str, str]:
    """Return the text below each field of a dataclass and of its bases, or the `help` of its metadata."""
    texts = {f.name: f.metadata["help"] for f in dataclasses.fields(group) if "help" in f.metadata}
    for cls in reversed(group.__mro__[:-1]):
        if not dataclasses.is_dataclass(cls) or texts.keys() >= cls.__dataclass_fields__.keys():
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
        for field, text in zip(body, body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts
