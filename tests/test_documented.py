"""The commands of README.md and docs/ run: word for word, or in tiny form where they would take hours."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from glob import glob
from importlib import import_module
from pathlib import Path

import pytest
import torch
from documents import ALL, ROOT, Command
from release_archives import wmt14_en_de
from release_files import saved_by_the_release, write
from toy_predictor import released_weights

from hat.cli.settings import TaskData, parse_settings
from hat.data.toy import toy_pairs
from hat.files.download import Downloaded
from hat.latency.predictor import LatencyPredictor
from hat.model.transformer import SuperTransformer
from hat.space import space_of

README, MULTI30K, OWN, FROM_2020 = "README.md", "docs/multi30k.md", "docs/your_own.md", "docs/from_2020.md"
SEARCH = "docs/search.md"
SEARCH_SECTIONS = ["One limit", "Several limits", "The whole front", "Twenty limits"]
SEARCH_SECTIONS += ["Going on, and starting warm"]
ONE_COMMAND = [(README, "All of it with one command"), (MULTI30K, "All stages on Multi30k")]
STAGES = ["1. Data", "2. SuperTransformer", "3. Latency dataset and predictor", "4. Search"]
STAGES += ["5. Train, average and test the SubTransformer", "6. Profile"]
OWN_SECTIONS = ["Your own device", "Your own task and language pair", "Your own search space"]
RELEASE = [
    "Data",
    "Released models",
    "BLEU",
    "Size, FLOPs and latency",
    "Smaller files",
    "1. Train a SuperTransformer",
    "2.1 Make a latency dataset",
    "2.2 Train a latency predictor",
    "2.3 Search under a latency limit",
    "3. Train the SubTransformer",
]
ELSEWHERE = [  # test_readme.py compares them with what the scripts and .ci/run do
    (README, "HAT: Hardware-Aware Transformers"),
    (README, "Installation"),
]
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


def of(document: str, section: str) -> list[Command]:
    found = [command for command in ALL if (command.document, command.section) == (document, section)]
    assert found, f"{document} has no commands under {section!r}"
    return found


def test_every_section_with_commands_is_run_by_a_test() -> None:
    """Of what others add to docs/, test_readme.py looks at flags and files at least."""
    covered = {(README, section) for section in RELEASE} | {(MULTI30K, section) for section in STAGES}
    covered |= {(OWN, section) for section in OWN_SECTIONS} | {*ONE_COMMAND, *ELSEWHERE}
    covered |= {(SEARCH, section) for section in SEARCH_SECTIONS} | {
        (FROM_2020, "Your files"),
        (README, "Report"),
    }
    mine = {command[:2] for command in ALL if command.document in (README, MULTI30K, OWN, FROM_2020, SEARCH)}
    assert mine == covered


def run(words: tuple[str, ...], *extra: str, code: int = 0) -> str:
    """Run one command, our Python scripts in this process, everything else as one; returns its output."""
    if words[0] == "python":
        own = words[1] == "-m"
        where = {"benchmarks": "benchmarks.__main__", "hat": "hat.cli.main"}
        module = import_module(where[words[2]] if own else f"hat.cli.{Path(words[1]).stem}")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            found = module.main([*words[3 if own else 2 :], *extra])
        assert found == code, (words, out.getvalue(), err.getvalue())
        return out.getvalue() + err.getvalue()
    env = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "RAW_DIR": "raw"}
    expanded = [name for word in words for name in (sorted(glob(word)) if "*" in word else [word])]
    done = subprocess.run([*expanded, *extra], env=env, capture_output=True, text=True)
    assert done.returncode == code, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout + done.stderr


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A copy of everything a user runs, without what running made; the working directory of the test."""
    names = ("train.py", "evo_search.py", "latency_dataset.py", "latency_predictor.py", "download_model.py")
    for name in ("configs", "scripts", *names):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "hat").symlink_to(ROOT / "hat")
    (tmp_path / "raw").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Data, testing and training as in the 2020 release: every command as it stands, with YAML files made small.

FFN = {"3072": "48", "2048": "32", "1024": "16", "512": "8"}
WIDTH = {"640": "40", "512": "32"}
SMALL = {
    "max-update": "2",
    "update-freq": "1",
    "save-interval": "1",
    "validate-interval": "1",
    "profile-length": "3",
    "latiter": "2",
    "lat-dataset-size": "12",
    "train-steps": "20",
    "hidden-dim": "8",
    "evo-iter": "2",
    "population-size": "4",
    "parent-size": "2",
    "mutation-size": "1",
    "crossover-size": "1",
    "latency-constraint": "100000",
}
EN_DE = "configs/wmt14.en-de"


