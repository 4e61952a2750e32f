"""Every command of the README runs: the stages in tiny form, the sections on one's own task word for word."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from glob import glob
from importlib import import_module
from pathlib import Path

import pytest

from hat.cli import stages
from hat.data.toy import toy_pairs

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
TINY = {
    "train.py": ["--max-update=2", "--max-tokens=512", "--no-tensorboard", "--threads=1", "--latiter=3"],
    "latency_dataset.py": ["--lat-dataset-size=12", "--latiter=3"],
    "latency_predictor.py": ["--train-steps=20"],
    "evo_search.py": [
        "--latency-constraint=100000",
        "--evo-iter=2",
        "--population-size=4",
        "--parent-size=2",
        "--mutation-size=1",
        "--crossover-size=1",
        "--valid-cnt-max=16",
    ],
}


def commands(section: str) -> list[list[str]]:
    """Return the words of each command in the bash blocks of one section, by the start of its heading."""
    body = next(part for part in re.split(r"(?m)^##+ ", README) if part.startswith(section))
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", body, re.DOTALL)).replace("\\\n", " ").split("\n")
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(words: list[str], extra: list[str] = ()) -> None:
    """Run one command: our Python scripts in this process, everything else as a process."""
    if words[0] == "python":
        module = import_module(f"hat.cli.{Path(words[1]).stem}")
        assert module.main([*words[2:], *extra]) == 0, words
        return
    env = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    words = [name for word in words for name in (sorted(glob(word)) if "*" in word else [word])]
    done = subprocess.run([*words, *extra], env=env, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A copy of everything a user runs, without what running made; the working directory of the test."""
    for name in (
        "configs",
        "scripts",
        "train.py",
        "evo_search.py",
        "latency_dataset.py",
        "latency_predictor.py",
    ):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "hat").symlink_to(ROOT / "hat")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_corpus(count: int, source: Path, target: Path) -> None:
    pairs = toy_pairs(3, count)
    source.write_text("".join(f"{pair[0]}\n" for pair in pairs), "utf-8")
    target.write_text("".join(f"{pair[1]}\n" for pair in pairs), "utf-8")


def test_every_command_has_a_test() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    everything = sum(len(commands(part.split("\n")[0])) for part in re.split(r"(?m)^##+ ", README)[1:])
    first_screen = ["bash scripts/quickstart.sh", "bash scripts/run_tests.sh"]
    assert [line.split("#")[0].strip() for line in blocks[0].strip().split("\n")] == first_screen
    ci = (ROOT / ".ci/run").read_text()
    assert all(command in ci for command in first_screen)
    covered = [name for name in STAGES + OWN for _ in commands(name)]
    installs = commands("Install")
    assert installs == [["pip", "install", "-c", "constraints.txt", "-e", ".[all]"]]
    script = (ROOT / "scripts/environment.sh").read_text()
    assert "--constraint constraints.txt --editable '.[all]'" in script
    assert everything == len(covered) + len(installs) + len(commands("The stages, on Multi30k\n"))


STAGES = [
    "1. Data",
    "2. SuperTransformer",
    "3. Latency dataset",
    "4. Search",
    "5. Train, average",
    "6. Profile",
]
OWN = ["Your own device", "Your own task", "Your own search space"]


def test_the_stages_on_multi30k(workspace) -> None:
    raw = workspace / "raw"
    raw.mkdir()
    for split, count in (("train", 300), ("val", 40), ("test_2016_flickr", 12)):
        write_corpus(count, raw / f"{split}.en", raw / f"{split}.de")
    for section in STAGES:
        for words in commands(section):
            script = Path(words[1]).name
            extra = [str(raw)] if script == "preprocess.sh" else TINY.get(script, [])
            if section.startswith("6."):
                extra = ["--latiter=3"]
            run(words, extra)
    found = workspace / "configs/multi30k.en-de/subtransformer/multi30kende_cpu@40ms.yml"
    assert found.exists()
    assert list(workspace.glob("checkpoints/multi30k.en-de/subtransformer/*/exp/average_model_5_test.out"))


def in_process(stage: stages.Stage) -> object:
    """Run a stage without starting Python anew; returns what it prints as JSON."""
    words = list(stage.command)
    if words[0] == "bash":
        result = subprocess.run(
            words,
            env=os.environ
            | {"PYTHON": sys.executable, "HAT_JSON": "1" if stage.json else "", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr[-2000:]
        return json.loads(result.stdout.strip().split("\n")[-1]) if stage.json else None
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert import_module(f"hat.cli.{Path(words[1]).stem}").main(words[2:]) == 0, words
    return json.loads(out.getvalue().strip().split("\n")[-1])


@pytest.mark.parametrize(
    "section", [OWN[1], *(pytest.param(section, marks=pytest.mark.slow) for section in (OWN[0], OWN[2]))]
)
def test_ones_own(section, workspace, monkeypatch, capsys) -> None:
    write_corpus(700, workspace / "corpus.en", workspace / "corpus.de")
    space = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1]
    (workspace / "my_space.yml").write_text(space)
    monkeypatch.setattr(stages, "_run", in_process)
    for words in commands(section):
        if words[:2] == ["bash", "scripts/run_task.sh"]:
            split = words.index("--")
            flags = [f"--task={words[2]}", f"--hardware={words[3]}", *words[split + 1 :]]
            words = ["python", "scripts/run_task.py", *flags]
        run(words)
    summary = json.loads(next(workspace.glob("runs/*/*/summary.json")).read_text())
    names = [model["name"] for model in summary["models"]]
    assert names[:2] == ["largest", "smallest"] and all(name.startswith("found@") for name in names[2:])
    keys = {"name", "params", "flops", "constraint_ms", "predicted_ms", "measured_ms", "bleu"}
    assert all(keys <= model.keys() for model in summary["models"])
