"""`hat <command>`: every command loads, shows what it uses in groups, and completes."""

import re
from collections.abc import Sequence

import pytest

from hat.cli import evo_search, latency_dataset, latency_predictor
from hat.cli.data import new_task
from hat.cli.files import average
from hat.cli.main import COMMANDS, main
from hat.cli.options import only, parse, parser_of
from hat.cli.run import main as run_task
from hat.cli.translate import generate, score
from hat.config import Options, option
from hat.errors import ConfigError


def test_the_overview_names_every_command(capsys) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert main([]) == 2 and main(["--version"]) == 0
    assert main(["trian"]) == 2 and "did you mean train?" in capsys.readouterr().err


MOST = {"train": 90, "evo-search": 70, "latency-dataset": 70, "score": 12}  # the others: 40


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


SPACE = ["--encoder-embed-dim=16", "--decoder-embed-dim=16", "--encoder-layers=1", "--decoder-layers=1"]
TABLE = ["--lat-dataset-path=x.csv", *SPACE]
FEW = ["--pareto", "--pareto-evaluations=2", "--latency-constraints", "100", "60", "40"]
SEARCH = ["--ckpt-path=a.pt", "--write-config-path=b.yml", "--restore-file=c.pt"]


@pytest.mark.parametrize(
    ("main", "argv", "expected"),
    [
        (evo_search.main, [], "--ckpt-path is needed"),
        (evo_search.main, SEARCH, "--latency-constraint"),
        (evo_search.main, [*SEARCH, "--latency-constraint=5"], "a.pt"),
        (evo_search.main, ["--evo-configs=no.yml"], "cannot read configuration no.yml: No such file"),
        (evo_search.main, ["--latency-constrain=5"], "did you mean --latency-constraint?"),
        (evo_search.main, ["--population-size=7"], "--population-size 7 is not parents"),
        (evo_search.main, ["--objectives", "latency", "energy"], "'energy' is not one of latency, params"),
        (evo_search.main, ["--pareto", *SEARCH[::2]], "--search-dir is needed"),
        (evo_search.main, [*SEARCH, *FEW], "--pareto-evaluations 2 is too few for 3 limits"),
        (run_task, [], "--task is needed: one of"),
        (latency_dataset.main, SPACE, "--lat-dataset-path is needed"),
        (latency_dataset.main, [*TABLE, "--encoder-attention-heads=3"], "do not divide qkv-dim"),
        (latency_dataset.main, TABLE, "there is no data folder None"),
        (latency_dataset.main, [*TABLE, "--vocab-size", "5", "6", "7"], "--vocab-size must be one or two"),
        (latency_dataset.main, [*TABLE, "--vocab-size=4"], "--vocab-size must be at least 5, got 4"),
        (latency_predictor.main, [], "--lat-dataset-path is not given"),
        (latency_predictor.main, ["--lat-dataset-path=x.csv", "--ckpt-path=x.pt"], "x.csv does not exist"),
        (generate, [], "--path is needed"),
        (generate, ["--path=no.pt"], "the checkpoint no.pt does not exist"),
        (generate, ["--path=no.pt", "--remove-bpe=spm"], "allowed: '@@ '"),
        (score, ["--gen-output=none.out"], "none.out is no file"),
        (score, ["--mode=sacr"], "did you mean sacre?"),
        (average, [], "--inputs"),
        (average, ["--inputs=."], "holds no checkpointN.pt"),
        (new_task, [], "required: --name, --source, --target, --template"),
        (new_task, ["--name=x", "--template=y", "--source=a", "--target=b"], "<name>.<source>-<target>"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(main, argv, expected, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().split("\n")
    assert expected in error[-1] and "Traceback" not in "".join(error)
    assert list(tmp_path.iterdir()) == []


def test_score_names_a_damaged_line(tmp_path, capsys) -> None:
    path = tmp_path / "gen.out"
    path.write_text("S-0\ta\nT-0\tb\nH-0\t-0.5\n")
    assert score(["--gen-output", str(path)]) == 2
    assert f"{path}:3" in capsys.readouterr().err
    path.write_text("T-0\tb\nH-0\t-0.5\tb\nT-1\tc\n")
    assert score(["--gen-output", str(path)]) == 2
    assert "not one of each" in capsys.readouterr().err
