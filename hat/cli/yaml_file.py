"""The strict YAML reader behind --configs: flat mappings, uninterpreted scalars, errors with file and line.

Plain YAML loaders keep the last of duplicate keys and read `010` as 8, `12:30` as 750 and `1e-7` as a string.
Here every scalar stays the text that stands in the file; the option's own type converts it or refuses it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import configargparse
import yaml

from hat.errors import ConfigError

_HIDDEN_ENDS = re.compile("[\x85\u2028\u2029]|\r(?!$)")
MAX_BYTES = 1 << 20  # a configuration is a page, not a data set


def open_config(path: str, mode: str = "r") -> TextIO:
    """Open a configuration file; raises ConfigError where it is missing, unreadable or far too large."""
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has more than {MAX_BYTES} bytes; that is no configuration file")
        return open(path, mode, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}; check --configs") from error


def read_flat_yaml(stream: TextIO) -> dict[str, tuple[str | list[str], int]]:
    """Return {key: (text or list of texts, line number)} of one flat YAML mapping.

    Raises ConfigError, with file and line, for duplicate keys, empty values, nesting, anchors and tags.
    """
    name = getattr(stream, "name", "configuration")
    text = ""
    try:
        text = stream.read()
        _check_characters(text, name)
        return dict(_entries(text, name))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {name}: {error.strerror}; check the disk") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not UTF-8 text; save the file as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{name}:{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{name}:{line}: not valid YAML: the character {chr(error.character)!a} is not allowed; remove it"
        ) from error
    except (OverflowError, ValueError) as error:  # PyYAML does not check escapes such as "\\UFFFFFFFF"
        found = re.search(r"\\U(?!000|0010)", text)
        line = text.count("\n", 0, found.start() if found else 0) + 1
        raise ConfigError(
            f"{name}:{line}: not valid YAML: {error}; check the escapes in double quotes"
        ) from error


def _check_characters(text: str, name: str) -> None:
    """Refuse line ends that YAML sees and an editor does not: a key behind one would be hidden."""
    for number, line in enumerate(text.split("\n"), 1):
        found = _HIDDEN_ENDS.search(line)
        if found:
            raise ConfigError(
                f"{name}:{number}: the character {found[0]!a} ends a line here, for YAML only; remove it, or "
                "write it as an escape in double quotes"
            )


def _entries(text: str, name: str) -> Iterator[tuple[str, tuple[str | list[str], int]]]:
    """Yield the entries of the mapping; works on the event stream, so depth and aliases cost nothing."""
    seen: dict[str, int] = {}
    key: str | None = None
    items: list[str] | None = None
    in_mapping = False
    documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        where = f"{name}:{line}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ConfigError(f"{where}: anchors and aliases are not allowed; write the value out")
        if getattr(event, "tag", None):
            raise ConfigError(f"{where}: the tag {event.tag} is not allowed; write a plain value")
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ConfigError(f"{where}: a second YAML document; keep one document in a file")
        elif isinstance(event, yaml.MappingStartEvent):
            if in_mapping:
                raise ConfigError(f"{where}: nested mapping under {key!r}; keys stand at the top level only")
            in_mapping = True
        elif isinstance(event, yaml.MappingEndEvent):
            in_mapping = False
        elif isinstance(event, yaml.SequenceStartEvent):
            if key is None or items is not None:
                raise ConfigError(f"{where}: a list is allowed only as the value of a key, and not in a list")
            items = []
        elif isinstance(event, yaml.SequenceEndEvent):
            assert key is not None and items is not None
            yield key, (items, seen[key])
            key, items = None, None
        elif isinstance(event, yaml.ScalarEvent):
            if not in_mapping:
                raise ConfigError(f"{where}: expected `key: value` lines, got {event.value[:40]!r}")
            if "\0" in event.value:
                raise ConfigError(f"{where}: a NUL character is not allowed; remove it")
            empty = not event.value or (event.style is None and event.value in ("~", "null", "Null", "NULL"))
            if items is not None:
                if empty:
                    raise ConfigError(
                        f"{where}: an empty entry in the list {key!r}; write a value or remove it"
                    )
                items.append(event.value)
            elif key is None:
                key = event.value
                if key in seen:
                    raise ConfigError(
                        f"{where}: key {key!r} stands already on line {seen[key]}; keep one of them"
                    )
                seen[key] = line
            else:
                if empty:
                    raise ConfigError(f"{where}: key {key!r} has no value; write one or remove the line")
                yield key, (event.value, line)
                key = None


class FlatYamlParser(configargparse.ConfigFileParser):
    """Adapter of `read_flat_yaml` for configargparse; remembers where each key stood."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}

    def get_syntax_description(self) -> str:
        return "Configuration files are flat YAML; keys are option names without the dashes in front."

    def parse(self, stream: TextIO) -> dict[str, str | list[str]]:
        entries = read_flat_yaml(stream)
        self.places.update({key: f"{stream.name}:{line}" for key, (_, line) in entries.items()})
        return {key: value for key, (value, _) in entries.items()}

    def serialize(self, items: dict) -> str:
        return yaml.safe_dump(dict(items))
