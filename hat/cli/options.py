"""Command lines from dataclasses: a field is a flag and a YAML key, the text below it is its help.

Precedence: field default < YAML file (the last one given wins) < flag. All commands read the same YAML files,
so each knows the options of the others: it accepts them in a file, and neither lists nor uses them.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import configargparse

from hat import config
from hat.cli.interrupt import terminating
from hat.errors import ConfigError, HatError, suggest
from hat.log import info


@dataclass(frozen=True)
class OutputOptions:
    """Output"""

    json: bool = config.option(False, "print one machine-readable JSON line last", role="free")
    no_progress_bar: bool = config.option(False, "print plain lines instead of progress bars", role="free")

    @property
    def bar(self) -> bool:
        """Return whether to draw progress bars: on terminals, unless they are not wanted."""
        return not self.no_progress_bar and sys.stderr.isatty()


# Keys of the release's YAML files that have no effect here, each with the reason.
IGNORED = {
    "ddp-backend": "gradients of all processes are always summed in one reduction",
    "criterion": "the loss is always label-smoothed cross entropy",
    "lr-shrink": "both schedules follow from their own formula",
    "num-workers": "batches are memory-mapped and assembled by one background thread",
    "log-format": "use --no-progress-bar for plain lines",
    "skip-invalid-size-inputs-valid-test": "too long validation pairs are an error",
    "no-epoch-checkpoints": "use --keep-last-epochs 1",
    "fp16": "see --amp: bf16 if the device is fast with it, else fp32",
    "fp16-init-scale": "no number format here needs a loss scale",
    "fp16-scale-window": "no number format here needs a loss scale",
    "memory-efficient-fp16": "weights are always kept once in float32 and once in the compute precision",
    "find-unused-parameters": "inactive layers need no flag",
    "reset-meters": "the best loss belongs to the folder of a run, so that of --restore-file is not taken",
}
# Under what key the files of a folder in configs/<task> name what their command writes.
_WRITTEN = {"latency_dataset": "lat-dataset-path", "latency_predictor": "ckpt-path"}
_WRITTEN["evo_search"] = "write-config-path"
_FOLDERS = ("dir", "folder", "data", "logdir", "destdir")  # last words of the names of options
_FILES = ("path", "file", "input", "inputs", "output", "yaml", "csv")


@dataclass(frozen=True)
class Part:
    """A dataclass of options of which a command uses some fields only."""

    group: type
    names: frozenset[str]
    unlisted: frozenset[str] = frozenset()  # used, but not in the help


def only(group: type, *names: str) -> Part:
    """Return the part of a dataclass of options that a command uses; its other fields keep their values."""
    assert _names(group) >= {*names}, f"{group.__name__} has no {set(names) - _names(group)}"
    return Part(group, frozenset(names))


def without(group: type, *names: str) -> Part:
    """Return a dataclass of options of which some fields are used, but not listed in the help."""
    return Part(group, _names(group) - set(names), frozenset(names))


class _Asks(list[Any]):
    """In place of arguments: `parse` appends the parser and leaves."""


def parser_of(main: Callable[[Sequence[str]], object]) -> Any:
    """Return the parser of a command without running it, for example to write shell completions."""
    with contextlib.suppress(SystemExit):
        main(asks := _Asks())
    return asks[0]


def parse(
    argv: Sequence[str] | None,
    *groups: type | Part,
    prog: str,
    description: str,
    config_flags: Sequence[str] = (),
    bare: str = "",
) -> tuple[Any, ...]:
    """Return one instance of each dataclass in `groups`, filled from `argv` (None: of the process) and the
    YAML files that its `config_flags` name. Options that are not in the `only` part of a group are accepted
    and not listed; the flag of `bare` may be left out. Raises ConfigError for unknown flags or keys,
    suggesting the nearest known one, and for values of the wrong type, with file and line.
    """
    parts = [each if isinstance(each, Part) else without(each) for each in groups]
    parser = _Parser(prog, description, config_flags, parts)
    if isinstance(argv, _Asks):
        argv.append(parser)
        raise SystemExit
    words = list(sys.argv[1:] if argv is None else argv)
    values = {name: _at_home(value) for name, value in vars(parser.parse_strict(words, bare)).items()}
    try:
        return tuple(part.group(**{name: values[name] for name in _names(part.group)}) for part in parts)
    except ConfigError as error:
        place = parser.place_of(str(error), words)
        raise (ConfigError(f"{place}: {error}") if place else error) from error


def _at_home(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_at_home, value))
    return os.path.expanduser(value) if isinstance(value, str) else value  # no shell knows ~ in YAML


def _names(group: type) -> frozenset[str]:
    return frozenset(each.name for each in dataclasses.fields(group))


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Make a `main` print user errors in one line and return 2, and 128 + its number if a signal ends it."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            _make_streams_usable()
            with terminating():
                code = main(argv)
            sys.stdout.flush()  # while a pipe that is gone is still noticed
            return code
        except HatError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
        except BrokenPipeError:  # whoever read the output has had enough, as `head` has
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except (OSError, MemoryError, RuntimeError) as error:  # the system refused a file, or memory
            text = f"{error}; check the path, its permissions and the free disk space"
            if not isinstance(error, OSError):
                if not isinstance(error, MemoryError) and "memory" not in str(error):
                    raise
                reason = str(error).split("\n")[0] or "no memory left"
                text = f"not enough memory ({reason}); lower --max-tokens or the model's sizes"
            print(f"HatError: {text}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as ended:
            number = ended.args[0] if ended.args else signal.SIGINT
            word = "interrupted" if number == signal.SIGINT else "terminated"
            with contextlib.suppress(OSError):  # the terminal may be gone
                info(f"{word}; run the same command again to go on")
            return 128 + number

    return run


def _make_streams_usable() -> None:
    """Make output UTF-8 as all files are, whatever the locale; what goes to a closed stream is lost."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure") and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def stage(parsed: Callable[..., tuple[Any, ...]], run: Callable[..., Any]) -> Callable[..., int]:
    """Return the `main` of a command: `run` takes options and arguments; a number is its exit code."""

    @command
    def main(argv: Sequence[str] | None = None) -> int:
        options = parsed(argv)
        done = run(options, argv)
        flat = [one for each in options for one in (each if isinstance(each, tuple) else (each,))]
        if not isinstance(done, int) and any(getattr(each, "json", False) for each in flat):
            print(json.dumps(done, default=str))
        return done if isinstance(done, int) else 0

    return main


