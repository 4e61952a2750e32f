"""Command lines from dataclasses: a field is a flag and a YAML key, the text below it is its help.

Precedence: field default < YAML file (the last one given wins) < flag. All commands read the same YAML files,
so each knows the options of the others: it accepts them in a file, and neither lists nor uses them.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import configargparse

from hat.cli.interrupt import Terminated, terminating
from hat.config import converter, flag_of, help_of, kind_of, open_config, option, read_flat_yaml
from hat.errors import ConfigError, HatError, suggest
from hat.log import info


@dataclass(frozen=True)
class OutputOptions:
    """Output"""

    json: bool = option(False, role="free")
    """print one machine-readable JSON line last"""
    no_progress_bar: bool = option(False, role="free")
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


@dataclass(frozen=True)
class Part:
    """A dataclass of options of which a command uses some fields only."""

    group: type
    names: frozenset[str]
    unlisted: frozenset[str] = frozenset()  # used, but not in the help


def only(group: type, *names: str) -> Part:
    """Return the part of a dataclass of options that a command uses; its other fields keep their values."""
    unknown = set(names) - {each.name for each in dataclasses.fields(group)}
    assert not unknown, f"{group.__name__} has no {unknown}"
    return Part(group, frozenset(names))


def without(group: type, *names: str) -> Part:
    """Return a dataclass of options of which some fields are used, but not listed in the help."""
    return Part(group, _names(group) - set(names), frozenset(names))


PARSER = ("--give-the-parser",)  # given to a command as its arguments, makes `parse` raise `_ParserReady`


class _ParserReady(BaseException):
    """Carries the parser of a command to whoever asked for it."""


def parser_of(main: Callable[[Sequence[str]], object]) -> argparse.ArgumentParser:
    """Return the parser of a command without running it, for example to write shell completions."""
    try:
        main(PARSER)
    except _ParserReady as ready:
        parser: argparse.ArgumentParser = ready.args[0]
        return parser
    raise AssertionError(f"{main} parses nothing")


def parse(
    argv: Sequence[str] | None,
    *groups: type | Part,
    prog: str,
    description: str,
    config_flags: Sequence[str] = (),
    hidden: Sequence[type] = (),
) -> tuple[Any, ...]:
    """Return one instance of each dataclass in `groups`, filled from `argv` and the YAML files it names.

    Args:
        argv: arguments; None for those of the process.
        groups: dataclasses of options, or the `only` part of one that the command uses.
        prog: name of the command in messages.
        description: first line of its help.
        config_flags: flags that name a YAML file.
        hidden: dataclasses of options of other commands, accepted and not listed.

    Raises ConfigError for unknown flags or keys (the nearest known one is suggested) and for values of the
    wrong type (file and line are named).
    """
    parser = _Parser(prog, description, config_flags)
    parts = [each if isinstance(each, Part) else Part(each, _names(each)) for each in groups]
    for part in parts:
        parser.add_dataclass(part.group, part.names)
    for part in [*parts, *(Part(each, frozenset()) for each in hidden)]:
        parser.hide_dataclass(part.group, part.unlisted)
    if argv is PARSER:
        raise _ParserReady(parser)
    words = list(sys.argv[1:] if argv is None else argv)
    values = vars(parser.parse_strict(words))
    try:
        return tuple(part.group(**{name: values[name] for name in _names(part.group)}) for part in parts)
    except ConfigError as error:
        place = parser.place_of(str(error), words)
        raise (ConfigError(f"{place}: {error}") if place else error) from error


def _names(group: type) -> frozenset[str]:
    return frozenset(each.name for each in dataclasses.fields(group))


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Make a `main` print user errors in one line and return 2, and 128 + its number if a signal ends it."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            with terminating():
                return main(argv)
        except HatError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
        except BrokenPipeError:  # whoever read the output has had enough, as `head` has
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except (OSError, MemoryError) as error:
            return _refused_by_system(error)
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            return _refused_by_system(error)
        except KeyboardInterrupt:
            info("interrupted; run the same command again to go on")
            return 130
        except Terminated as ended:
            with contextlib.suppress(OSError):  # the terminal may be gone
                print("terminated; run the same command again to go on", file=sys.stderr)
            return 128 + ended.number

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


class FlatYamlParser(configargparse.ConfigFileParser):
    """Adapter of `read_flat_yaml` for configargparse; remembers the file and line of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}

    def get_syntax_description(self) -> str:
        return "Configuration files are flat YAML; keys are option names without the dashes in front."

    def parse(self, stream: TextIO) -> dict[str, str | list[str]]:
        entries = read_flat_yaml(stream)
        self.places.update({key: f"{stream.name}:{line}" for key, (_, line) in entries.items()})
        return {key: value for key, (value, _) in entries.items()}


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
        self._unused: set[str] = set()
        for name in IGNORED:  # accepted, said once, not listed
            self.add_argument(f"--{name}", nargs="?", const="", default=None, help=argparse.SUPPRESS)

    def add_dataclass(self, group: type, names: frozenset[str]) -> None:
        """Add the options of a dataclass that the command uses, under the first paragraph of its text."""
        title = " ".join((group.__doc__ or group.__name__).split("\n\n")[0].split())
        section = self.add_argument_group(title)
        for each in dataclasses.fields(group):
            if each.name in names:
                self._add_field(section, group, each, listed=True)

    def hide_dataclass(self, group: type, used: frozenset[str]) -> None:
        """Accept the options of a dataclass that were not added, without listing them; some are used."""
        for each in dataclasses.fields(group):
            self._add_field(self, group, each, listed=False, used=each.name in used)

    def _add_field(
        self, section: Any, group: type, f: dataclasses.Field, *, listed: bool, used: bool = True
    ) -> None:
        flag = flag_of(f.name)
        if flag in self._option_string_actions:
            return  # two groups share the option
        if not used:
            self._unused.add(flag)
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        default = None if required else f.default
        text = help_of(group).get(f.name, "")
        if default not in (None, (), False, ""):
            text += f" (default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"
        common: dict[str, Any] = {"default": default, "dest": f.name}
        common["help"] = text.replace("%", "%%") if listed else argparse.SUPPRESS
        kind, many = kind_of(_hints(group)[f.name])
        if kind is bool:
            action = "store_true" if f.name.startswith("no_") else _Switch
            section.add_argument(flag, action=action, **common)
            return
        choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else None
        common["metavar"] = f.metadata.get("metavar") or _metavar(f.name, kind, choices)
        if "const" in f.metadata:  # the flag alone means this value
            common |= {"nargs": "?", "const": f.metadata["const"]}
        if many:
            common |= {"nargs": "+", "action": _TupleAction}
        section.add_argument(flag, type=_type_of(kind), required=required and listed, **common)

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
                info(f"{self.prog}: --{name} has no effect here: {why}")
        if unused := self._unused & {word.split("=")[0] for word in argv}:
            info(f"{self.prog}: {', '.join(sorted(unused))}: no effect on this command")
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
            try:
                on = isinstance(value, str) and converter(bool)(value)
                if not isinstance(value, str):
                    raise ValueError(f"must be True or False, got {value!r}")
            except ValueError as error:
                raise ConfigError(f"{where}: {key} {error}") from error
            if on:
                return [flag]
            off = f"--no-{key}"  # said aloud, so that it overrides an earlier file
            return [off] if off in action.option_strings else []
        if isinstance(value, list) and action.nargs != "+":
            if action.metavar != _PAIR:
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