def shrink(line: str) -> str:
    """Return a line of a YAML file with a tiny value where it says how large something is."""
    key, colon, value = line.partition(":")
    if key in SMALL:
        return f"{key}: {SMALL[key]}"
    sizes = FFN if "-ffn-" in key else WIDTH if re.search("embed|qkv", key) else {}
    return key + colon + re.sub(r"\d+", lambda found: sizes.get(found[0], found[0]), value)


@pytest.fixture
def release(workspace, monkeypatch) -> Iterator[Path]:
    """A small 2020: its archive, its YAML files, and a download that brings small files of its formats."""
    for path in (workspace / EN_DE).glob("*/*.yml"):
        path.write_text("".join(shrink(line) + "\n" for line in path.read_text().splitlines()))
    wmt14_en_de(workspace / "raw")

    def download(url: str, path: Path, **options: object) -> Downloaded:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.name == "predictors":
            torch.save(released_weights(4), path)
        elif path.stem in ("HAT_wmt14ende_super_space0", "HAT_wmt14ende_raspberrypi@3.5s_bleu@25.8"):
            argv = [f"--configs={EN_DE}/supertransformer/space0.yml"]
            s = parse_settings(argv, prog="x", description="", config_flags=("--configs",))[0]
            model = SuperTransformer(space_of(s.space), TaskData(s.task).vocab_sizes, s.model)
            write(saved_by_the_release(s.space, s.model, model), path)
        return Downloaded(path, 0, "", "downloaded")

    monkeypatch.setattr("hat.cli.files.download", download)
    return workspace


def refused(command: Command) -> str:
    """Return what the command says that lacks something, for tasks of which this test has no data."""
    return run(command.words, code=2)


def test_the_commands_of_the_release(release) -> None:
    said: dict[tuple[str, ...], str] = {}
    for section in RELEASE:
        for command in of(README, section):
            others = "wmt14.en-de" not in " ".join(command.words) and "configs" in " ".join(command.words)
            if section == "Data" and (others or "get_preprocessed" in command.script):
                said[command.words] = run(command.words, "-h")  # test_release_tasks.py runs them
                assert said[command.words].startswith(f"usage: bash {command.script}")
            elif others and "--profile-flops" not in command.words:
                said[command.words] = refused(command)
                assert "make it with `" in said[command.words]
            else:
                said[command.words] = run(command.words)
    (command,) = of(FROM_2020, "Your files")
    (report,) = (json.loads(line) for line in run(command.words).split("\n") if line.startswith("{"))
    assert report["input"]["params"] == report["output"]["params"]
    everything = "\n".join(said.values())
    for text in (
        "data/binary/wmt16_en_de is up to date",
        "#Params: 27.33 M",
        "latency total: ",
        "safetensors small.safetensors: ",
        "wmt14ende_cpu_raspberrypi_all.csv does not exist; reading",
        "predictors/wmt14ende_cpu_raspberrypi.released.pt",
        f"found {EN_DE}/subtransformer/wmt14ende_titanxp@200ms.yml",
        "make it with `bash configs/wmt14.en-fr/preprocess.sh`",
        "make it with `python download_model.py --model-name=HAT_iwslt14deen_titanxp@137.8ms_bleu@34.7`",
    ):
        assert text in everything, text
    LatencyPredictor.load("latency_dataset/predictors/wmt14ende_cpu_raspberrypi.pt")
    outputs = sorted(path.name for path in release.rglob("exp/*.out"))
    assert outputs == ["HAT_wmt14ende_raspberrypi@3.5s_bleu@25.8_test.out", "average_model_10_test.out"]


# One's own.


def write_corpus(count: int, source: Path, target: Path) -> None:
    pairs = toy_pairs(3, count)
    source.write_text("".join(f"{pair[0]}\n" for pair in pairs), "utf-8")
    target.write_text("".join(f"{pair[1]}\n" for pair in pairs), "utf-8")


def write_multi30k(raw: Path) -> None:
    for split, count in (("train", 300), ("val", 40), ("test_2016_flickr", 12)):
        write_corpus(count, raw / f"{split}.en", raw / f"{split}.de")


