"""Options as typed dataclasses, and the strict YAML files that fill them.

A dataclass of options derives from `Options`; a field made by `option` carries its bounds, the text below a
field is its help. `hat/cli/options.py` makes command lines of such classes; nothing here knows one.
"""

import ast
import dataclasses
import functools
import inspect
import json
import math
import re
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar, cast

import yaml

from hat.errors import ConfigError, foreign, suggest, undecodable

MAX_BYTES = 1 << 20  # a configuration is a page, not a data set
Role = Literal["counts", "free", "lengthens", "machine", "file"]
_HIDDEN_ENDS = re.compile("[\x85\u2028\u2029]|\r(?!$)", re.MULTILINE)


def option(
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    off: float | None = None,
    help: str = "",
    metavar: str = "",
    const: Any = MISSING,
    role: Role = "counts",
) -> Any:
    """Return a dataclass field with bounds, which `Options` checks; None and values in tuples are known.

    Args:
        default: value if neither a file nor the command line gives one; without it the option is required.
        low, high: smallest and largest value allowed.
        above, below: bounds that are not allowed themselves.
        off: one more value that is allowed, for example -1 for "never".
        help: text for a field without a text below it, as generated classes have.
        metavar: placeholder in the help of a command (default: by the type and the name).
        const: value of a flag that is given without one.
        role: what the option does to the result of a run, see hat.run.Identity. "counts" changes it, "free"
            never does, "lengthens" says when the run ends, "machine" on what it runs; "file" names a file, a
            folder, a split or a language, of which the content counts and not the name.
    """
    bounds = {"low": low, "high": high, "above": above, "below": below, "off": off}
    found: dict[str, Any] = {name: value for name, value in bounds.items() if value is not None}
    texts = {"help": help, "metavar": metavar, "role": role}
    found |= {name: text for name, text in texts.items() if text}
    if const is not MISSING:
        found["const"] = const
    return (
        dataclasses.field(metadata=found)
        if default is MISSING
        else dataclasses.field(default=default, metadata=found)
    )


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of all dataclasses of options: checks the bounds of its fields.

    Raises ConfigError, naming the option, the value and what is allowed.
    """

    def __post_init__(self) -> None:
        for each in fields(self):
            check_bounds(each, getattr(self, each.name))


def flag_of(name: str) -> str:
    """Return the flag of a field, for example `--max-update`."""
    return f"--{name.replace('_', '-')}"


def check_bounds(field: Field[Any], value: Any) -> None:
    """Raise ConfigError if a value of a field made by `option` is out of its bounds; None never is."""
    if typing.get_origin(field.type) is typing.Literal and value not in typing.get_args(field.type):
        one = ", ".join(typing.get_args(field.type))
        raise ConfigError(f"{flag_of(field.name)} must be one of {one}, got {value!r}")
    known = field.metadata
    low, high, above, below = (known.get(name) for name in ("low", "high", "above", "below"))
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, str) and field.type in (int, float):
            raise ConfigError(f"{flag_of(field.name)} must be a number, got {number!r}")
        if number is None or isinstance(number, str | bool) or number == known.get("off"):
            continue
        inside = (
            (low is None or number >= low)
            and (high is None or number <= high)
            and (above is None or number > above)
            and (below is None or number < below)
        )
        if inside and math.isfinite(number):
            continue
        parts = [
            f"{word} {bound:g}" if isinstance(bound, float) else f"{word} {bound}"
            for word, bound in (("at least", low), ("at most", high), ("above", above), ("below", below))
            if bound is not None
        ]
        if low is not None and high is not None:
            parts = [f"between {low} and {high}"]
        text = f"must {'lie' if 'between' in parts[0] else 'be'} {' and '.join(parts)}"
        if "off" in known:
            text += f", or {known['off']}"
        raise ConfigError(f"{flag_of(field.name)} {text}, got {number}")


@functools.cache
def help_of(group: type) -> dict[str, str]:
    """Return the help of each field of a dataclass: the text below it, or the one that `option` was given."""
    texts: dict[str, str] = {}
    for each in fields(group):
        if "help" in each.metadata:
            texts[each.name] = each.metadata["help"]
    for cls in reversed(group.__mro__[:-1]):
        if not dataclasses.is_dataclass(cls):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(cls))
        except (OSError, TypeError):  # a class that a function made has no text
            continue
        statements = ast.parse(source).body[0]
        body = statements.body if isinstance(statements, ast.ClassDef) else []
        for field, text in zip(body, body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                texts[field.target.id] = " ".join(str(text.value.value).split())
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

    def one_of(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}{suggest(text, choices)}")
        return text

    if choices:
        return one_of
    return {int: _int, float: _float, bool: _bool, tuple[float, float]: _pair}.get(kind, str)


def _int(text: str) -> int:
    if not re.fullmatch(r"[+-]?(0|[1-9][0-9]*)", text):
        raise ValueError(f"{text!r} is not a whole number such as 4096")
    return int(text)


def _float(text: str) -> float:
    number = r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]+)?"
    if not re.fullmatch(number, text) or not re.match(r"[+-]?\.?[0-9]", text):
        raise ValueError(f"{text!r} is not a number such as 0.1 or 1e-7")
    if math.isinf(value := float(text)):
        raise ValueError(f"{text!r} is too large for a number")
    return value


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "yes", "on", "false", "no", "off"):
        raise ValueError(f"must be True or False, got {text!r}")
    return text.lower() in ("true", "yes", "on")


def _pair(text: str) -> tuple[float, float]:
    parts = text.strip().strip("()[]").split(",")
    if len(parts) != 2:
        raise ValueError(f"{text!r} is not a pair of numbers such as (0.9, 0.98)")
    return _float(parts[0].strip()), _float(parts[1].strip())


def value_of(hint: Any, entry: Any) -> Any:
    """Return the value of an option with this type hint that an entry of a YAML file stands for.

    The entry is a text or a list of them. Raises ValueError, saying what the option takes, for any other.
    """
    kind, many = kind_of(hint)
    texts = [str(text) for text in entry] if isinstance(entry, list | tuple) else [str(entry)]
    if not texts:
        raise ValueError("needs at least one value, got an empty list")
    if not many and isinstance(entry, list | tuple):
        if kind != tuple[float, float]:
            raise ValueError(f"takes one value, got the list {list(entry)}")
        texts = [", ".join(texts)]
    found = [converter(kind)(text) for text in texts]
    return tuple(found) if many else found[0]


G = TypeVar("G")


def fill(group: type[G], entries: Mapping[str, Any], **values: Any) -> G:
    """Return a dataclass of options filled from the entries of a YAML file; other entries are ignored.

    Args:
        group: the dataclass.
        entries: texts, or lists of them, by YAML keys, as `read_config` returns them.
        values: values that win over the entries.

    Raises ConfigError for a text that is no value of its option.
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
    """Return {key: (text or list of texts, line number)} of one flat YAML mapping.

    Plain YAML loaders keep the last of duplicate keys and read `010` as 8, `12:30` as 750 and `1e-7` as a
    string. Here every value stays the text that stands in the file; the type of its option converts it. The
    record of a run, `run.json`, stands for the settings in it.

    Raises ConfigError, with file and line, for duplicate keys, empty values, nesting and tags.
    """
    name = getattr(stream, "name", "configuration")
    text = ""
    try:
        text = stream.read()
        if name.endswith("run.json"):
            return _settings_of_record(text, name)
        if hidden := _HIDDEN_ENDS.search(text):  # a key behind one would be invisible in an editor
            raise ConfigError(
                f"{name}:{_line(text, hidden.start())}: the character {hidden[0]!a} ends a line here, for "
                "YAML only; remove it, or write it as an escape in double quotes"
            )
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"cannot read configuration {name}: {error.strerror}; check the disk") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        why = undecodable(name, error.object[error.object.rfind(b"\n", 0, error.start) + 1 :], error)
        raise ConfigError(f"{name}:{line}: the line {why}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{name}:{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"{name}:{_line(text, error.position)}: not valid YAML: the character {chr(error.character)!a} "
            "is not allowed; remove it"
        ) from error
    except (OverflowError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}:1: not valid YAML: {error}; write plain `key: value` lines") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{name}:{root.start_mark.line + 1}: expected `key: value` lines")
    found: dict[str, tuple[str | list[str], int]] = {}
    for key, value in root.value:
        many = isinstance(value, yaml.SequenceNode) and not value.tag.startswith(
            ("!", "tag:yaml.org,2002:py")
        )
        for each in (key, *(value.value if many else [value])):
            _check_scalar(each, f"{name}:{each.start_mark.line + 1}", getattr(key, "value", ""))
        line = key.start_mark.line + 1
        if key.value in found:
            raise ConfigError(
                f"{name}:{line}: key {key.value!r} stands already on line {found[key.value][1]}; keep one of "
                "them"
            )
        found[key.value] = ([each.value for each in value.value] if many else value.value, line)
    return found


def _settings_of_record(text: str, name: str) -> dict[str, tuple[str | list[str], int]]:
    try:
        settings = json.loads(text)["settings"]
        return {
            str(key): ([str(each) for each in value] if isinstance(value, list) else str(value), 1)
            for key, value in settings.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{name}:1: not the record of a run ({error!r}); give a YAML file") from error


def _check_scalar(node: yaml.Node, where: str, key: object) -> None:
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(
            f"{where}: a nested mapping or list under {key!r}; keys stand at the top level only, and a value "
            "is one text or a list of them"
        )
    if node.tag != "tag:yaml.org,2002:str":
        raise ConfigError(f"{where}: the tag {node.tag} is not allowed; write a plain value")
    if "\0" in node.value:
        raise ConfigError(f"{where}: a NUL character is not allowed; remove it")
    if not node.value or (node.style is None and node.value in ("~", "null", "Null", "NULL")):
        raise ConfigError(
            f"{where}: key {key!r} has no value, or an empty entry in its list; write one or remove it"
        )


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
