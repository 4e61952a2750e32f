"""The commands of README.md and docs/ run: word for word, or in tiny form where they would take hours."""

import json
import re
import shutil
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import pytest
import torch
from documents import ALL, ROOT, Command
from fixed_latencies import fix_latencies
from release_archives import wmt14_en_de
from release_files import saved_by_the_release, write
from served_python import in_process, run_script
from toy_predictor import released_weights

from benchmarks.__main__ import main as benchmarks
from hat.cli.main import main as hat
from hat.cli.run import shell as real_shell
from hat.cli.settings import dataset_of, parse_settings
from hat.data.toy import toy_pairs
from hat.files.download import Downloaded
from hat.latency.predictor import LatencyPredictor
from hat.model.transformer import SuperTransformer
from hat.space import Arch, space_of

README, MULTI30K, OWN, FROM_2020 = "README.md", "docs/multi30k.md", "docs/your_own.md", "docs/from_2020.md"
SEARCH, DEPLOY = "docs/search.md", "docs/deploy.md"
SEARCH_SECTIONS = ["One limit", "Several limits", "The whole front", "Twenty limits", "Short trainings"]
ONE_COMMAND = [(README, "All of it with one command"), (MULTI30K, "All stages on Multi30k")]
STAGES = ["1. Data", "2. SuperTransformer", "3. Latency dataset and predictor", "4. Search"]
STAGES += ["5. Train, average and test the SubTransformer", "6. Profile"]
OWN_SECTIONS = ["Your own device", "Your own task and language pair", "Your own search space"]
DEPLOY_SECTIONS = ["A bundle", "Translate", "Other engines", "Measure on another board"]
DEPLOY_SECTIONS += ["Search for that engine"]
RELEASE = ["Data", "Testing", "BLEU", "Size, FLOPs and latency", "Smaller files"]
RELEASE += ["1. Train a SuperTransformer", "2.1 Make a latency dataset", "2.2 Train a latency predictor"]
RELEASE += ["2.3 Search under a latency limit", "3. Train the SubTransformer"]
ELSEWHERE = [  # test_readme.py compares them with what the scripts and .ci/run do
    (README, "HAT: Hardware-Aware Transformers"),
    (README, "Installation"),
    (MULTI30K, "Figures"),  # ONE_COMMAND with shorter stages
]


def of(document: str, section: str) -> list[Command]:
    found = [command for command in ALL if (command.document, command.section) == (document, section)]
    assert found, f"{document} has no commands under {section!r}"
    return found


def test_every_section_with_commands_is_run_by_a_test() -> None:
    """Of what others add to docs/, test_readme.py looks at flags and files at least."""
    covered = {(README, section) for section in RELEASE} | {(MULTI30K, section) for section in STAGES}
    covered |= {(OWN, section) for section in OWN_SECTIONS} | {*ONE_COMMAND, *ELSEWHERE}
    covered |= {(SEARCH, section) for section in SEARCH_SECTIONS} | {(README, "Report")}
    covered |= {(DEPLOY, section) for section in DEPLOY_SECTIONS} | {(FROM_2020, "Your files")}
    documents = (README, MULTI30K, OWN, FROM_2020, SEARCH, DEPLOY)
    mine = {command[:2] for command in ALL if command.document in documents}
    assert mine == covered


def run(words: tuple[str, ...], *extra: str, code: int = 0) -> str:
    """Run one command, its Python in this process; returns its output and errors."""
    if words[0] == "python":
        words = words[3:] if words[1:3] == ("-m", "hat") else words[1:]
        if words[0] == "-m":
            found, *said = in_process(benchmarks, [*words[2:], *extra])
        else:
            name = words[0].replace("download_model", "download").replace("_", "-").removesuffix(".py")
            found, *said = in_process(hat, [name, *words[1:], *extra])
    else:
        expanded = [name for word in words for name in (sorted(glob(word)) if "*" in word else [word])]
        found, *said = run_script([*expanded, *extra], Path("bin").absolute(), RAW_DIR="raw")
    assert found == code, (words, *(text[-2000:] for text in said))
    return "".join(said)


_SMALL = """max-update=2 max-tokens=512 update-freq=1 save-interval=1 validate-interval=1 profile-length=3
lat-dataset-size=24 evo-iter=2 population-size=4 parent-size=2 mutation-size=1 crossover-size=1
latency-constraint=100000"""
SMALL = dict(pair.split("=") for pair in _SMALL.split())
EN_DE = "configs/wmt14.en-de"


