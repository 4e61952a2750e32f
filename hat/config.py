"""Options as typed dataclasses, and the strict YAML files that fill them. A dataclass of options derives from
`Options`; a field made by `option` carries its bounds, the text below a field is its help.
`hat/cli/options.py` makes command lines of such classes; nothing here knows one.
"""

import ast
import dataclasses
import functools
import inspect
import json
import math
import operator
import re
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar, cast

import yaml

from hat.errors import ConfigError, foreign, suggest, undecodable

MAX_BYTES = 1 << 20  # a configuration is a page, not a data set
Role = Literal["counts", "free", "lengthens"]
_LIST = "tag:yaml.org,2002:seq"
_BOUNDS = {  # of an option: in words, and whether a number keeps it
    "low": ("at least", operator.ge),
    "high": ("at most", operator.le),
    "above": ("above", operator.gt),
    "below": ("below", operator.lt),
}
_NUMBER = r"[+-]?(?:(?:0|[1-9]\d*)\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FORMS: dict[Any, tuple[str, str]] = {  # of a scalar type: the text of its values, and what to call it
    int: (r"[+-]?(0|[1-9]\d*)", "a whole number such as 4096"),
    float: (_NUMBER, "a number such as 0.1 or 1e-7"),
    bool: ("(?i:true|yes|on|false|no|off)", "True or False"),
    tuple[float, float]: (
        rf"\s*[(\[]*\s*{_NUMBER}\s*,\s*{_NUMBER}\s*[)\]]*\s*",
        "a pair of numbers such as (0.9, 0.98)",
    ),
}
_BROKEN = (yaml.YAMLError, OverflowError, ValueError, RecursionError, LookupError, AttributeError, TypeError)
_HIDDEN_ENDS = re.compile("[\x85\u2028\u2029]|\r(?!$)", re.MULTILINE)


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    off: float | None = None,
    metavar: str = "",
    const: Any = MISSING,
    role: Role = "counts",
    alias: str = "",
) -> Any:
    """Return a dataclass field with bounds, which `Options` checks; None and values in tuples are known.

    Args:
        default: value if neither a file nor the command line gives one; without it the option is required.
        help: its text; a longer one stands below the field.
        low, high, above, below: smallest and largest value allowed, and bounds not allowed themselves.
        off: one more value that is allowed, for example -1 for "never".
        metavar: placeholder in the help of a command (default: by the type and the name).
        const: value of a flag that is given without one.
        role: what the option does to the result of a run, see hat.run.Identity. "counts" changes it, "free"
            does not (or only by the content of the file it names), "lengthens" says when the run ends.
        alias: older name, which serves as well.
    """
    given = {name: value for name, value in locals().items() if name != "default"}
    found = {name: value for name, value in given.items() if value not in (None, "", MISSING)}
    return dataclasses.field(default=default, metadata=found)


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of all dataclasses of options: checks the bounds of its fields. Raises ConfigError, naming the
    option, the value and what is allowed.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value, flag = getattr(self, field.name), flag_of(field.name)
            choices = typing.get_args(field.type) if typing.get_origin(field.type) is Literal else ()
            if choices and value not in choices:
                raise ConfigError(f"{flag} must be one of {', '.join(choices)}, got {value!r}")
            bounds = {name: field.metadata[name] for name in _BOUNDS if name in field.metadata}
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, str) and field.type in (int, float):
                    raise ConfigError(f"{flag} must be a number, got {number!r}")
                if number is None or isinstance(number, str | bool) or number == field.metadata.get("off"):
                    continue
                if math.isfinite(number) and all(_BOUNDS[name][1](number, of) for name, of in bounds.items()):
                    continue
                allowed = " and ".join(f"{_BOUNDS[name][0]} {of:.15g}" for name, of in bounds.items())
                allowed += f", or {field.metadata['off']}" if "off" in field.metadata else ""
                raise ConfigError(f"{flag} must be {allowed or 'finite'}, got {number}")


