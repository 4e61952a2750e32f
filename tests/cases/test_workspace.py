"""The workspace of a task: rows A1 to A4, A9, A11, B1, B2, C1, C2 and C5 of the cases, and siblings."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hat.cli import distill, evo_search, latency_dataset, latency_predictor, train
from hat.cli.data import preprocess
from hat.cli.run import Task, TaskRunOptions, main
from hat.cli.settings import dataset_of
from hat.cli.translate import generate
from hat.data.toy import toy_pairs
from hat.errors import HatError
from hat.files.atomic import FolderLock, file_lock, write_text_atomic
from hat.model.transformer import SuperTransformer, extract
from hat.run import Run, record_path
from hat.space import Arch
from hat.train.checkpoint import pack, save

ROOT = Path(__file__).parents[2]
RAW = Path("data/raw/toy.en-de")
FLAGS: dict[str, Any] = {"task": "toy.en-de", "super_updates": 20, "sub_updates": 10, "dataset_rows": 12}
FLAGS |= {"evo_iterations": 2, "average": 1, "latency_constraints": (15.0, 20.0), "run_dir": "runs/a"}
FLAGS |= {"no_baselines": True}
MODELS = ("largest", "smallest", "found@15ms", "found@20ms")


class Predictor:
    """Stands for a trained predictor: 1 ms for each 32 numbers of the decoder's feed-forward layers."""

    conditions, max_coverage = {"threads": "1"}, 0.0

    def predict_ms(self, arch: Arch) -> float:
        return sum(arch.decoder.ffn_dims) / 32

    upper_ms = predict_ms


