"""README.md and docs/ say what is so: commands, links, tables. tests/test_documented.py runs the commands."""

import contextlib
import functools
import io
import re
import shlex
import subprocess
import xml.etree.ElementTree as ElementTree
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from documents import ALL, DOCUMENTS, ROOT, Command, sections

from hat.cli import new_task as release
from hat.files.released import released_models
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import read_table

README = (ROOT / "README.md").read_text("utf-8")
PROGRAMS = {"python", "bash", "torchrun", "pip", "cp", "sed"}
CONFIG_FLAGS = ("--configs", "--sub-configs", "--evo-configs")


def block_lines(text: str) -> list[str]:
    return re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].strip().split("\n")


def test_the_first_screen_is_the_two_commands() -> None:
    first = [line.split("#")[0].strip() for line in block_lines(README)]
    assert first == ["bash scripts/quickstart.sh", "bash scripts/run_tests.sh"]
    assert README.index("```bash") < 600
    ci = (ROOT / ".ci/run").read_text()
    assert all(command in ci for command in first)


def test_installing_is_what_the_scripts_do() -> None:
    text = dict(sections(ROOT / "README.md"))["Installation"]
    assert block_lines(text) == ["pip install -c constraints.txt -e '.[all]'"]
    assert "--constraint constraints.txt --editable '.[all]'" in (ROOT / "scripts/environment.sh").read_text()


def test_dependencies_are_those_of_setup() -> None:
    text = dict(sections(ROOT / "README.md"))["Dependencies"]
    setup = (ROOT / "setup.py").read_text()
    always = re.search(r"install_requires=\[(.*?)\]", setup, re.DOTALL)[1]
    names = [re.match(r"[a-z-]+", name)[0] for name in re.findall(r'"(.+?)"', always)]
    assert "torch" in names and all(name in text for name in names if name != "torch")
    newest = (ROOT / "constraints.txt").read_text()
    assert re.search(r"PyTorch ([0-9.]+) or newer \(([0-9.]+)", text).groups() == (
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
def flags_of(script: str) -> set[str]:
    """Return the flags that `python <script> --help` or `python -m <module> <name> --help` explains."""
    module, _, name = script.removeprefix("-m ").partition(" ")
    if not script.startswith("-m "):
        module = re.search(r"from (hat\.cli\.\w+) import main", (ROOT / script).read_text())[1]
    elif name.startswith("-"):
        return {"--help"}
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as left:
        where = {"hat": "hat.cli.main", "benchmarks": "benchmarks.__main__"}.get(module, module)
        import_module(where).main([*name.split(), "--help"])
    assert left.value.code == 0
    found = re.findall(r"(?m)^\s+(?:-\w, )?--(\[no-\])?([a-z0-9-]+)", out.getvalue())
    return {f"--{flag}" for _, flag in found} | {f"--no-{flag}" for no, flag in found if no}


@pytest.mark.parametrize(
    "command", ALL, ids=lambda command: f"{command.document}:{shlex.join(command.words)[:70]}"
)
def test_a_command_is_in_order(command: Command) -> None:
    """What it runs, its flags and the files it is given exist, or another documented command makes them."""
    program, words, script = command.words[0], command.words[1:], command.script
    if words[0] == "-m":
        script = shlex.join(words[:3])
    assert program in PROGRAMS, "teach this test the program"
    assert bool(script) == (program in ("python", "bash", "torchrun"))
    if script.startswith("-m "):
        words = words[3:]
    elif script:
        assert (ROOT / script).is_file()
        words = words[words.index(script) + 1 :]
    if script.endswith(".sh"):
        assert subprocess.run(["bash", "-n", str(ROOT / script)]).returncode == 0
    else:
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert program in ("pip", "cp", "sed") or given <= flags_of(script)
    if script == "scripts/run_task.sh":
        flags = words[words.index("--") :] if "--" in words else ()
        assert {word.partition("=")[0] for word in flags[1:]} <= flags_of("-m hat run")
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


def test_code_named_in_the_readme_exists() -> None:
    for name in re.findall(r"`((?:hat|scripts|docs)/[\w./@-]+)`", README):
        assert (ROOT / name).exists(), name


def test_the_table_of_models_is_that_of_the_release(tmp_path, capsys) -> None:
    models = released_models()
    table = release.markdown_table(models)
    begin, end = release.BEGIN, release.END
    assert f"{begin}\n{table}{end}" in README, "run hat release-configs --readme=README.md"
    assert len(table.split("\n")) == 2 + 48 + 1
    for model in models:
        (line,) = [line for line in table.split("\n") if f"`{model.model_name}`" in line]
        assert f"]({model.url})" in line
        assert (
            model.is_super or f"| {model.latency} | {model.params_m:.2f} M | {model.flops_g:.2f} G |" in line
        )
    copy = tmp_path / "README.md"
    copy.write_text(README.replace(table, "old\n"), "utf-8")
    assert release.release_configs([f"--to={tmp_path}", f"--readme={copy}"]) == 0
    assert copy.read_text("utf-8") == README
    copy.write_text("no comments\n")
    assert release.release_configs([f"--to={tmp_path}", f"--readme={copy}"]) == 2
    assert "lacks the lines" in capsys.readouterr().err and copy.read_text() == "no comments\n"


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


def test_every_table_of_our_own_has_a_row() -> None:
    files = {f"latency_dataset/{path.name}" for path in (ROOT / "latency_dataset").glob("*.csv")}
    listed = [row[0] for row in OWN_DATA]
    tracked = subprocess.run(
        ["git", "ls-files", "latency_dataset/*.csv"], cwd=ROOT, capture_output=True, text=True
    )
    shipped = set(tracked.stdout.split()) if tracked.returncode == 0 else files
    assert len(set(listed)) == len(listed) and set(listed) == shipped


def test_the_figure_is_script_free_and_described() -> None:
    root = ElementTree.parse(ROOT / "docs/hat.svg").getroot()
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names[0] == "svg" and {"title", "desc"} <= set(names)
    assert not {"script", "image", "foreignObject", "a"} & set(names)
    attributes = [name for element in root.iter() for name in element.attrib]
    assert not [name for name in attributes if name.startswith("on") or name.endswith("href")]
    assert "prefers-color-scheme: dark" in (ROOT / "docs/hat.svg").read_text()
