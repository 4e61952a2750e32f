"""The strict YAML reader: what it takes, what it refuses, and that it refuses with ConfigError only."""

import io
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hat.config import open_config, read_config, read_flat_yaml
from hat.errors import ConfigError


def read(text: str) -> dict:
    stream = io.StringIO(text)
    stream.name = "my.yml"
    return {key: value for key, (value, _) in read_flat_yaml(stream).items()}


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(text)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"),
        ("12:30", "12:30"),
        ("1e-7", "1e-7"),
        ("no", "no"),
        ("2026-01-01", "2026-01-01"),
        ("(0.9, 0.98)", "(0.9, 0.98)"),
        ("'null'", "null"),
        ('"a\\tb"', "a\tb"),
        ("[-1, 1, 2]", ["-1", "1", "2"]),
        ("[]", []),
        ("\n- 3\n- 4", ["3", "4"]),
        ("a # comment", "a"),
        (">\n folded\n text", "folded text\n"),
    ],
)
def test_scalars_stay_text(text: str, value: object) -> None:
    assert read(f"key: {text}\n") == {"key": value}


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "my.yml:3", "key 'a' stands already on line 1"),
        ("a: 1\n'a': 1\n", "my.yml:2", "stands already on line 1"),
        ("a: 1\nb:\n", "my.yml:2", "key 'b' has no value"),
        ("a: ~\n", "my.yml:1", "has no value"),
        ("a: ''\n", "my.yml:1", "has no value"),
        ("a: null\n", "my.yml:1", "has no value"),
        ("a: [1, , 2]\n", "my.yml:1", ""),
        ("a:\n- 1\n-\n", "my.yml:3", "or an empty entry in its list"),
        ("a: {b: 1}\n", "my.yml:1", "a nested mapping or list under 'a'"),
        ("a:\n  b: 1\n", "my.yml:2", "a nested mapping or list under 'a'"),
        ("a: [[1]]\n", "my.yml:1", "one text or a list of them"),
        ("a: [b: 1]\n", "my.yml:1", "nested mapping"),
        ("? [a]\n: 1\n", "my.yml:1", "a nested mapping or list"),
        ("- a\n", "my.yml:1", "expected `key: value` lines"),
        ("just text\n", "my.yml:1", "expected `key: value` lines"),
        ("a: 1\n---\nb: 2\n", "my.yml:2", "but found another document"),
        ("a: *x\n", "my.yml:1", "found undefined alias"),
        ("a: !!python/object/apply:os.system [ls]\n", "my.yml:1", "nested mapping or list"),
        ("a: !!python/name:os.system x\n", "my.yml:1", "the tag tag:yaml.org,2002:python/name"),
        ("a: !x 1\n", "my.yml:1", "the tag !x is not allowed"),
        ("a: [1\n", "my.yml:2", "not valid YAML"),
        ("a: 'open\n", "my.yml:2", "not valid YAML"),
        ("\ta: 1\n", "my.yml:1", "not valid YAML"),
        ("a: b: c\n", "my.yml:1", "not valid YAML"),
        ("a: \0\n", "my.yml", "not valid YAML"),
        ("%YAML 9.1\n---\na: 1\n", "my.yml:1", "not valid YAML"),
        *((text, "my.yml", "") for text in ('a: "\\UFFFFFFFF"', 'a: "\\U00110000"', '"\\UFFFFFFFF": a')),
        # no option and no path can hold a NUL byte
        *((text, "my.yml:1", "") for text in ('a: "x\\0y"', '"x\\0y": a', 'a: ["\\0"]')),
    ],
)
def test_refusals_name_file_and_line(text: str, where: str, what: str) -> None:
    message = refusal(text)
    assert message.startswith(f"{where}:") and what in message, message


BOMB = "".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]\n" for n in range(1, 30))
DEEP = 20_000


@pytest.mark.parametrize(
    "text",
    [
        "k0: &k0 lol\n" + BOMB,
        "a: " + "[" * DEEP,
        "a: " + "[" * DEEP + "]" * DEEP,
        "a: " + "{b: " * DEEP,
        "a: " + "[\n" * DEEP,
        "- " * DEEP + "a",
        "? " * DEEP + "a",
        "[" * DEEP,
    ],
    ids=["aliases", "open", "closed", "mappings", "lines", "dashes", "questions", "no key"],
)
def test_bombs_are_refused_at_once(text: str) -> None:
    assert "my.yml" in refusal(text)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    for content, message in (
        (b"a: \xff\n", f"{path}:1: the line is not UTF-8"),
        (b"a: 1\nb: \xc3\x28\n", f"{path}:2: the line is not UTF-8"),
        (b"a: \0\n", f"{path}:1: not valid YAML"),
    ):
        path.write_bytes(content)
        with open_config(str(path)) as stream, pytest.raises(ConfigError, match=message):
            read_flat_yaml(stream)
    path.write_bytes(b"a: \xc3\xbc\r\nb: 1\r\n")
    with open_config(str(path)) as stream:
        assert read_flat_yaml(stream) == {"a": ("\u00fc", 1), "b": ("1", 2)}


def test_huge_missing_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "big.yml"
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="big.yml has more than 1048576 bytes"):
        open_config(str(path))
    for wrong in (tmp_path / "none.yml", tmp_path, path / "x"):
        with pytest.raises(ConfigError, match="cannot read configuration .*check the path"):
            open_config(str(wrong))


PIECES = st.sampled_from(
    [*"a[]{},'|>#%\"\\0~\0\n\t\ufeff\u2028", *["!<", "---", "...", "\\U", "\\x", "1e-7", "*x"]]
    + ["b: ", ": ", "- ", "? ", "  ", "&x ", "!!str ", "!x "]
)


@settings(max_examples=150)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=15).map("".join)))
@example('"\\UFFFFFFFF"')
@example('"\\xZZ"')
@example("!<%FF> a")
@example("%TAG ! tag:x,%FF\n---\n!a b")
@example("a: |9999999999999999999\n b")
def test_only_config_errors(text: str) -> None:
    try:
        entries = read(text)
    except ConfigError as error:
        assert str(error).startswith("my.yml")
        return
    for key, value in entries.items():
        assert isinstance(key, str)
        assert isinstance(value, str) or all(isinstance(item, str) for item in value)


def test_the_settings_of_a_run_can_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"settings": {"max-update": 5, "lr": 1e-07, "cpu": true, "choice": [16, 8]}}')
    assert read_config(path) == {"max-update": "5", "lr": "1e-07", "cpu": "True", "choice": ["16", "8"]}
    path.write_text("[]")
    with pytest.raises(ConfigError, match="not the record of a run"):
        read_config(path)


def test_each_option_has_a_known_role() -> None:
    from hat.cli.settings import GROUPS
    from hat.config import Role, to_yaml_values

    roles = get_args(Role)
    for group in GROUPS:
        assert all(each.metadata.get("role", "counts") in roles for each in fields(group))
        each, parts = group(), [to_yaml_values(group(), role=role) for role in roles]
        assert {key: value for part in parts for key, value in part.items()} == to_yaml_values(each)