def takes(prog: str, *groups: type | Part, **how: Any) -> Callable[..., Callable[..., int]]:
    """Make a command of a function of its options; its docstring heads the help; `how`: see `parse`."""

    def made(run: Callable[..., Any]) -> Callable[..., int]:
        given = functools.partial(parse, prog=prog, description=str(run.__doc__), **how)
        main = stage(lambda argv: given(argv, *groups), lambda options, argv: run(*options))
        return functools.wraps(run)(main)

    return made


class _FlatYamlParser(configargparse.ConfigFileParser):
    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}  # file and line of each key

    def parse(self, stream: TextIO) -> dict[str, str | list[str]]:
        entries = config.read_flat_yaml(stream)
        self.places.update({key: f"{stream.name}:{line}" for key, (_, line) in entries.items()})
        return {key: value for key, (value, _) in entries.items()}


class _Parser(configargparse.ArgParser):
    def __init__(self, prog: str, about: str, config_flags: Sequence[str], parts: Sequence[Part]) -> None:
        layout = functools.partial(_HelpFormatter, max_help_position=70, width=400)
        how = {"formatter_class": layout, "config_file_parser_class": _FlatYamlParser}
        how |= dict.fromkeys(("allow_abbrev", "add_config_file_help", "add_env_var_help"), False)
        how |= {"usage": "%(prog)s [options]", "config_file_open_func": _open_config}
        super().__init__(prog=prog, description=about, **how)
        self._config_flags, self._unused, self._hints = config_flags, set[str](), dict[str, Any]()
        for flag in config_flags:
            text = "YAML file with further options"
            self.add_argument(flag, is_config_file=True, metavar="YAML", help=text)
        for part in parts:  # what a command lists stands first, under the first paragraph of its text
            title = " ".join((part.group.__doc__ or part.group.__name__).split("\n\n")[0].split())
            self._add(part, self.add_argument_group(title), listed=True)
        for part in parts:
            self._add(part, self, listed=False)
        self._ignored = [name for name in IGNORED if f"--{name}" not in self._option_string_actions]
        for name in self._ignored:  # accepted, said once, not listed
            self.add_argument(f"--{name}", nargs="?", const="", default=None, help=argparse.SUPPRESS)

    def _add(self, part: Part, section: Any, *, listed: bool) -> None:
        hints = typing.get_type_hints(part.group)
        for each in dataclasses.fields(part.group):
            flag = config.flag_of(each.name)
            if flag in self._option_string_actions or (listed and each.name not in part.names):
                continue
            if each.name not in part.names | part.unlisted:
                self._unused.add(flag)
            flags = [config.flag_of(name) for name in (each.name, each.metadata.get("alias")) if name]
            self._hints |= {name[2:]: hints[each.name] for name in flags}
            action = section.add_argument(*flags, dest=each.name, **_argument(each, hints[each.name], listed))
            text = config.help_of(part.group).get(each.name, "")
            if action.default not in (None, (), False, ""):
                many = isinstance(action.default, tuple)
                text += f" (default: {' '.join(map(str, action.default)) if many else action.default})"
            action.help = text.replace("%", "%%") if listed else argparse.SUPPRESS

    def place_of(self, message: str, argv: Sequence[str]) -> str | None:
        """Return file and line of the first option in `message` that a file sets and `argv` does not."""
        given = {word.split("=")[0] for word in argv}
        for flag in re.findall(r"--([a-z0-9-]+)", message):
            if f"--{flag}" not in given and flag in self._config_file_parser.places:
                return str(self._config_file_parser.places[flag])
        return None

    def parse_strict(self, argv: list[str], bare: str) -> argparse.Namespace:
        for flag in self._config_flags:
            if sum(word.split("=")[0] == flag for word in argv) > 1:
                raise ConfigError(f"{flag} is given twice; keep one of them")
        namespace, unknown = self.parse_known_args(argv)
        if bare and unknown and not unknown[0].startswith("-") and getattr(namespace, bare) is None:
            setattr(namespace, bare, unknown.pop(0))
        if unknown:
            flags = [word for word in unknown if word.startswith("-")]
            word = (flags or unknown)[0].split("=")[0]
            raise ConfigError(
                f"unknown option {word}{suggest(word, self._option_string_actions)}; see {self.prog} --help"
            )
        for name in self._ignored:
            if getattr(namespace, name.replace("-", "_")) is not None:
                info(f"{self.prog}: --{name} has no effect here: {IGNORED[name]}")
        if unused := self._unused & {word.split("=")[0] for word in argv}:
            info(f"{self.prog}: {', '.join(sorted(unused))}: no effect on this command")
        return namespace

    def convert_item_to_command_line_arg(
        self, action: argparse.Action | None, key: str, value: str | list[str]
    ) -> list[str]:
        """Turn one YAML entry into flags, after checking it, so that errors name file and line."""
        where = self._config_file_parser.places[key]
        if action is None:
            known = [name.lstrip("-") for name in self._option_string_actions]
            raise ConfigError(f"{where}: unknown key {key!r}{suggest(key, known)}; see {self.prog} --help")
        try:
            found = config.value_of(self._hints.get(key, str), value)
        except ValueError as error:
            raise ConfigError(f"{where}: {key}: {error}") from error
        flag, off = f"--{key}", f"--no-{key}"  # the latter overrides an earlier file
        if isinstance(found, bool):
            return [flag] if found else [off] if off in action.option_strings else []
        texts = value if isinstance(value, list) else [value]
        return [flag, *texts] if action.nargs == "+" else [f"{flag}={', '.join(texts)}"]

    def error(self, message: str) -> typing.NoReturn:
        if isinstance(known := sys.exc_info()[1], HatError):  # configargparse would only wrap it
            raise known
        raise ConfigError(f"{message}; see {self.prog} --help")


