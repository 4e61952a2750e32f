"""python -m benchmarks front-study on a tiny SuperTransformer: resumable, exact, refusing."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from tiny_task import SPACE
from toy_predictor import save_predictor

import hat
from benchmarks.data import random_pairs
from benchmarks.front_study import study
from benchmarks.trainings import RESULTS
from hat.data.dataset import Dataset
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.search.run import ValidationFitness
from hat.space import Arch, SearchSpace
from hat.train import checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    """Return a study of random weights."""
    random_pairs(tmp_path / "bin", 6, 40, split="valid")
    (tmp_path / "space.yml").write_text(yaml.safe_dump(SPACE | {"data": str(tmp_path / "bin")}))
    space, noise = SearchSpace.from_yaml(tmp_path / "space.yml"), torch.Generator().manual_seed(1)
    model = SuperTransformer(space, 40, ModelConfig(share_all_embeddings=True), noise)
    digests = Dataset.load(tmp_path / "bin").digests
    checkpoint.save(checkpoint.pack(model, digests), tmp_path / "super.pt")
    save_predictor(tmp_path / "latency.pt")
    words = [f"--configs={tmp_path}/space.yml", f"--ckpt-path={tmp_path}/latency.pt", "--num-archs=12"]
    return [*words, f"--losses={tmp_path}/losses.jsonl", "--seeds", "1", "2", "--evaluations=9", "--json"]


def test_a_study_scores_once_and_can_be_repeated_without_the_model(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    real, scored = ValidationFitness.__call__, list[Arch]()

    def counted(self: ValidationFitness, archs: list[Arch]) -> list[float]:
        scored.extend(archs)
        if len(scored) == 12:
            raise KeyboardInterrupt
        return real(self, archs)

    monkeypatch.setattr(ValidationFitness, "__call__", counted)
    given = [*argv, f"--super={tmp_path}/super.pt"]
    assert study(given) == 130
    assert study(given) == 0
    first = capsys.readouterr().out
    assert len(set(scored[12:])) == len(scored[12:]), "nothing is scored twice"
    rows = json.loads(first.splitlines()[-1])
    assert list(rows) == ["NSGA2 (ours)", "optuna NSGAIISampler", "optuna TPESampler", "random"]
    assert all(1 <= number <= 12 for number in rows["random"]["after"]), "in its own order it gets there"
    searches = [row["after"] for name, row in rows.items() if name != "random"]
    assert all(number is None or number <= 9 for after in searches for number in after)
    count = len(scored)
    assert study(argv) == 0 and len(scored) == count
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: row["after"] for name, row in again.items()} == {
        name: row["after"] for name, row in rows.items()
    }
    assert study([*argv, "--num-archs=40"]) == 2 and "are not in --losses" in capsys.readouterr().err
    assert study([*given, "--valid-pairs=3"]) == 2 and "give another file" in capsys.readouterr().err


def test_what_is_missing_is_said(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study(argv[:1]) == 2 and "--ckpt-path and --seeds are needed" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert study(argv) == 2 and "pip install '.[studies]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "name", "after"), [("space0", "epyc", [27, 29, 44]), ("space1", "epyc_space1", [32, 34, 27])]
)
def test_the_committed_losses_give_the_figures_of_the_page(
    space: str, name: str, after: list[int], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")

    class Idle(hat.Strategy):
        def ask(self) -> list:
            return []

        def tell(self, scored: Sequence) -> dict:
            return {}

    monkeypatch.setattr("benchmarks.front_study.Optuna", Idle)
    losses = shutil.copy(RESULTS / f"front_{space}.jsonl", tmp_path)
    words = [f"--configs={ROOT}/configs/multi30k.en-de/supertransformer/{space}.yml", f"--losses={losses}"]
    words.append(f"--ckpt-path={ROOT}/latency_dataset/predictors/multi30kende_cpu_{name}.pt")
    assert study([*words, "--valid-pairs=64", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert rows["NSGA2 (ours)"]["after"] == after
