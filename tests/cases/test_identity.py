"""A result says what it was made from: rows A5, A6, A6b, A10, A12, B2 and B4 of the cases, and siblings."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tiny_task import SPACE
from toy_predictor import save_predictor

from hat.cli import evo_search
from hat.cli.train import identity, main, parsed
from hat.cli.translate import generate, score
from hat.data.preprocess import PreprocessConfig, preprocess
from hat.data.toy import toy_pairs
from hat.errors import CheckpointError
from hat.files.atomic import FolderLock
from hat.files.journal import Journal, read_journal
from hat.run import read_record
from hat.train.checkpoint import average, digest_path, load, numbered, save

Train = Callable[..., str]
SPLITS = ("train", "valid")


def make_data(folder: Path, reverse: tuple[str, ...] = (), dictionary: Path | None = None) -> Path:
    """Return binary data of 40 toy pairs; targets of the splits in `reverse` stand backwards."""
    pairs, texts = toy_pairs(1, 40), folder.with_name(f"{folder.name}-text")
    texts.mkdir(exist_ok=True)
    for split, part in zip(SPLITS, (pairs[:30], pairs[30:]), strict=True):
        for side, lang in enumerate(("en", "de")):
            order = -1 if lang == "de" and split in reverse else 1
            lines = [" ".join(pair[side].split()[::order]) for pair in part]
            (texts / f"{split}.{lang}").write_text("".join(f"{line}\n" for line in lines))
    known = {"srcdict": str(dictionary)} if dictionary else {}
    more = {f"{split}pref": str(texts / split) for split in SPLITS}
    preprocess(PreprocessConfig("en", "de", str(folder), joined_dictionary=True, **more, **known))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("corpus") / "bin")


@pytest.fixture(scope="module")
def done(made: Path) -> Path:
    """A folder with the settings of a task, its data, and a run of two updates."""
    settings = SPACE | {"data": "bin", "max-update": 2, "save-interval": 1, "log-interval": 1}
    (made.parent / "space.yml").write_text(yaml.safe_dump(settings))
    with contextlib.chdir(made.parent):
        assert main(["--configs=space.yml", "--save-dir=run"]) == 0
    return made.parent


@pytest.fixture
def task(tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the settings of a task and its data."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(done / "bin", "bin")
    shutil.copy(done / "space.yml", "space.yml")
    return tmp_path


@pytest.fixture
def trained(task: Path, done: Path) -> Path:
    """The folder `run` of two updates, as copied from elsewhere."""
    return shutil.copytree(done / "run", task / "run")


@pytest.fixture
def train(task: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """Return a function that trains in the folder `run` with further options and returns what is said."""

    def run(*more: str, code: int = 0, into: str = "run") -> str:
        capsys.readouterr()
        assert main(["--configs=space.yml", f"--save-dir={into}", *more]) == code
        return "".join(capsys.readouterr())

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def reached(folder: Path) -> int:
    return load(folder / "checkpoint_last.pt").state["trainer"]["num_updates"]


def change_data(task: Path, **how: object) -> None:
    shutil.rmtree(task / "bin")
    make_data(task / "bin", **how)  # type: ignore[arg-type]


SETTINGS = {
    "a6_seed_rate_and_dropout": (
        ["--seed=7", "--lr=1e-4", "--dropout=0.4"],
        "lr 0.005 -> 0.0001, seed 1 -> 7",
    ),
    "a12_label_smoothing": (["--label-smoothing=0.2"], "label-smoothing 0.1 -> 0.2"),
    "warm_up": (["--warmup-updates=9"], "warmup-updates 4 -> 9"),
    "schedule": (["--lr-scheduler=fixed"], "lr-scheduler inverse_sqrt -> fixed"),
    "tokens_of_an_update": (["--update-freq=2"], "max-tokens*update-freq*processes 256 -> 512"),
    "policy": (["--policy=sandwich"], "policy single -> sandwich, sandwich-random not given -> 1"),
    "choices": (["--encoder-layer-num-choice", "2", "1"], "encoder-layer-num-choice [2] -> [2, 1]"),
    "average": (["--ema-decay=0.5"], "ema-decay 0.0 -> 0.5"),
}


@pytest.mark.parametrize(("more", "differs"), SETTINGS.values(), ids=SETTINGS.keys())
def test_a6_a12_other_settings_are_another_run(
    more: list[str], differs: str, task: Path, train: Train, trained: Path
) -> None:
    before = files_of(task)
    said = train(*more, code=2)
    assert all(each in said for each in differs.split(", ")), said
    aside = f"run.{read_record(task / 'run').identity.digest[:8]}"
    assert f"give another folder, or --new-run, which moves the old one to {aside}" in said
    assert files_of(task) == before and said.count("Error") == 1, "nothing was written"


DATA = {
    "a6b_train_reversed": ({"reverse": ("train",)}, "train.de content"),
    "valid_reversed": ({"reverse": ("valid",)}, "valid.de content"),
    "dictionary": ({}, "dict.en content"),
}


@pytest.mark.parametrize(("how", "differs"), DATA.values(), ids=DATA.keys())
def test_a6b_other_data_make_another_run(
    how: dict, differs: str, task: Path, train: Train, trained: Path
) -> None:
    dictionary = task / "dict.txt"
    text = (task / "bin" / "dict.de.txt").read_text().splitlines(keepends=True)
    if not how:
        text[0], text[1] = text[1], text[0]  # as many symbols, two of them exchanged
    dictionary.write_text("".join(text))
    change_data(task, dictionary=dictionary, **how)
    before = files_of(task / "run")
    said = train(code=2)
    assert "run holds another run: " in said and differs in said
    assert ("dict." in said) is ("train.en" in said) is (not how), "nothing else differs"
    assert files_of(task / "run") == before


def test_new_run_moves_the_old_one_and_loses_nothing(task: Path, train: Train, trained: Path) -> None:
    before, short = files_of(task / "run"), read_record(task / "run").identity.digest[:8]
    said = train("--seed=7", "--new-run")
    assert f"run held another run (seed 1 -> 7); it was moved to run.{short}" in said
    assert {
        path.replace(f"run.{short}", "run"): held for path, held in files_of(task / f"run.{short}").items()
    } == before
    assert read_record(task / "run").settings["seed"] == 7
    assert "resumed run at update 2" in train("--seed=7", "--new-run", "--max-update=3"), "it is the same run"


SAME = {
    "cosmetic": ["--log-interval=2", "--no-progress-bar", "--save-interval=3", "--keep-last-epochs=4"],
    "patience": ["--patience=9", "--max-epoch=5", "--validate-interval=2"],
    "spelling": ["--dropout=.20", "--lr=0.0050", "--source-lang=en"],
    "unused": ["--max-lr=1", "--sandwich-random=3", "--vocab-size", "77", "--max-tokens-valid=100"],
    "halves": ["--max-tokens=128", "--update-freq=2"],
}


@pytest.mark.parametrize("more", SAME.values(), ids=SAME.keys())
def test_what_changes_no_result_goes_on(more: list[str], task: Path, train: Train, trained: Path) -> None:
    said = train("--max-update=3", *more)
    assert "resumed run at update 2" in said and reached(task / "run") == 3
    assert "goes on with" not in said


def test_another_machine_goes_on_and_says_so_in_one_line(task: Path, train: Train, trained: Path) -> None:
    said = train("--max-update=3", "--threads=2")
    torch.set_num_threads(1)
    assert said.count("the run goes on with threads 1 -> 2") == 1
    halves = identity(parsed(["--configs=space.yml", "--max-tokens=128", "--distributed-world-size=2"]))
    assert identity(parsed(["--configs=space.yml"])).differences(halves) == []


def test_moved_copied_and_touched_runs_are_the_same(task: Path, train: Train, trained: Path) -> None:
    (task / "run").rename(task / "elsewhere")
    shutil.copytree(task / "bin", task / "copy of bin")
    for path in (task / "copy of bin").iterdir():
        os.utime(path, (1, 1))
    shutil.rmtree(task / "bin")
    said = train("--max-update=3", f"--data={task}/copy of bin", into="elsewhere")
    assert "resumed elsewhere at update 2" in said


def test_the_schedule_that_depends_on_the_length_counts_it(task: Path, train: Train) -> None:
    cosine = ["--lr-scheduler=cosine", "--max-lr=0.01", "--lr=1e-4"]
    train(*cosine)
    assert "max-update 2 -> 3" in train(*cosine, "--max-update=3", code=2)
    assert "max-lr 0.01 -> 0.02" in train(*cosine[:1], "--max-lr=0.02", cosine[2], code=2)
    assert "resumed" in train(*cosine, "--max-epoch=7")


def test_identity_is_what_the_run_records_and_writes_nothing(task: Path, train: Train) -> None:
    before = files_of(task)
    found = identity(parsed(["--configs=space.yml", "--save-dir=run"]))
    assert files_of(task) == before and not (task / "run").exists()
    train()
    assert read_record(task / "run").identity == found
    assert set(found.inputs) == {
        f"{use}.{lang}" for use in ("train", "valid", "dict") for lang in ("en", "de")
    }


def test_b4_the_same_restore_file_is_the_same_file(task: Path, train: Train) -> None:
    train(into="first")
    shutil.copy(task / "first" / "checkpoint_last.pt", task / "super.pt")
    shutil.copy(task / "super.pt", task / "other name.pt")
    train("--restore-file=super.pt", "--max-update=3")
    for name in (task / "super.pt", "./super.pt", "other name.pt"):
        said = train(f"--restore-file={name}", "--max-update=3")
        assert "resumed run at update 3" in said, "and not from super.pt"
    assert "checkpoint is no longer given" in train(code=2)


def test_a12_the_best_loss_of_another_run_is_not_that_of_this_one(task: Path, train: Train) -> None:
    train(into="first")
    train("--restore-file=first/checkpoint_last.pt", "--max-update=3", "--lr=1")
    record = read_record(task / "run")
    assert (task / "run" / "checkpoint_best.pt").exists()
    assert record.results["best_loss"] == record.results["last_losses"]["mean"]


def test_a_checkpoint_of_the_run_itself_is_no_other_start(task: Path, train: Train) -> None:
    train("--max-update=4", "--max-epoch=2")
    assert "resumed run at update" in train("--restore-file=checkpoint_last.pt", "--max-epoch=3")
    assert "checkpoint is now given" in train("--restore-file=run/checkpoint1.pt", "--max-epoch=3", code=2)
    shutil.copy("run/checkpoint_last.pt", "super.pt")
    train("--restore-file=super.pt", "--max-update=5", into="other")
    assert "resumed other" in train("--restore-file=checkpoint_last.pt", "--max-update=9", into="other")


def test_a5_a_second_run_cannot_enter_and_the_average_is_of_one_run(task: Path, train: Train) -> None:
    epochs = ["--max-update=99", "--save-interval=1"]
    train(*epochs, "--max-epoch=3")
    train("--seed=2", *epochs, "--max-epoch=6", "--validate-interval=9", into="other")
    shutil.copy(task / "other" / "checkpoint_last.pt", task / "super.pt")
    before = files_of(task / "run")
    said = train(*epochs, "--restore-file=super.pt", "--max-epoch=2", code=2)
    assert "checkpoint is now given" in said and files_of(task / "run") == before
    for path in numbered(task / "other")[:2]:  # someone puts files of another run there
        for each in (path, digest_path(path)):
            shutil.copy(each, task / "run")
    _, used = average([task / "run"], num_epoch_checkpoints=5)
    assert [path.name for path in used] == ["checkpoint3.pt", "checkpoint2.pt", "checkpoint1.pt"]
    train(*epochs, "--max-epoch=4", "--keep-last-epochs=2")
    own = {"checkpoint3.pt", "checkpoint4.pt"}
    left = {path.name for path in numbered(task / "run")}
    assert left == own | {"checkpoint5.pt", "checkpoint6.pt"}, "only its own were removed"


def test_a5_averages_of_different_runs_are_wanted_or_refused(
    task: Path, train: Train, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--seed=2", into="other")
    with pytest.raises(CheckpointError, match="cannot read checkpoint run"):
        average(["run", "other"], "mean.pt")
    assert not Path("mean.pt").exists()
    average(["run/checkpoint1.pt", "other/checkpoint1.pt"], "mean.pt")
    assert "the checkpoints are of 2 different runs" in capsys.readouterr().err
    shutil.copy("other/checkpoint_last.pt", "run/checkpoint_last.pt")
    shutil.copy("other/checkpoint_last.pt.sha256", "run/checkpoint_last.pt.sha256")
    assert "checkpoint_last.pt belongs to another run" in train("--max-update=3", code=2)


def test_an_average_replaces_no_checkpoint_of_training(task: Path, train: Train) -> None:
    train()
    for name in ("checkpoint_last.pt", "checkpoint_best.pt", "checkpoint1.pt"):
        with pytest.raises(CheckpointError, match=f"run/{name} is a checkpoint of training; give another"):
            average(["run"], f"run/{name}")
    average(["run"], "run/checkpoint_mean.pt")
    average(["run"], "run/checkpoint_mean.pt")
    assert reached(task / "run") == 2


def test_b2_a_folder_that_is_trained_in_is_refused(task: Path, train: Train, trained: Path) -> None:
    with FolderLock(task / "run", ""):
        before = files_of(task)
        assert "is being written by another process; wait for it" in train("--max-update=9", code=2)
        assert "is being written by another process" in train("--seed=7", "--new-run", code=2)
        assert files_of(task) == before
        assert average([task / "run"], "mean.pt")[1], "reading needs no lock"


def test_a1_a_translation_of_other_data_gets_no_score(
    task: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--max-update=1")
    split = ["--data=bin", "--gen-subset=valid"]
    made = [*split, "--path=run/checkpoint_last.pt", "--beam=1", "--max-len-b=2"]
    assert generate([*made, "--results-path=bin"]) == 2 and not Path("bin.run.json").exists()
    assert generate([*made, "--results-path=out.txt"]) == 0 and score([*split, "--gen-output=out.txt"]) == 0
    scored = Path("out.txt.normal.json").read_bytes()
    change_data(task, reverse=("valid",))
    assert score([*split, "--gen-output=out.txt"]) == 2
    said = capsys.readouterr().err
    assert "out.txt is no translation of the valid split of bin: other target-ids; generate again" in said
    assert Path("out.txt.normal.json").read_bytes() == scored
    with open("out.txt", "a") as file:  # another program's output under an old record
        file.write("\n")
    assert score([*split, "--gen-output=out.txt"]) == 0


Search = Callable[..., str]


@pytest.fixture
def search(task: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> Search:
    """Return a function that searches with further options and returns what is said."""
    shutil.copytree(trained, "super")
    save_predictor(task / "latency.pt")

    def run(*more: str, code: int = 0) -> str:
        capsys.readouterr()
        assert evo_search.main([*SEARCH, *more]) == code
        return "".join(capsys.readouterr())

    return run


SEARCH = ["--configs=space.yml", "--restore-file=super/checkpoint_last.pt", "--ckpt-path=latency.pt"]
SEARCH += ["--search-dir=search", "--write-config-path=found.yml", "--latency-constraint=100", "--no-measure"]
SEARCH += ["--evo-iter=1", "--population-size=4", "--parent-size=2", "--mutation-size=2"]
SEARCH += ["--crossover-size=0"]


def test_a_search_folder_is_one_search(task: Path, search: Search) -> None:
    found = evo_search.identity(evo_search.parsed(SEARCH))
    assert not Path("search").exists()
    search()
    record = read_record(task / "search")
    assert record.identity == found and set(found.inputs) == {"checkpoint", "predictor", "validation"}
    before, winner = files_of(task / "search"), Path("found.yml").read_bytes()
    change_data(task, reverse=("valid",))
    assert "search holds another run: validation content; give another folder" in search(code=2)
    change_data(task)
    for more, differs in (
        (["--seed=7", "--label-smoothing=0.5"], "seed 1 -> 7, label-smoothing 0.1 -> 0.5"),
        (["--latency-constraint=90"], "latency-constraints [100.0] -> [90.0]"),
        (["--limit-by=mean"], "limit-by bound -> mean"),
        (["--mutation-prob=0.5"], "mutation-prob 0.3 -> 0.5"),
    ):
        said = search(*more, code=2)
        assert "search holds another run: " in said and all(each in said for each in differs.split(", "))
    assert files_of(task / "search") == before and Path("found.yml").read_bytes() == winner
    search("--seed=7", "--new-run")
    assert read_record(task / f"search.{found.digest[:8]}").identity == found
    assert read_record(task / "search").settings["seed"] == 7


def test_the_same_search_goes_on(task: Path, search: Search) -> None:
    search()
    shutil.copytree("bin", "copy")
    Path("super").rename("moved")
    same = ["--restore-file=moved/checkpoint_last.pt", "--data=copy", "--no-progress-bar", "--evo-iter=2"]
    assert "architectures are scored already" in search(*same, "--finalists=2", "--max-tokens=99")
    with FolderLock(task / "search", ""):
        assert "is being written by another process; wait for it" in search(*same, code=2)
    run = task / "search" / "run.json"
    run.unlink()
    head, *scores = read_journal(journal := task / "search" / "journal.jsonl")
    journal.unlink()
    with Journal(journal) as again:  # as version 0.1 left it: it tells neither format 2 nor an identity
        for record in ({key: value for key, value in head.items() if key != "identity"}, *scores):
            again.append(record | ({"format": 1} if "format" in record else {}))
    assert "use another folder (--search-dir)" in search(*same, code=2) and not run.exists()


def test_a_refused_run_leaves_no_folder(task: Path, train: Train) -> None:
    (task / "cut.pt").write_bytes(b"PK")
    assert "cut.pt" in train("--restore-file=cut.pt", code=2, into="new/folder")
    assert not (task / "new" / "folder").exists()


def test_checkpoints_of_version_0_1_go_on_in_another_folder(task: Path, train: Train, trained: Path) -> None:
    (task / "run" / "run.json").unlink()
    for name in ("checkpoint_last.pt", "checkpoint_best.pt", "checkpoint1.pt"):
        found = load(task / "run" / name)
        del found.state["run"], found.state["progress"]["saved"]  # version 0.1 did not write them
        save(found, task / "run" / name)
    before = files_of(task / "run")
    said = train("--max-update=3", code=2)
    assert (
        "checkpoint_last.pt belongs to another run" in said and "and --restore-file to start from it" in said
    )
    assert files_of(task / "run") == before and len(average([task / "run"])[1]) == 1
    restore = "--restore-file=run/checkpoint_last.pt"
    assert "resumed run/checkpoint_last.pt at update 2" in train("--max-update=3", restore, into="new")