class Workshop:
    """A checkout in which stages only write small files; `made` are those that did, since the last look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._made: list[str] = []
        self.winners = {15.0: 0, 20.0: 1, 30.0: 1}  # number of an architecture by limit
        self.device = "a CPU"
        for module, run in (
            (train, self.train),
            (latency_dataset, self.measure),
            (latency_predictor, self.predict),
            (evo_search, self.search),
        ):
            fake = SimpleNamespace(parsed=module.parsed, identity=module.identity, run=run)
            monkeypatch.setattr(f"hat.cli.run.{module.__name__.rpartition('.')[2]}", fake)
        fake = SimpleNamespace(parsed=lambda words: words, run=self.translate)
        monkeypatch.setattr("hat.cli.run.translate", fake)
        for name in ("cli.run", "latency.measure"):
            monkeypatch.setattr(f"hat.{name}.device_name", lambda device: self.device)
        for name, fake in (("shell", self.shell), ("average", self.average), ("measure_fresh", self.fresh)):
            monkeypatch.setattr(f"hat.cli.run.{name}", fake)
        monkeypatch.setattr("hat.cli.run.LatencyPredictor.load", lambda *path: Predictor())
        row = SimpleNamespace(conditions={"reference_ms": "1"})
        monkeypatch.setattr("hat.cli.run.read_table", lambda path: [row])

    @property
    def made(self) -> list[str]:
        found, self._made = self._made, []
        return found

    def run(self, **flags: Any) -> list[str]:
        """Run all stages and return those that were made."""
        Task(TaskRunOptions(**FLAGS | flags), quiet=False).run()
        return self.made

    def write(self, path: Path, what: str) -> None:
        """Write a file of which no other has the content."""
        self._made += [what] if what else []
        write_text_atomic(path, f"{what} {time.perf_counter_ns()}\n")

    def train(self, options: Any, words: Any) -> None:
        folder = Path(options.run.save_dir)
        self.write(folder / "checkpoint_best.pt", f"train {folder.name}")
        self.write(folder / "checkpoint_last.pt", "")

    def measure(self, options: Any, words: Any) -> None:
        self.write(path := Path(options[1].lat_dataset_path), "table")
        self.write(path.with_name(f"{path.name}.run.json"), "")

    def predict(self, options: Any, words: Any) -> dict[str, float]:
        self.write(Path(options[0].ckpt_path), "predictor")
        return {"mape_percent": 1.0}

    def search(self, groups: Any, words: Any) -> None:
        self.write(Path(groups[1].search_dir) / "journal.jsonl", "search")
        for limit_ms in groups[1].latency_constraint:
            path = Path(groups[1].write_config_path).with_name(f"found@{limit_ms:g}ms.yml")
            arch = Task(TaskRunOptions(**FLAGS), quiet=True).space.smallest().to_yaml()
            key = "decoder-ffn-embed-dim-all-subtransformer"
            arch[key] = [(256, 512)[self.winners.get(limit_ms, 0)]] * len(arch[key])
            path.write_text("".join(f"{name}: {value}\n" for name, value in arch.items()))

    def average(self, folders: Any, output: Path, **how: Any) -> tuple[Path, list[Path]]:
        self.write(output, "")
        return output, []

    def fresh(self, archs: Any, *more: Any, **how: Any) -> Iterator[SimpleNamespace]:
        self._made.append("measure")
        return iter([SimpleNamespace(total_ms=Predictor().predict_ms(a), interval_ms=0.25) for a in archs])

    def shell(self, script: str, *words: str, asked: bool = False) -> list[str]:
        if script.endswith("preprocess.sh"):
            binarise(Path(words[0]) if words else RAW)
        text = Path(script).read_text() if asked else ""
        return ["generate", f"--sub-configs={words[1]}", *re.findall("--beam=[0-9]+", text)] if asked else []

    def translate(self, words: list[str]) -> dict[str, Any]:
        self._made.append(f"test {Path(words[0].partition('=')[2]).stem}")
        return {"bleu": 20.0 + len(words[0]), "signature": "nrefs:1"}


def binarise(raw: Path) -> None:
    flags = [f"--{name}pref={raw / name}" for name in ("train", "valid", "test")]
    flags += ["--source-lang=en", "--target-lang=de", "--joined-dictionary"]
    flags += ["--destdir=data/binary/toy_en_de"]
    assert preprocess(flags) == 0


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "configs/toy.en-de", folder / "configs/toy.en-de")
    (folder / "configs/toy.en-de/subtransformer/baseline.yml").unlink()
    (folder / RAW).mkdir(parents=True)
    for split, count in (("train", 60), ("valid", 12), ("test", 8)):
        pairs = toy_pairs(len(split), count)
        for side, lang in enumerate(("en", "de")):
            (folder / RAW / f"{split}.{lang}").write_text("".join(f"{pair[side]}\n" for pair in pairs))
    return folder


@pytest.fixture
def workshop(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    shutil.copytree(checkout, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return Workshop(monkeypatch)


ALL = ["train super", "table", "predictor", "search"]
FOUND = [f"{verb} {name}" for name in MODELS[2:] for verb in ("train", "test")]
ALL += ["test largest", "test smallest", *FOUND, "measure"]


def change(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    text, count = re.subn(f"(?m)^{old}" if old[0].isalpha() else old, new, text, count=1)
    assert count == 1, f"{path} has no {old}"
    Path(path).write_text(text)


def cosmetics() -> None:
    """What changes no result: a comment and another order in YAML, times, a long run folder."""
    path = Path("configs/toy.en-de/supertransformer/space0.yml")
    path.write_text("# a comment\n" + "".join(sorted(path.read_text().splitlines(keepends=True))))
    for file in Path("data/raw/toy.en-de").iterdir():
        os.utime(file, (1, 1))


def test_b1_what_changes_no_result_makes_nothing_again(workshop: Workshop, tmp_path: Path) -> None:
    assert workshop.run() == ALL
    assert workshop.run() == []
    Task(TaskRunOptions(**FLAGS | {"run_dir": str(tmp_path / "runs/a")}), quiet=True).run()
    cosmetics()
    shutil.move("runs/a", "runs/moved")
    assert workshop.run(run_dir="runs/moved") == []


def test_the_others_train_on_what_the_largest_translates(workshop: Workshop, monkeypatch) -> None:
    data, at, teachers = "data/binary/toy_en_de", [], []

    def translate(options: Any, words: Any) -> dict[str, Any]:
        teachers.append(options[1].teacher)
        assert options[0].task.data == data
        shutil.copytree(data, options[1].output)
        workshop.write(Path(options[1].output, "run.json"), "translate")
        return {}

    def note(options: Any, words: Any) -> None:
        at.append((Path(options.run.save_dir).name, options.task.data, options.run.restore_file))
        workshop.train(options, words)

    for module, run in ((distill, translate), (train, note)):
        fake = SimpleNamespace(parsed=module.parsed, identity=module.identity, run=run)
        monkeypatch.setattr(f"hat.cli.run.{module.__name__.rpartition('.')[2]}", fake)
    ends = ["train largest", "test largest", "translate", "test smallest"]
    assert workshop.run(distill="largest") == [*ALL[:4], *ends, *FOUND, "measure"]
    best = "runs/a/super/checkpoint_best.pt"
    assert at[:2] == [("super", data, None), ("largest", data, best)]
    assert at[2:] == [(name, "runs/a/distilled", best) for name in MODELS[2:]]
    Path("runs/a/distilled/run.json").unlink()
    assert workshop.run(distill="largest") == []
    with pytest.raises(HatError, match=r"the checkpoint none\.pt does not exist"):
        workshop.run(distill="none.pt")
    task = Task(TaskRunOptions(**FLAGS), quiet=True)
    known = dataset_of(task.settings.task)
    network = SuperTransformer(task.space, known.vocab_sizes, task.settings.model)
    save(pack(extract(network, task.space.largest()), known.digests), Path("given.pt"))
    assert workshop.run(distill="given.pt", run_dir="runs/b")[:2] == ["translate", "train super"]
    assert teachers == ["runs/a/largest/average_model_1.pt", "given.pt"]
    assert ("super", "runs/b/distilled", "given.pt") in at, "the SuperTransformer starts from its teacher"


@pytest.mark.parametrize(
    ("flags", "again"),
    [
        ({"sub_updates": 12}, FOUND),
        ({"latency_constraints": (15.0, 30.0)}, ["search"]),
        ({"super_updates": 21}, ["train super"]),
        ({"seed": 2}, ["train super", "table"]),
    ],
)
def test_b1_going_back_finds_the_earlier_result(
    flags: dict[str, Any], again: list[str], workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.run()
    files = {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()}
    capsys.readouterr()
    made = workshop.run(**flags)
    said = capsys.readouterr().out
    assert made[: len(again)] == again
    assert "changed: " in said and " -> " in said
    assert workshop.run() == []
    for path in files:
        if path.suffix != ".json":
            assert path.read_bytes() == files[path], path
    assert workshop.run(**flags) == []


def test_b1_what_was_interrupted_goes_on_after_going_back(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.run()

    def interrupted(options: Any, words: Any) -> None:
        workshop.train(options, words)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hat.cli.run.train.run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            workshop.run(seed=2)
    begun = Path("runs/a/super/checkpoint_best.pt").read_text()
    assert workshop.made and not workshop.run()
    assert [path.read_text() for path in Path("runs/a").glob("super.*/checkpoint_best.pt")] == [begun]
    capsys.readouterr()
    assert workshop.run(seed=2)[0] == "train super"
    assert "an earlier try goes on" in capsys.readouterr().out


def test_a1_other_references_are_scored_anew(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.run()
    shutil.copy(RAW / "test.en", RAW / "test.de")
    os.utime(RAW / "test.de", (1, 1))
    capsys.readouterr()
    assert workshop.run() == [f"test {name}" for name in MODELS]
    assert "changed: test.de content" in capsys.readouterr().out
    change("configs/toy.en-de/test.sh", "--beam=5", "--beam=4")
    assert workshop.run() == [f"test {name}" for name in MODELS]
    change("configs/toy.en-de/test.sh", "# BLEU", "# Score")
    assert workshop.run() == []
    common = Path("configs/toy.en-de/subtransformer/common.yml")
    kept = common.read_text()
    assert "amp:" not in kept or "amp: fp32" in kept
    kept = kept.replace("amp: fp32\n", "")
    common.write_text(f"{kept}amp: bf16\n")  # another number format may give other words
    capsys.readouterr()
    assert workshop.run() == [f"test {name}" for name in MODELS]
    assert "changed: amp " in capsys.readouterr().out
    kept += "amp: bf16\n"
    common.write_text(f"{kept}# a comment\nlog-interval: 7\n")
    assert workshop.run() == []


def test_a2_latencies_belong_to_their_device(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.run()
    workshop.device = "another CPU"
    capsys.readouterr()
    made = workshop.run()
    assert "  changed: device a CPU -> another CPU, table content\n" in capsys.readouterr().out
    assert made[:3] == ["table", "predictor", "search"] and made[-1] == "measure"
    assert not [name for name in made if name.startswith(("train", "test"))], "the same models were found"
    workshop.device = "a CPU"
    assert workshop.run() == []


@pytest.mark.parametrize(
    ("path", "damage", "stage"),
    [
        ("latency.csv", b"", "table"),
        ("predictor.pt", None, "predictor"),
        ("super/checkpoint_best.pt", b"cut", "train super"),
        ("found@15ms.yml", None, "search"),
    ],
)
def test_a9_a_damaged_output_is_no_output(
    path: str, damage: bytes | None, stage: str, workshop: Workshop
) -> None:
    workshop.run()
    file = Path("runs/a", path)
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    assert workshop.run()[0] == stage
    assert workshop.run() == []


def test_a11_equal_winners_are_one_model(workshop: Workshop) -> None:
    workshop.winners = {15.0: 0, 20.0: 0}
    made = workshop.run()
    assert "train found@15ms" in made and "train found@20ms" not in made and made.count("measure") == 1
    summary = json.loads(Path("runs/a/summary.json").read_text())
    names = {row["name"]: row["same_as"] for row in summary["models"]}
    assert names == dict.fromkeys(MODELS) | {"found@20ms": "found@15ms"}
    assert "found@15ms" in summary["found"] and "stages" in summary["price"]
    workshop.winners = {15.0: 0, 20.0: 1}
    shutil.rmtree("runs/a/search")
    Path("runs/a/found@20ms.yml").unlink()
    assert workshop.run() == ["search", "train found@20ms", "test found@20ms", "measure"]


def test_a11_baselines_are_trained_alike_or_not_at_all(workshop: Workshop) -> None:
    space = Task(TaskRunOptions(**FLAGS), quiet=True).space
    text = "".join(f"{key}: {value}\n" for key, value in space.largest().to_yaml().items())
    Path("configs/toy.en-de/subtransformer/baseline.yml").write_text(text)
    made = workshop.run()
    assert "train largest" not in made and "test largest" in made and "train found@15ms" in made
    rows = json.loads(Path("runs/a/summary.json").read_text())["models"]
    assert [row["weights"] for row in rows] == ["inherited"] * 3 + ["trained"] * 2
    made = workshop.run(no_baselines=False)
    assert made == [f"{verb} {name}" for name in MODELS[:2] for verb in ("train", "test")]


def test_b2_a_workspace_has_one_owner(workshop: Workshop) -> None:
    with FolderLock(Path("runs/a"), ""), pytest.raises(HatError, match="being written by another process"):
        workshop.run(super_updates=40)
    assert workshop.made == []


def test_what_has_no_record_is_moved_and_kept(workshop: Workshop) -> None:
    Path("runs/a/super").mkdir(parents=True)
    Path("runs/a/super/checkpoint_best.pt").write_text("made by hand")
    assert workshop.run() == ALL
    assert Path("runs/a/super.unknown/checkpoint_best.pt").read_text() == "made by hand"


def test_what_a_command_began_in_the_folder_goes_on(workshop: Workshop) -> None:
    binarise(RAW)
    options = train.parsed(Task(TaskRunOptions(**FLAGS), quiet=True)._words_of("super"))
    folder = Path("runs/a/super")
    with Run(record_path(folder, folder=True), "train", settings={}, identity=train.identity(options)):
        (folder / "checkpoint_1.pt").touch()
    assert workshop.run() == ALL and (folder / "checkpoint_1.pt").exists()


def edit(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).write_text("other\n")


def older(root: Path) -> None:
    (root / "raw/valid.en").write_text("older\n")
    os.utime(root / "raw/valid.en", (1, 1))


def pieces(root: Path) -> None:
    script = root / "configs/mine.en-de/preprocess.sh"
    script.write_text(script.read_text().replace("pieces 8", "pieces 9"))


@pytest.mark.parametrize(
    ("how", "again"),
    [
        (lambda root: None, False),
        (lambda root: os.utime(root / "raw/train.en"), False),
        (edit("raw/train.de"), True),
        (edit("raw/valid.de"), True),
        (edit("raw/test.en"), True),
        (older, True),
        (pieces, True),
        (lambda root: (root / "data/binary/mine/test.en-de.de.bin").unlink(), True),
        (edit("data/binary/mine/train.en-de.en.bin"), True),
    ],
)
def test_a4_content_decides_whether_data_are_made_again(
    how: Callable[[Path], None], again: bool, tmp_path: Path
) -> None:
    """The script of a task sees content only; commands are done by a script that stands for Python."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("configs/mine.en-de", "raw", "other"):
        (tmp_path / name).mkdir(parents=True)
    for split in ("train", "valid", "test"):
        for lang in ("en", "de"):
            (tmp_path / f"raw/{split}.{lang}").write_text(f"{split} {lang}\n")
    (tmp_path / "configs/mine.en-de/preprocess.sh").write_text(
        "src=en tgt=de work=data/text/mine binary=data/binary/mine\n"
        '. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/steps.sh"\n'
        "begin 0\ncount_workers 1\npieces 8 raw/{train,valid,test}\n"
    )
    python = tmp_path / "python"
    python.write_text(
        'echo made\nmkdir -p data/binary/mine\necho "$@" >data/binary/mine/dict.en.txt\n'
        "for i in {train,valid,test}.en-de.{en,de}.{bin,idx}; do echo $i >data/binary/mine/$i; done\n"
    )
    python.chmod(0o755)
    python.write_text("#!/bin/bash\n" + python.read_text())

    def start() -> str:
        env = os.environ | {"PYTHON": str(python)}
        words = ["bash", "-e", str(tmp_path / "configs/mine.en-de/preprocess.sh")]
        return subprocess.run(words, cwd="/", env=env, capture_output=True, text=True, check=True).stdout

    assert start() == "made\ndata/binary/mine is up to date\n"
    how(tmp_path)
    assert ("made" in start()) is again


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--average=0"], "--average must be at least 1"),
        (["--super-updates=0"], "--super-updates must be at least 1"),
        (["--sub-updates=-1"], "--sub-updates must be at least 1"),
        (["--dataset-rows=5"], "needs at least 10 rows"),
        (["--evo-iterations=0"], "--evo-iterations must be at least 1"),
        (["--latency-constraints", "0"], "must be above 0"),
        (["--latency-constraints", "-5"], "must be above 0"),
        (["--latency-constraints", "0.02", "0.02"], "0.02 is given twice"),
        (["--latency-constraints", "20", "20.0"], "20 is given twice"),
        (["--latency-constraints", "nan"], "not a number"),
        (["--seed=-1"], "--seed must be"),
        (["--run-dir=configs/toy.en-de/test.sh"], "Not a directory"),
        (["--raw=nowhere"], "--raw nowhere does not exist"),
    ],
)
def test_c2_what_a_later_stage_would_refuse_is_refused_first(
    flags: list[str], message: str, workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(Path(".").rglob("*"))
    assert main(["--task=toy.en-de", *flags]) == 2
    assert message in capsys.readouterr().err and not workshop.made
    assert set(Path(".").rglob("*")) == before


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("subtransformer/common.yml", "dropout: .*", "dropout: 1.5", "--dropout must be"),
        ("evo_search/toyende_cpu.yml", "evo-iter: .*", "evo-itre: 8", "evo-itre"),
        ("evo_search/toyende_cpu.yml", "parent-size: .*", "parent-size: 500", "500 + "),
        ("latency_predictor/cpu.yml", "ckpt-path:", "ckptpath:", "ckptpath"),
        ("subtransformer/common.yml", "data: .*", "data: data/binary/x", "a task has one data folder"),
    ],
)
def test_c2_files_of_later_stages_are_read_first(
    path: str, old: str, new: str, message: str, workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    change(f"configs/toy.en-de/{path}", old, new)
    assert main(["--task=toy.en-de", "--run-dir=runs/a"]) == 2
    assert message in capsys.readouterr().err and not workshop.made and not Path("runs").exists()


def test_c2_a_language_without_tokeniser_and_a_full_disk(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ja", "ko"):
        monkeypatch.setattr(f"sacrebleu.tokenizers.tokenizer_{name}_mecab.MeCab", None)
    os.rename("configs/toy.en-de", "configs/toy.en-ja")
    assert main(["--task=toy.en-ja"]) == 2 and "[ja]" in capsys.readouterr().err
    os.rename("configs/toy.en-ja", "configs/toy.en-de")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    assert main(["--task=toy.en-de"]) == 2 and "GiB are free" in capsys.readouterr().err
    assert not Path("runs").exists() and not workshop.made


def test_c2_a_data_folder_that_cannot_be_made_is_found_first(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(dir: Path) -> SimpleNamespace:
        if dir.name == "data":
            raise PermissionError
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert main(["--task=toy.en-de", "--run-dir=runs/a"]) == 2
    assert "cannot write data/binary/toy_en_de: " in capsys.readouterr().err and not Path("runs").exists()
    binarise(RAW)
    assert len(workshop.run()) == len(ALL), "what is there may be finished"


@pytest.mark.parametrize("base", ["runs/a", "new/deep/a"])
def test_c2_a_first_stage_that_refuses_leaves_no_folder(
    workshop: Workshop, base: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*words: str, asked: bool = False) -> None:
        raise HatError("preprocess.sh failed with exit code 2")

    monkeypatch.setattr("hat.cli.run.shell", refuse)
    assert main(["--task=toy.en-de", f"--run-dir={base}"]) == 2
    assert "exit code 2" in capsys.readouterr().err and not Path(base.split("/")[0]).exists()


STOPPED = """
import sys
from hat.cli.interrupt import run_group
from hat.cli.options import command
@command
def main(argv):
    return run_group(["bash", "-c", sys.argv[1]])[0]
raise SystemExit(main([]))
"""
PATIENT = "(echo $BASHPID; exec sleep 60); true"
STUBBORN = "trap '' TERM INT; (trap '' TERM INT; echo $BASHPID; for i in {1..600}; do sleep 0.1; done)"


@pytest.mark.parametrize(
    ("script", "signals", "code"),
    [
        (PATIENT, [signal.SIGTERM], 143),
        (PATIENT, [signal.SIGHUP], 129),
        (PATIENT, [signal.SIGINT], 130),
        (STUBBORN, [signal.SIGTERM, signal.SIGTERM], 143),
        (STUBBORN, [signal.SIGTERM, signal.SIGINT], 130),
    ],
)
def test_c1_a_signal_reaches_a_stage_and_leaves_no_orphan(
    script: str, signals: list[signal.Signals], code: int
) -> None:
    words = [sys.executable, "-c", STOPPED, script]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        below = int(process.stdout.readline())
        for number in signals:
            process.send_signal(number)
            time.sleep(0.3)
        assert process.wait(10) == code
    deadline = time.monotonic() + 5
    while (alive := is_alive(below)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive


def is_alive(number: int) -> bool:
    """Return whether a process runs; one that ended may wait for init to notice."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_c1_a_stage_that_a_killed_run_left_keeps_the_workspace(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from hat.cli.interrupt import run_group
from hat.files.atomic import FolderLock
with FolderLock(Path(sys.argv[1]), ""):
    run_group(["bash", "-c", "echo $$; sleep 60"])
"""
    words = [sys.executable, "-c", code, str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        below = int(process.stdout.readline())
        process.kill()
        process.wait()
        with pytest.raises(HatError, match="another process"):
            FolderLock(tmp_path, "")
        os.killpg(below, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            FolderLock(tmp_path, "").__exit__(None, None, None)
            return
        except HatError:
            time.sleep(0.01)
    raise AssertionError("the lock stays")


@pytest.fixture
def scripts(tmp_path: Path) -> Callable[..., tuple[int, list[list[str]], str]]:
    """The test.sh of the toy task, with a script that prints what Python is asked for."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "configs/toy.en-de", tmp_path / "configs/toy.en-de")
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nIFS="|"\necho "ASKED|${CUDA_VISIBLE_DEVICES-none}|$*"\n')
    python.chmod(0o755)
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.yml").write_text(f"x: {value}\n")

    def start(*words: str, **env: str) -> tuple[int, list[list[str]], str]:
        script = str(tmp_path / "configs/toy.en-de/test.sh")
        how: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True}
        done = subprocess.run(["bash", script, *words], env=os.environ | {"PYTHON": str(python)} | env, **how)
        asked = [line.split("|")[1:] for line in done.stdout.splitlines() if line.startswith("ASKED")]
        return done.returncode, asked, done.stderr

    return start


def output_of(asked: list[list[str]]) -> str:
    (output,) = {
        word.partition("=")[2] for words in asked for word in words if "=" in word and ".out" in word
    }
    return output


def test_a3_an_output_is_named_by_what_made_it(scripts: Any, tmp_path: Path) -> None:
    calls = [
        ("m.pt", "a.yml"),
        ("m.pt", "b.yml"),
        ("n.pt", "a.yml"),
        ("m.pt", "a.yml", "sacre", "0", "valid"),
    ]
    outputs = [output_of(scripts(*words)[1]) for words in calls]
    assert len(set(outputs)) == 4
    assert output_of(scripts("m.pt", "a.yml", "sacre")[1]) == outputs[0], (
        "how it is scored is in another name"
    )
    change(str(tmp_path / "configs/toy.en-de/test.sh"), "--beam=5", "--beam=4")
    assert output_of(scripts("m.pt", "a.yml")[1]) not in outputs
    assert all(Path(output).parent == tmp_path / "exp" for output in outputs)


def test_c5_an_output_may_lie_elsewhere_and_devices_stay(scripts: Any, tmp_path: Path) -> None:
    words = ("--results-path=there/x.out", "m.pt", "a.yml")
    code, asked, _ = scripts(*words)
    assert code == 0 and output_of(asked) == str(tmp_path / "there/x.out")
    for given, kept in (("", ""), ("3", "3")):
        assert {call[0] for call in scripts(*words, CUDA_VISIBLE_DEVICES=given)[1]} == {kept}
    assert {call[0] for call in scripts(*words, "sacre", "1", CUDA_VISIBLE_DEVICES="3")[1]} == {"1"}
    code, asked, said = scripts("m.pt")
    assert code == 2 and not asked and "usage" in said


@pytest.mark.parametrize("path", ["folder", "file/x.out", "locked.out"])
def test_c5_what_cannot_be_written_is_refused_before_translating(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    with file_lock(Path("locked.out"), ""):
        assert generate(["--path=missing.pt", f"--results-path={path}"]) == 2
    said = capsys.readouterr().err
    assert ("another process" if path == "locked.out" else f"cannot write {path}") in said
    assert sorted(os.listdir()) == ["file", "folder"]
    assert generate(["--path=missing.pt", "--results-path=new/x.out"]) == 2
    assert "missing.pt" in capsys.readouterr().err and not Path("new").exists()