class _HelpFormatter(argparse.HelpFormatter):
    def _format_action_invocation(self, action: argparse.Action) -> str:
        return re.sub(r"--(.+), -+no-\1", r"--[no-]\1", super()._format_action_invocation(action))


def _open_config(path: str, mode: str = "r") -> TextIO:
    try:
        return config.open_config(path, mode)
    except ConfigError as error:
        hint = "" if Path(path).exists() else advice(path, "")
        near = suggest(path, map(str, Path(path).parent.glob("*.yml")))
        raise ConfigError(f"{error}; {hint}" if hint else f"{error}{near}") from error


def _argument(field: dataclasses.Field, hint: Any, listed: bool) -> dict[str, Any]:
    required, (kind, many) = field.default is dataclasses.MISSING, config.kind_of(hint)
    found: dict[str, Any] = {"default": None if required else field.default}
    if kind is bool:
        switch = argparse.BooleanOptionalAction  # a flag with its opposite, shown as --[no-]flag
        return found | {"action": "store_true" if field.name.startswith("no_") else switch}
    if "const" in field.metadata:  # the flag alone means this value
        found |= {"nargs": "?", "const": field.metadata["const"]}
    if many:
        found["nargs"] = "+"

    def convert(text: str) -> Any:
        try:
            return config.converter(kind)(text)
        except ValueError as error:  # argparse shows the text of this kind of error only
            raise argparse.ArgumentTypeError(str(error)) from error

    last = field.name.rsplit("_", 1)[-1]  # a placeholder says what is to be given
    file = "FILE" if last in _FILES else "DIR" if last in _FOLDERS else last.upper()
    shown = {int: "N", float: "X", tuple[float, float]: "(X,X)"}.get(kind, file)
    if typing.get_origin(kind) is typing.Literal:
        shown = "{" + ",".join(typing.get_args(kind)) + "}"
    metavar = field.metadata.get("metavar", shown)
    return found | {"type": convert, "required": required and listed, "metavar": metavar}


