"""Options from dataclasses: precedence, types, and messages that name file, line and the nearest option."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml

from hat.cli.options import IGNORED, command, parse
from hat.config import to_yaml_values
from hat.errors import ConfigError, DataError


@dataclass(frozen=True)
class Toy:
    """Toy group

    More text that is not the title.
    """

    count: int = 3
    """how many, 100%"""
    rate: float = 0.5
    """a rate
    told in two lines"""
    name: str = "abc"
    folder: str | None = None
    limit: int | None = None
    sizes: tuple[int, ...] = ()
    betas: tuple[float, float] = (0.9, 0.98)
    kind: Literal["red", "green"] = "red"
    flag: bool = False
    lamp: bool = True
    no_bar: bool = False


@dataclass(frozen=True)
class Needy:
    """Needs something"""

    wanted: str


def toy(*argv: str) -> Toy:
    return parse(argv, Toy, prog="toy.py", description="x", config_flags=("--configs", "--sub-configs"))[0]


@pytest.fixture
def write(tmp_path: Path):
    def to(text: str, name: str = "a.yml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return to


def refusal(*argv: str) -> str:
    with pytest.raises(ConfigError) as error:
        toy(*argv)
    return str(error.value)


def test_precedence(write) -> None:
    first = write("count: 4\nrate: 0.1\nname: x\nflag: True\nlamp: no\nsizes: [1, 2]\nfolder: f\n")
    second = write("rate: 0.2\nname: y\nflag: off\nsizes: [3]\n", "b.yml")
    assert toy("--configs", first) == Toy(
        count=4, rate=0.1, name="x", flag=True, lamp=False, sizes=(1, 2), folder="f"
    )
    for argv in (
        (f"--configs={first}", f"--sub-configs={second}"),
        (f"--sub-configs={second}", f"--configs={first}"),  # --sub-configs wins wherever it stands
    ):
        both = toy(*argv)
        assert (both.count, both.rate, both.name, both.flag, both.lamp) == (4, 0.2, "y", False, False)
        assert both.sizes == (3,)
        last = toy(*argv, "--rate", "0.3", "--flag", "--lamp", "--sizes", "7", "8", "9")
        assert (last.rate, last.name, last.flag, last.lamp, last.sizes) == (0.3, "y", True, True, (7, 8, 9))
    assert toy("--rate=0.3", f"--configs={first}").rate == 0.3, "a flag wins also before the file"
    assert toy(f"--configs={first}", "--no-flag").flag is False


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("rate: 1e-3", "rate", 1e-3),
        ("rate: -1", "rate", -1.0),
        ("count: -3", "count", -3),
        ("count: '7'", "count", 7),
        ("name: no", "name", "no"),
        ("name: 010", "name", "010"),
        ("name: -x --count 9", "name", "-x --count 9"),
        ("limit: 5", "limit", 5),
        ("sizes: [-1, 1, 2]", "sizes", (-1, 1, 2)),
        ("sizes:\n- 4\n- 5", "sizes", (4, 5)),
        ("betas: (0.9, 0.98)", "betas", (0.9, 0.98)),
        ("betas: '(0.8,0.9)'", "betas", (0.8, 0.9)),
        ("kind: green", "kind", "green"),
        *((f"flag: {word}", "flag", True) for word in ("yes", "True", "true", "on", "ON")),
        *((f"lamp: {word}", "lamp", False) for word in ("no", "False", "false", "off")),
    ],
)
def test_yaml_values(text: str, field: str, value: object, write) -> None:
    found = getattr(toy(f"--configs={write(text)}"), field)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count: 010", "count: '010' is not a whole number"),
        ("count: 1e3", "count: '1e3' is not a whole number"),
        ("count: 1_000", "is not a whole number"),
        ("count: " + "9" * 5000, "count"),
        ("count: \u0663", "is not a whole number"),
        ("rate: 01.5", "rate: '01.5' is not a number"),
        ("rate: nan", "is not a number"),
        ("rate: fast", "rate: 'fast' is not a number such as 0.1 or 1e-7"),
        ("rate: [1, 2]", "rate: takes one value, got the list"),
        ("sizes: []", "sizes: needs at least one value, got an empty list"),
        ("sizes: [1, x]", "sizes: 'x' is not a whole number"),
        ("sizes: [1, --count=9]", "sizes: '--count=9' is not a whole number"),
        ("betas: (0.9)", "betas: '(0.9)' is not a pair of numbers such as (0.9, 0.98)"),
        ("betas: [0.9, x]", "betas: '0.9, x' is not a pair"),
        ("kind: gren", "kind: 'gren' is not one of red, green; did you mean green?"),
        ("flag: 1", "flag: '1' is not True or False"),
        ("cuont: 3", "unknown key 'cuont'; did you mean count?; see toy.py --help"),
        ("<<: 3", "unknown key '<<'"),
        ("count: 3\ncount: 4", "key 'count' stands already on line 2"),
        ("count:", "key 'count' has no value"),
    ],
)
def test_wrong_yaml_names_file_and_line(text: str, message: str, write) -> None:
    path = write("# first line\n" + text)
    found = refusal(f"--configs={path}")
    assert found.startswith(f"{path}:{2 + ('already' in message)}: ") and message in found, found


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cuont", "3"], "unknown option --cuont; did you mean --count?"),
        (["--coun", "3"], "unknown option --coun; did you mean --count?"),
        (["word"], "unknown option word"),
        (["--count", "010"], "'010' is not a whole number"),
        (["--count"], "expected one argument"),
        (["--kind", "blue"], "'blue' is not one of red, green"),
        (["--sizes"], "expected at least one argument"),
        (["--flag=3"], "ignored explicit argument"),
        (["--configs", "/no/such.yml"], "cannot read configuration /no/such.yml"),
    ],
)
def test_wrong_flags(argv: list[str], message: str) -> None:
    assert message in refusal(*argv)


def test_a_missing_file_is_said_once_with_its_nearest_neighbour(write) -> None:
    path = write("count: 3\n", "space0.yml")
    wrong = path.replace("space0", "spacee0")
    message = f"cannot read configuration {wrong}: No such file or directory; check the path"
    assert refusal(f"--configs={wrong}") == f"{message}; did you mean {path}?"


def test_required_options(write) -> None:
    with pytest.raises(ConfigError, match="--wanted"):
        parse([], Needy, prog="toy.py", description="x")
    assert toy() == Toy()
    options = {"prog": "toy.py", "description": "x", "config_flags": ("--configs",)}
    assert parse([f"--configs={write('wanted: here')}"], Needy, **options)[0].wanted == "here"


@pytest.mark.parametrize("key", sorted(IGNORED))
def test_keys_of_the_release_without_effect_warn_once(key: str, write, capsys) -> None:
    assert toy(f"--configs={write(f'{key}: x')}", f"--sub-configs={write('count: 5', 'b.yml')}").count == 5
    said = capsys.readouterr().err
    assert said.count("no effect") == 1 and f"--{key} has no effect here: {IGNORED[key]}" in said
    toy()
    assert capsys.readouterr().err == ""


def test_help_comes_from_the_dataclass(capsys) -> None:
    with pytest.raises(SystemExit) as done:
        toy("--help")
    assert done.value.code == 0
    text = capsys.readouterr().out
    for part in ("Toy group", "how many, 100% (default: 3)", "a rate told in two lines (default: 0.5)"):
        assert part in text
    assert "More text" not in text and "(default: 0.9 0.98)" in text


def test_the_resolved_options_can_be_given_again(write) -> None:
    line = "--count -9 --rate=-1e-7 --name no --sizes -1 2 --betas (0.1,0.2) --no-lamp --flag --no-bar"
    first = toy(*line.split(), "--kind", "green", "--folder", "010")
    assert (first.count, first.rate, first.sizes, first.betas) == (-9, -1e-7, (-1, 2), (0.1, 0.2))
    text = yaml.safe_dump(to_yaml_values(first), sort_keys=False)
    assert toy(f"--configs={write(text)}") == first
    assert "limit" not in to_yaml_values(first)  # not given


def test_command_turns_errors_into_exit_codes(capsys) -> None:
    def run(error: BaseException | None) -> int:
        @command
        def main(argv: object = None) -> int:
            if error:
                raise error
            return 0

        return main([])

    assert run(None) == 0
    assert run(DataError("no data")) == 2
    assert capsys.readouterr().err == "DataError: no data\n"
    assert run(KeyboardInterrupt()) == 130
    assert "interrupted" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError())