def test_the_stages_on_multi30k(workspace) -> None:
    write_multi30k(workspace / "raw")
    for section in STAGES:
        for command in of(MULTI30K, section):
            script = Path(command.script).name
            extra = [str(workspace / "raw")] if script == "preprocess.sh" else TINY.get(script, [])
            run(command.words, *(["--latiter=3"] if section.startswith("6.") else extra))
    found = workspace / "configs/multi30k.en-de/subtransformer/multi30kende_cpu@40ms.yml"
    assert found.exists()
    assert list(workspace.glob("checkpoints/multi30k.en-de/subtransformer/*/exp/average_model_5_test.out"))
    (report,) = of(README, "Report")
    run(report.words)
    page = (workspace / report.words[-1] / "report/index.html").read_text("utf-8")
    assert "multi30kende_cpu@40ms" in page and "nrefs:1" in page and 'id="front"' in page
    for section in SEARCH_SECTIONS:
        for command in of(SEARCH, section):
            run(command.words, *tiny_search(command.words))
    assert len(list(found.parent.glob("multi30kende_small@*ms.yml"))) == 2
    assert len(list(found.parent.glob("multi30kende_front@*ms.yml"))) == 2
    assert {"summary.json", "evaluations.csv", "front", "random.jsonl"} <= {
        path.name for path in (workspace / "runs/front").iterdir()
    }


def tiny_search(words: tuple[str, ...]) -> list[str]:
    """Return what makes a command of docs/search.md small, with limits that a tiny model keeps."""
    if "front-check" in words:
        return ["--share=0.01"]
    extra = [flag for flag in TINY["evo_search.py"] if "latency" not in flag] + ["--no-measure"]
    extra += ["--pareto-evaluations=8", "--pareto-population=4", "--pareto-children=4"]
    if "--latency-constraints" in words:
        extra += ["--max-params=1e9", "--latency-constraints", "100000", "200000"]
    if "--ablations=1000" in words:
        extra.append("--ablations=12")
    one = [word for word in words if word.startswith("--latency-constraint=")]
    return extra + (["--latency-constraint=100000", "--search-dir=runs/one"] if one else [])


def run_task(words: tuple[str, ...], *extra: str) -> None:
    """Run scripts/run_task.sh as the command it starts, in this process, and look at its result."""
    more = words[words.index("--") + 1 :] if "--" in words else ()
    run(("python", "hat/cli/run.py", f"--task={words[2]}", f"--hardware={words[3]}", *more, *extra))
    summary = json.loads(Path("runs", words[2], words[3], "summary.json").read_text())
    names = [model["name"] for model in summary["models"]]
    assert names[:2] == ["largest", "smallest"] and all(name.startswith("found@") for name in names[2:])
    keys = {"name", "params", "flops", "constraint_ms", "predicted_ms", "measured_ms", "within_limit", "bleu"}
    assert all(keys <= model.keys() for model in summary["models"])
    page = Path("runs", words[2], words[3], "report/index.html").read_text("utf-8")
    assert 'id="front"' in page and all(name in page for name in names)
    assert all(f">{model['bleu']:.2f}<" in page for model in summary["models"])
    assert all(entry["cpu_s"] >= 0 for entry in summary["stage_cost"].values())


@pytest.mark.parametrize(
    "section",
    [
        OWN_SECTIONS[1],
        *(pytest.param(name, marks=pytest.mark.slow) for name in (OWN_SECTIONS[0], OWN_SECTIONS[2])),
    ],
)
def test_ones_own(section, workspace) -> None:
    write_corpus(700, workspace / "corpus.en", workspace / "corpus.de")
    text = (ROOT / OWN).read_text("utf-8")
    (workspace / "my_space.yml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    for command in of(OWN, section):
        if command.script == "scripts/run_task.sh":
            run_task(command.words, "--latency-constraints=100000")  # one search instead of two
        else:
            run(command.words)


@pytest.mark.slow
def test_all_stages_with_one_command(workspace) -> None:
    write_multi30k(workspace / "raw")
    (command,), (same,) = (of(*place) for place in ONE_COMMAND)
    assert command.words == same.words
    tiny = ["--super-updates=2", "--sub-updates=2", "--dataset-rows=12", "--evo-iterations=2", "--average=1"]
    run_task(command.words, f"--raw={workspace / 'raw'}", *tiny)