def advice(path: str | Path | None, otherwise: str) -> str:
    """Return what to do about a missing file: run one of the commands that make it, or else `otherwise`."""
    commands = dict.fromkeys(_commands(Path(path))) if path else ()
    return f"make it with {' or '.join(f'`{line}`' for line in commands)}" if commands else otherwise


def _commands(path: Path) -> Iterator[str]:
    own = path.with_name(path.stem.removesuffix("_all") + path.suffix)  # as the release names tables, too
    wanted = {path.resolve(), own.resolve()}
    for file in sorted(Path("configs").glob("*/*/*.yml")):
        try:
            entries = config.read_config(file)
        except HatError:
            continue  # it is another file that is in question
        task, kind = file.parents[1], file.parent.name
        named = {key for key, value in entries.items() if Path(str(value)).resolve() in wanted}
        if "data" in named:
            scripts = (task / name for name in ("preprocess.sh", "get_preprocessed.sh"))
            yield from (f"bash {script}" for script in scripts if script.exists())
        if _WRITTEN.get(kind) in named:
            space = f"{super_yml_of(file)[0]} --evo-configs=" if kind == "evo_search" else ""
            yield f"python {kind}.py --configs={space}{file}"
    from hat.files.download import latency_data_names, released_models  # late: for an error only

    models = released_models()
    if own.stem in latency_data_names(models):
        yield "python download_model.py --latency-data"
    if path.stem in {model.model_name for model in models}:
        usual = path.parent.resolve() == Path("downloaded_models").resolve()
        save = "" if usual else f" --save-path={path.parent}"
        yield f"python download_model.py --model-name={path.stem}{save}"
    folder = path.parent if path.suffix == ".pt" else path
    _, below, run = folder.as_posix().rpartition("checkpoints/")
    if below and (file := Path("configs", f"{run}.yml")).exists():
        common = file.with_name(f"common{super_yml_of(file)[1]}.yml")
        yield f"python train.py --configs={file}" + (f" --sub-configs={common}" if common.exists() else "")


def super_yml_of(file: Path) -> tuple[Path, str]:
    """Return the SuperTransformer that a file of a task belongs to, and how the names of its files end: that
    of the name that ends the one of `file`, before an @, else the first, whose files have no such ending.
    """
    first, *others = sorted(file.parents[1].glob("supertransformer/*.yml")) or [Path()]
    name = file.stem.partition("@")[0]
    return next(((path, f"_{path.stem}") for path in others if name.endswith(f"_{path.stem}")), (first, ""))