def shrink(line: str) -> str:
    """Return a line of a YAML file with a tiny value if it says how large something is."""
    key, colon, value = line.partition(":")
    if key in SMALL:
        return f"{key}: {SMALL[key]}"
    factor = 64 if "-ffn-" in key else 16 if re.search("embed|qkv", key) else 1
    return key + colon + re.sub(r"\d{2,}", lambda found: str(int(found[0]) // factor), value)


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A copy of everything a user runs, without what running made; tasks are tiny, nothing is measured."""
    names = ("train.py", "evo_search.py", "latency_dataset.py", "latency_predictor.py", "download_model.py")
    for name in ("configs", "scripts", *names):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for task in ("toy.en-de", "multi30k.en-de", "wmt14.en-de"):
        for path in (tmp_path / "configs" / task).glob("*/*.yml"):
            path.write_text("".join(shrink(line) + "\n" for line in path.read_text().splitlines()))
    toy = tmp_path / "configs/toy.en-de/preprocess.sh"
    small = 'toy-data --to "$raw/new" --train 400 --valid 20 --test 12'
    toy.write_text(toy.read_text().replace('toy-data --to "$raw/new"', small))
    (tmp_path / "hat").symlink_to(ROOT / "hat")
    for name in ("raw", "bin"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hat.cli.run.shell", shell)
    fix_latencies(monkeypatch)
    monkeypatch.setattr("hat.report.page.png", lambda *what: b"")  # drawn by tests/report
    return tmp_path


def shell(*words: str, asked: bool = False) -> list[str]:
    """Do what hat.cli.run.shell does, with the Python of a script in this process."""
    if asked:
        return real_shell(*words, asked=True)
    code, out, err = run_script(["bash", *words], Path("bin").absolute())
    assert code == 0, (words, out, err)
    return []


# Data, testing and training as in the 2020 release.


@pytest.fixture
def release(workspace, monkeypatch) -> Iterator[Path]:
    """A small 2020: its archive, and a download that brings small files of its formats."""
    wmt14_en_de(workspace / "raw")

    def download(url: str, path: Path, **options: object) -> Downloaded:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.name == "predictors":
            torch.save(released_weights(4), path)
        elif path.stem in ("HAT_wmt14ende_super_space0", "HAT_wmt14ende_raspberrypi@3.5s_bleu@25.8"):
            argv = [f"--configs={EN_DE}/supertransformer/space0.yml"]
            s = parse_settings(argv, prog="x", description="", config_flags=("--configs",))[0]
            model = SuperTransformer(space_of(s.space), dataset_of(s.task).vocab_sizes, s.model)
            write(saved_by_the_release(s.space, s.model, model), path)
        return Downloaded(path, 0, "", "downloaded")

    monkeypatch.setattr("hat.files.download.download", download)
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
        f"found {EN_DE}/subtransformer/wmt14ende_titanxp@200ms.yml",
        "make it with `bash configs/wmt14.en-fr/preprocess.sh`",
        "make it with `python download_model.py --model-name=HAT_iwslt14deen_titanxp@137.8ms_bleu@34.7`",
    ):
        assert text in everything, text
    LatencyPredictor.load("latency_dataset/predictors/wmt14ende_cpu_raspberrypi.pt")
    outputs = sorted(re.sub(r"_\d+\.out$", "", path.name) for path in release.rglob("exp/*.out"))
    device = "raspberrypi@3.5s_bleu@25.8"
    assert [name.partition("_test_")[0] for name in outputs] == [
        f"HAT_wmt14ende_{device}",
        "average_model_10",
    ]


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
            extra = [str(workspace / "raw")] if command.script.endswith("preprocess.sh") else []
            extra += ["--latency-constraint=100000"] if command.script == "evo_search.py" else []
            run(command.words, *extra)
    found = workspace / "configs/multi30k.en-de/subtransformer/multi30kende_cpu_space1@25ms.yml"
    assert found.exists()
    assert list(workspace.glob("checkpoints/multi30k.en-de/subtransformer/*/exp/average_model_5_test_*.out"))
    Path("text.en").write_text("A man is sleeping.\n\nTwo dogs run.\n")
    only_last_layer = set(Arch.from_yaml(found).decoder.cross_span) == {1}
    for section in DEPLOY_SECTIONS:
        for command in of(DEPLOY, section):
            words = " ".join(command.words)
            refused = "ctranslate2" in words and "--model=model" in words and not only_last_layer
            run(command.words, code=2 if refused else 0)
    assert len(Path("text.de").read_text().splitlines()) == 3
    (report,) = of(README, "Report")
    run(report.words)
    page = (workspace / report.words[-1] / "report/index.html").read_text("utf-8")
    assert "multi30kende_cpu_space1@25ms" in page and "nrefs:1" in page and 'id="front"' in page
    for section in SEARCH_SECTIONS:
        for command in of(SEARCH, section):
            run(command.words, *tiny_search(command.words))
    assert len(list(found.parent.glob("multi30kende_small@*ms.yml"))) == 2
    assert len(list(found.parent.glob("multi30kende_front@*ms.yml"))) == 2
    assert {"summary.json", "evaluations.csv", "front"} <= {
        path.name for path in (workspace / "runs/front").iterdir()
    }
    (command,), (same,) = (of(*place) for place in ONE_COMMAND)
    assert command.words == same.words
    less = [f"--raw={workspace / 'raw'}", "--super-updates=2", "--sub-updates=1"]
    run_task(command.words, *less)
    said = run(("python", "-m", "hat", "run", f"--task={command.words[2]}", *command.words[5:], *less))
    stages = [line for line in said.splitlines() if line.startswith("stage ")]
    assert len(stages) > 8 and all("up to date" in line for line in stages[1:]), "the script does the first"


def tiny_search(words: tuple[str, ...]) -> list[str]:
    """Return what makes a command of docs/search.md small, with limits that a tiny model keeps."""
    extra = ["--no-measure", "--pareto-evaluations=8", "--pareto-population=4", "--pareto-children=4"]
    if "--latency-constraints" in words:
        extra += ["--max-params=1e9", "--latency-constraints", "100000", "200000"]
    extra += ["--rerank=2", "--rerank-updates=1"] if "--rerank=8" in words else []
    one = [word for word in words if word.startswith("--latency-constraint=")]
    return extra + (["--latency-constraint=100000", "--search-dir=runs/one"] if one else [])


def run_task(words: tuple[str, ...], *extra: str) -> None:
    """Run scripts/run_task.sh as the command it starts, in this process, and look at its result."""
    more = words[words.index("--") + 1 :] if "--" in words else ()
    run(("python", "-m", "hat", "run", f"--task={words[2]}", f"--hardware={words[3]}", *more, *extra))
    Path("corpus.txt").write_text("the dog sleeps\n")
    (summary_json,) = Path("runs", words[2]).glob("*/summary.json")
    summary = json.loads(summary_json.read_text())
    names = [model["name"] for model in summary["models"]]
    kinds = [name.partition("@")[0] for name in names if not name.startswith("baseline")]
    assert kinds[:2] == ["largest", "smallest"] and set(kinds[2:]) == {"found"}
    keys = {"name", "params", "flops", "constraint_ms", "predicted_ms", "measured_ms", "limit_kept", "bleu"}
    assert all(keys <= model.keys() for model in summary["models"])
    for model in summary["models"]:
        made = model["weights"] == "trained" and not model["same_as"]
        assert made == ("bundle" in model)
        if made:
            assert f"| quality | {model['bleu']:.2f} BLEU" in Path(model["bundle"], "README.md").read_text()
            run(("python", "-m", "hat", "translate", f"--model={model['bundle']}", "--input=corpus.txt"))
    page = Path(summary_json.parent, "report/index.html").read_text("utf-8")
    assert 'id="front"' in page and all(name in page for name in names)
    assert all(f">{model['bleu']:.2f}<" in page for model in summary["models"])
    assert all(entry["cpu_s"] >= 0 for entry in summary["stage_cost"].values())


@pytest.mark.parametrize("section", OWN_SECTIONS)
def test_ones_own(section, workspace) -> None:
    write_corpus(300, workspace / "corpus.en", workspace / "corpus.de")
    text = (ROOT / OWN).read_text("utf-8")
    (workspace / "my_space.yml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    for command in of(OWN, section):
        if command.script == "scripts/run_task.sh":
            less = ["--super-updates=2", "--sub-updates=1", "--latency-constraints=100000"]
            run_task(command.words, *less)
        else:
            run(command.words, *(["--held-out=12"] if "new-task" in command.words else []))