def flag_of(name: str) -> str:
    """Return the flag of a field, for example `--max-update`."""
    return f"--{name.replace('_', '-')}"


@functools.cache
def help_of(group: type) -> dict[str, str]:
    """Return the help of each field of a dataclass: the text below it, or the one that `option` was given."""
    texts = {each.name: each.metadata["help"] for each in fields(group) if "help" in each.metadata}
    for cls in reversed(group.__mro__[:-1]):
        if not dataclasses.is_dataclass(cls):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
        except (OSError, TypeError):  # a class that a function made has no text
            continue
        for pair in zip(body, body[1:], strict=False):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                    texts[name] = " ".join(str(text).split())
    return texts


def kind_of(hint: Any) -> tuple[Any, bool]:
    """Return the scalar type that the type hint of a field asks for, and whether the field holds many."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and args[-1] is Ellipsis:
        return args[0], True
    return hint, False


def converter(kind: Any) -> Callable[[str], Any]:
    """Return what makes a value of a scalar type from its text; it raises ValueError for any other text."""
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    form, what = _FORMS.get(kind, ("(?s).*", ""))

    def convert(text: str) -> Any:
        if choices and text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}{suggest(text, choices)}")
        if not re.fullmatch(form, text, re.ASCII):
            raise ValueError(f"{text!r} is not {what}")
        if kind is bool:
            return text.lower() in ("true", "yes", "on")
        if kind == tuple[float, float]:
            return tuple(map(float, re.findall(_NUMBER, text, re.ASCII)))
        return kind(text) if kind in (int, float) else text

    return convert


def value_of(hint: Any, entry: Any) -> Any:
    """Return the value of an option with this type hint that an entry of a YAML file stands for. The entry is
    a text or a list of them. Raises ValueError, saying what the option takes, for any other.
    """
    kind, many = kind_of(hint)
    listed = isinstance(entry, list | tuple)
    texts = [*map(str, entry)] if listed else [str(entry)]
    if not texts:
        raise ValueError("needs at least one value, got an empty list")
    if listed and not many and kind != tuple[float, float]:
        raise ValueError(f"takes one value, got the list {list(entry)}")
    found = map(converter(kind), texts if many else [", ".join(texts)])
    return tuple(found) if many else next(found)


G = TypeVar("G")


def fill(group: type[G], entries: Mapping[str, Any], **values: Any) -> G:
    """Return a dataclass of options filled from the entries of a YAML file, as `read_config` returns them;
    `values` win over them. Other entries are ignored; raises ConfigError for a text that is no value.
    """
    hints = typing.get_type_hints(group)
    for each in fields(group):  # type: ignore[arg-type]
        key = each.name.replace("_", "-")
        if key not in entries or each.name in values:
            continue
        try:
            values[each.name] = value_of(hints[each.name], entries[key])
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
    return group(**values)


def to_yaml_values(*instances: Any, role: Role | None = None) -> dict[str, Any]:
    """Return the options of dataclasses, or those of one role, by YAML key, without what was not given."""
    values: dict[str, Any] = {}
    for instance in instances:
        for each in fields(instance):
            value = getattr(instance, each.name)
            wanted = role in (None, each.metadata.get("role", "counts"))
            if wanted and value is not None and value != ():
                values[each.name.replace("_", "-")] = list(value) if isinstance(value, tuple) else value
    return values


def defaults_of(*instances: Any) -> dict[str, Any]:
    """Return the defaults of all options of dataclasses by their YAML keys."""
    found = {each.name.replace("_", "-"): each.default for one in instances for each in fields(one)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def shipped(name: str) -> Path:
    """Return the folder `configs` or `scripts` that came with HAT, in a checkout or an installed package."""
    package = Path(__file__).resolve().parent
    return next((base / name for base in (package, package.parent) if (base / name).is_dir()), package / name)


def open_config(path: str, mode: str = "r") -> TextIO:
    """Open a configuration file; raises ConfigError if it is missing, unreadable or far too large."""
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has more than {MAX_BYTES} bytes; that is no configuration file")
        with open(path, "rb") as file:
            if found := foreign(path, file.read(1 << 12)):
                raise ConfigError(f"{path}:1: the file {found}")
        return cast(TextIO, open(path, mode, encoding="utf-8-sig", newline="\n"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}; check the path") from error


def read_config(path: str | Path) -> dict[str, str | list[str]]:
    """Return the entries of a flat YAML file as text, see `read_flat_yaml`."""
    with open_config(str(path)) as file:
        return {key: value for key, (value, _) in read_flat_yaml(file).items()}


def read_flat_yaml(stream: TextIO) -> dict[str, tuple[str | list[str], int]]:
    """Return {key: (text or list of texts, line number)} of one flat YAML mapping. Plain YAML loaders keep
    the last of duplicate keys and read `010` as 8, `12:30` as 750 and `1e-7` as a string. Here every value
    stays the text that stands in the file; the type of its option converts it. The record of a run,
    `run.json`, stands for the settings in it. Raises ConfigError, with file and line, for duplicate keys,
    empty values, nesting and tags.
    """
    name, text, line = getattr(stream, "name", "configuration"), "", 1
    try:
        text = stream.read()
        if name.endswith("run.json"):
            settings = json.loads(text)["settings"].items()
            return {str(key): ([*map(str, v)] if isinstance(v, list) else str(v), 1) for key, v in settings}
        if hidden := _HIDDEN_ENDS.search(text):  # a key behind one would be invisible in an editor
            line = _line(text, hidden.start())
            raise ValueError(f"the character {hidden[0]!a} ends a line, for YAML only; remove or escape it")
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"cannot read configuration {name}: {error.strerror}; check the disk") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        why = undecodable(name, error.object[error.object.rfind(b"\n", 0, error.start) + 1 :], error)
        raise ConfigError(f"{name}:{line}: the line {why}") from error
    except _BROKEN as error:
        if name.endswith("run.json"):
            raise ConfigError(f"{name}:1: not the record of a run ({error!r}); give a YAML file") from error
        why = f"{error}; write plain `key: value` lines"
        if isinstance(error, yaml.MarkedYAMLError):
            mark = error.problem_mark or error.context_mark
            line, why = mark.line + 1 if mark else 1, str(error.problem or error.context)
        elif isinstance(error, yaml.reader.ReaderError):
            line = _line(text, error.position)
            why = f"the character {chr(error.character)!a} is not allowed; remove it"
        raise ConfigError(f"{name}:{line}: not valid YAML: {why}") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{name}:{root.start_mark.line + 1}: expected `key: value` lines")
    found: dict[str, tuple[str | list[str], int]] = {}
    for key, value in root.value:
        line, many = key.start_mark.line + 1, isinstance(value, yaml.SequenceNode) and value.tag == _LIST
        for each in (key, *(value.value if many else [value])):
            if why := _wrong(each, getattr(key, "value", "")):
                raise ConfigError(f"{name}:{each.start_mark.line + 1}: {why}")
        if key.value in found:
            twice = f"key {key.value!r} stands already on line {found[key.value][1]}; keep one of them"
            raise ConfigError(f"{name}:{line}: {twice}")
        found[key.value] = ([each.value for each in value.value] if many else value.value, line)
    return found


def _wrong(node: yaml.Node, key: object) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return f"a nested mapping or list under {key!r}; a value is one text or a list of them"
    if node.tag != "tag:yaml.org,2002:str" or "\0" in node.value:
        what = "a NUL character" if "\0" in node.value else f"the tag {node.tag}"
        return f"{what} is not allowed; write a plain value"
    empty = not node.value or (node.style is None and node.value in ("~", "null", "Null", "NULL"))
    return f"key {key!r} has no value, or an empty entry in its list; write one or remove it" * empty


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