_PAIR = "(X,X)"


class _HelpFormatter(argparse.HelpFormatter):
    """Puts a flag and its text on one line, however long."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=60, width=400)

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        return f"usage: {self._prog} [options]\n\n"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return (
            f"{action.metavar} ..." if action.nargs == "+" else super()._format_args(action, default_metavar)
        )

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, _Switch):
            return f"--[no-]{action.option_strings[0][2:]}"
        return super()._format_action_invocation(action)


class _Switch(argparse.BooleanOptionalAction):
    """A flag with its opposite, shown as `--[no-]flag`."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str, **more: Any) -> None:
        super().__init__(option_strings, dest, help=None, **more)
        self.help = help


class _TupleAction(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _open_config(path: str, mode: str = "r") -> TextIO:
    """Open a configuration; where it is missing, the error says which search writes it, or its like."""
    try:
        return open_config(path, mode)
    except ConfigError as error:
        from hat.cli.missing import config_commands, near_config  # late: for an error only

        searches = "" if Path(path).exists() else " or ".join(f"`{line}`" for line in config_commands(path))
        hint = f"; it is written by {searches}" if searches else near_config(path)
        raise ConfigError(f"{error}{hint}") from error


def _type_of(kind: Any) -> Callable[[str], Any]:
    """Return what turns a word of the command line into a value; its errors are shown as they are."""
    convert = converter(kind)

    def convert_word(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert_word


@functools.cache
def _hints(group: type) -> dict[str, Any]:
    return typing.get_type_hints(group)


def _metavar(name: str, kind: Any, choices: tuple[str, ...] | None) -> str:
    """Return a placeholder that says what is to be given: a number, a file or a folder, a word."""
    if choices:
        return "{" + ",".join(choices) + "}"
    if kind in (int, float):
        return "N" if kind is int else "X"
    if kind == tuple[float, float]:
        return _PAIR
    last = name.rsplit("_", 1)[-1]
    if last in ("dir", "folder", "data", "logdir", "destdir"):
        return "DIR"
    return "FILE" if last in ("path", "file", "input", "inputs", "output", "yaml", "csv") else last.upper()
