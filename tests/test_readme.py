"""README.md and docs/ say what is so: commands, links, tables. tests/test_documented.py runs the commands."""

import functools
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import release_tables
import yaml
from documents import ALL, DOCUMENTS, ROOT, Command, sections

from benchmarks.__main__ import NAMES
from hat.cli.main import COMMANDS, load
from hat.cli.options import parser_of
from hat.files.download import released_models
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import read_table

README = (ROOT / "README.md").read_text("utf-8")
PROGRAMS = {"python", "bash", "torchrun", "pip", "cp", "sed", "pre-commit"}
CONFIG_FLAGS = ("--configs", "--sub-configs", "--evo-configs")


def block_lines(text: str) -> list[str]:
    return re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].strip().split("\n")


def test_the_first_screen_is_the_two_commands() -> None:
    first = [line.split("#")[0].strip() for line in block_lines(README)]
    assert first == ["bash scripts/quickstart.sh", "bash scripts/run_tests.sh"]
    assert README.index("```bash") < 600
    ci = (ROOT / ".ci/run").read_text()
    assert all(command in ci for command in first)


def test_dependencies_are_those_of_setup() -> None:
    text = dict(sections(ROOT / "README.md"))["Dependencies"].lower()
    setup = (ROOT / "setup.py").read_text()
    always = re.search(r"install_requires=\[(.*?)\]", setup, re.DOTALL)[1]
    names = [re.match(r"[a-z0-9-]+", name)[0] for name in re.findall(r'"(.+?)"', always)]
    extras = re.search(r"EXTRAS = \{(.*?)\n\}", setup, re.DOTALL)[1]
    names += [name for name in re.findall(r'"([A-Za-z0-9-]+)[^"]*"', extras)]
    assert "torch" in names and not [name for name in names if name.lower() not in text]
    newest = (ROOT / "constraints.txt").read_text()
    assert re.search(r"pytorch ([0-9.]+) or newer \(([0-9.]+)", text).groups() == (
        re.search(r'"torch>=([0-9.]+)"', always)[1],
        re.search(r"torch==([0-9.]+)", newest)[1],
    )


def made_by(commands: list[Command]) -> set[str]:
    """Return the configurations that documented commands write."""
    made = set()
    for command in commands:
        for word in command.words:
            flag, _, value = word.partition("=")
            if flag == "--write-config-path":
                made.add(value)
            if flag == "--evo-configs" and (ROOT / value).is_file():
                made.add(yaml.safe_load((ROOT / value).read_text()).get("write-config-path", ""))
            if flag == "--name" and "new-task" in command.words:
                made.add(f"configs/{value}")
        if command.words[0] == "cp":
            made.add(command.words[-1])
    return made


MADE = made_by(ALL)


@functools.cache
def flags_of(name: str) -> set[str]:
    """Return the flags that `hat <name> --help` lists."""
    listed = [each for each in parser_of(load(name))._actions if each.help != "==SUPPRESS=="]
    return {flag for each in listed for flag in each.option_strings}


@pytest.mark.parametrize(
    "command", ALL, ids=lambda command: f"{command.document}:{shlex.join(command.words)[:70]}"
)
def test_a_command_is_in_order(command: Command) -> None:
    """What it runs, its flags and the files it is given exist, or another documented command makes them."""
    program, script, words = command.words[0], command.script, command.arguments
    assert program in PROGRAMS, "teach this test the program"
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    if script.endswith(".sh"):
        assert subprocess.run(["bash", "-n", str(ROOT / script)]).returncode == 0
    elif command.name:
        assert command.name in COMMANDS and given <= flags_of(command.name)
    elif "benchmarks" in command.words:
        assert command.words[3] in NAMES or command.words[3] == "--help", "no such figure or study"
    else:
        assert program in ("pip", "cp", "sed", "pre-commit")
    if script == "scripts/run_task.sh":
        flags = words[words.index("--") :] if "--" in words else ()
        assert {word.partition("=")[0] for word in flags[1:]} <= flags_of("run")
        task = f"configs/{words[0]}"
        device = f"{task}/latency_dataset/{words[1]}.yml"
        assert task in MADE or device in MADE or (ROOT / device).is_file()
    for word in words:
        flag, _, value = word.partition("=")
        path = value if flag in CONFIG_FLAGS else word
        if flag in CONFIG_FLAGS or (path.startswith("configs/") and "*" not in path):
            assert (ROOT / path).is_file() or path in MADE


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if not target.startswith("https://"):
            name, _, anchor = target.partition("#")
            there = path.parent / name if name else path
            assert there.exists(), target
            headings = [heading.lower().replace(" ", "-") for heading, _ in sections(there)] if anchor else []
            assert not anchor or anchor in headings, target


def test_the_table_of_models_is_that_of_the_release() -> None:
    models = released_models()
    table = release_tables.markdown_table(models)
    text = (ROOT / "docs/models.md").read_text("utf-8")
    wanted = f"{release_tables.BEGIN}{table}{release_tables.END}"
    assert wanted in text, "run python tests/release_tables.py"
    assert len(table.split("\n")) == 2 + 48 + 1


OWN_DATA = [
    [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    for line in dict(sections(ROOT / "README.md"))["Latency data of our own"].split("\n")
    if line.startswith("| `")
]


@pytest.mark.parametrize("row", OWN_DATA, ids=lambda row: Path(row[0]).stem)
def test_latency_data_of_our_own_is_as_the_readme_says(row) -> None:
    file, _, rows, _, mape, tau, command = row
    table = read_table(ROOT / file)
    assert len(table) == int(rows.replace(",", ""))
    config = Path(command.partition("--configs=")[2].split()[0])
    wanted = yaml.safe_load((ROOT / config).read_text())
    assert command.startswith("python latency_dataset.py ") and wanted["lat-dataset-path"] == file
    predictor = LatencyPredictor.load(ROOT / "latency_dataset/predictors" / f"{Path(file).stem}.pt")
    assert f"{predictor.report['mape_percent']:.2f}%" == mape
    assert f"{predictor.report['kendall_tau']:.3f}" == tau
