"""Which command makes a missing file, as the files in configs/ say."""

from pathlib import Path

import pytest

from hat.cli import missing
from hat.errors import DataError

RELEASED = "HAT_wmt14ende_super_space0"


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One task with one device; the working directory of the test."""
    files = {
        "supertransformer/space0.yml": "data: data/binary/mine",
        "subtransformer/common.yml": "data: ./data/binary/mine",
        "subtransformer/a.yml": "encoder-embed-dim-subtransformer: 8",
        "latency_dataset/cpu.yml": "lat-dataset-path: ./latency_dataset/mine_cpu.csv",
        "latency_predictor/cpu.yml": "ckpt-path: predictors/mine.pt",
        "evo_search/mine_cpu.yml": "write-config-path: configs/mine.en-de/subtransformer/found.yml",
        "evo_search/broken.yml": "write-config-path: [",
        "preprocess.sh": "",
    }
    for name, text in files.items():
        path = tmp_path / "configs" / "mine.en-de" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_data(task: Path) -> None:
    made = ["bash configs/mine.en-de/preprocess.sh"]
    for name in ("data/binary/mine", "./data/binary/mine/", str(task / "data/binary/mine")):
        assert missing.data_commands(name) == made
    (task / "configs/mine.en-de/get_preprocessed.sh").touch()
    assert missing.data_commands(name) == [*made, "bash configs/mine.en-de/get_preprocessed.sh"]
    assert missing.data_commands("data/binary/other") == missing.data_commands(None) == []


@pytest.mark.parametrize(
    ("path", "command"),
    [
        (f"./downloaded_models/{RELEASED}.pt", f"python download_model.py --model-name={RELEASED}"),
        (f"/a/{RELEASED}.pt", f"python download_model.py --model-name={RELEASED} --save-path=/a"),
        (
            "checkpoints/mine.en-de/supertransformer/space0/checkpoint_best.pt",
            "python train.py --configs=configs/mine.en-de/supertransformer/space0.yml",
        ),
        (
            "/b/checkpoints/mine.en-de/subtransformer/a/checkpoint_best.pt",
            "python train.py --configs=configs/mine.en-de/subtransformer/a.yml "
            "--sub-configs=configs/mine.en-de/subtransformer/common.yml",
        ),
        ("checkpoints/mine.en-de/supertransformer/space9/checkpoint_best.pt", None),
        ("other.pt", None),
    ],
)
def test_checkpoints(path: str, command: str | None, task: Path) -> None:
    assert missing.checkpoint_commands(path) == ([command] if command else [])


def test_tables_predictors_and_architectures(task: Path) -> None:
    measure = ["python latency_dataset.py --configs=configs/mine.en-de/latency_dataset/cpu.yml"]
    assert missing.table_commands("latency_dataset/mine_cpu_all.csv") == measure
    assert missing.table_commands("latency_dataset/mine_cpu.csv") == measure
    train = ["python latency_predictor.py --configs=configs/mine.en-de/latency_predictor/cpu.yml"]
    assert missing.predictor_commands("predictors/mine.pt") == train
    released = ["python download_model.py --latency-data"]
    assert missing.table_commands("x/wmt14ende_cpu_xeon_all.csv") == released
    assert missing.predictor_commands("x/wmt14ende_cpu_xeon.pt") == released
    search = (
        "python evo_search.py --configs=configs/mine.en-de/supertransformer/space0.yml "
        "--evo-configs=configs/mine.en-de/evo_search/mine_cpu.yml"
    )
    assert missing.config_commands("configs/mine.en-de/subtransformer/found.yml") == [search]
    assert missing.config_commands("configs/mine.en-de/subtransformer/else.yml") == []


def test_without_the_table_of_released_models(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> None:
        raise DataError("no table")

    monkeypatch.setattr(missing, "released_models", nothing)
    assert missing.checkpoint_commands(f"downloaded_models/{RELEASED}.pt") == []


def test_advice() -> None:
    assert missing.advice(["a b", "c"], "think") == "make it with `a b` or `c`"
    assert missing.advice([], "think") == "think"
