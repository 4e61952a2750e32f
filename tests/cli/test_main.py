"""`hat <command>`: every command loads, shows what it uses in groups, and completes."""

import re
from collections.abc import Sequence

import pytest

from hat.cli.main import COMMANDS, load, main
from hat.cli.options import only, parse, parser_of
from hat.config import Options, option
from hat.errors import ConfigError


def test_the_overview_names_every_command(capsys) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert main([]) == 2 and main(["--version"]) == 0
    assert main(["trian"]) == 2 and "did you mean train?" in capsys.readouterr().err


MOST = {
    "train": 90,
    "evo-search": 70,
    "latency-dataset": 70,
    "latency-predictor": 40,
    "generate": 40,
    "score": 12,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_lists_its_options_a_line_each(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0 and "--help" in text
    listed = [line for line in text.split("\n") if line.startswith("  -")]
    assert len(listed) <= MOST.get(name, 40)
    assert all(re.match(r"  -\S+( \S+)*  +\S", line) for line in listed), "an option without a text"
    assert not re.search(r"(?m)^ {12,}\S", text), "an option that takes two lines"


def test_completions_know_commands_and_options(capsys) -> None:
    assert main(["completion", "bash"]) == 0
    text = capsys.readouterr().out
    assert "latency-predictor" in text and "--lat-dataset-path" in text
    assert main(["completion", "fish"]) == 2


class _One(Options):
    pass


def test_a_command_lists_only_what_it_uses(tmp_path, capsys) -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Shared(Options):
        """Shared"""

        used: int = option(3, low=1, high=9, help="used here")
        unused: float = option(0.5, above=0, below=1, help="used elsewhere")

    def command(argv: Sequence[str]) -> Shared:
        return parse(argv, only(Shared, "used"), prog="x", description="x", config_flags=["--configs"])[0]

    text = parser_of(command).format_help()
    assert "--used N" in text and "--unused" not in text
    (tmp_path / "a.yml").write_text("unused: 0.25\nused: 4\n")
    found = command([f"--configs={tmp_path / 'a.yml'}"])
    assert (found.used, found.unused) == (4, 0.25)
    assert capsys.readouterr().err == ""
    command(["--unused=0.1"])
    assert "--unused: no effect on this command" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--used must be at least 1 and at most 9, got 10"):
        command(["--used=10"])
    with pytest.raises(ConfigError, match="--unused must be above 0 and below 1, got 1"):
        command(["--unused=1"])


def test_only_knows_its_fields() -> None:
    with pytest.raises(AssertionError, match="has no"):
        only(_One, "nothing")


def test_a_parser_is_had_without_running_the_command() -> None:
    for name in ("report", "train"):
        assert "json" in parser_of(load(name)).format_help()
