"""A training run called as a function: no command line, no signals, and no folder unless one is given."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_task import SPACE, assert_same

from hat.data.dataset import Dataset
from hat.data.toy import toy_pairs
from hat.decode.translator import Model
from hat.errors import CheckpointError, ConfigError
from hat.model.layers import ModelConfig
from hat.run import read_record
from hat.space import SearchSpace
from hat.train.checkpoint import average, load, load_model, save_model
from hat.train.loop import BatchConfig, LoopConfig, TrainConfig, fit, validate
from hat.train.trainer import OptimConfig

KEYS = ("choice", "embed-dim", "layers", "qkv-dim")
TINY = SearchSpace.from_yaml({key: value for key, value in SPACE.items() if key.endswith(KEYS)})
CONFIG = TrainConfig(
    model=ModelConfig(share_all_embeddings=True),
    optim=OptimConfig(max_update=6, amp="fp32"),
    batches=BatchConfig(max_tokens=256),
    loop=LoopConfig(no_tensorboard=True, log_interval=1),
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    english, german = zip(*toy_pairs(1, 120), strict=True)
    return Dataset.from_text(english, german, pieces=80)


def same(one: Model, other: Model) -> bool:
    pairs = zip(one.network.parameters(), other.network.parameters(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


def test_without_a_folder_the_best_model_is_returned_and_nothing_is_written(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = fit(TINY, data, CONFIG, device="cpu")
    assert (result.updates, result.folder, result.stopped) == (6, None, None)
    assert set(result.losses) == {"largest", "smallest", "mean"} and result.best_loss == result.losses["mean"]
    assert list(tmp_path.iterdir()) == []
    written = fit(TINY, data, CONFIG, out=tmp_path / "run", device="cpu")
    assert same(result.model, written.model) and written.summary()["best_loss"] == result.best_loss
    assert all(isinstance(text, str) for text in result.model.translate(["the house"]))


def test_a_model_is_the_start_of_another_run_and_a_file(data: Dataset, tmp_path: Path) -> None:
    whole, arch = fit(TINY, data, CONFIG, device="cpu").model, TINY.smallest()
    still = replace(
        CONFIG, optim=replace(CONFIG.optim, max_update=1), schedule=replace(CONFIG.schedule, lr=0.0)
    )
    sub = fit(arch, data, still, space=TINY, init=whole, device="cpu")
    assert sub.model.arch == arch and same(sub.model, whole.extract(arch))
    save_model(sub.model, tmp_path / "sub.pt")
    read = load_model(tmp_path / "sub.pt")
    assert same(read, sub.model) and read.digests == data.digests
    assert read.translate(["the house"]) == sub.model.translate(["the house"])
    found = validate(arch, TINY, data, tmp_path / "sub.pt", CONFIG, device="cpu")
    assert found.loss == pytest.approx(sub.losses["sub"], abs=1e-6)
    with pytest.raises(ConfigError, match="give space="):
        fit(arch, data, CONFIG)


def test_a_stopped_run_goes_on_to_the_same_end_and_is_averaged(data: Dataset, tmp_path: Path) -> None:
    class AfterTwo:
        looked = 0

        @property
        def asked(self) -> int | None:
            self.looked += 1
            return 15 if self.looked > 3 else None

    stopped = fit(TINY, data, CONFIG, out=tmp_path / "run", device="cpu", interrupt=AfterTwo())
    assert 0 < stopped.updates < 6 and stopped.stopped == 15
    assert read_record(tmp_path / "run").state == "stopped"
    fit(TINY, data, CONFIG, out=tmp_path / "run", device="cpu")
    fit(TINY, data, CONFIG, out=tmp_path / "whole", device="cpu")
    record = read_record(tmp_path / "run")
    assert (record.state, record.cost.sittings, record.results["updates"]) == ("done", 2, 6)
    first, second = (load(tmp_path / name / "checkpoint_last.pt") for name in ("run", "whole"))
    assert_same(first, second)
    assert load_model(tmp_path / "run" / "checkpoint_best.pt").codec is not None, "found by the record"
    path, used = average([tmp_path / "run"], num_epoch_checkpoints=2)
    assert path.name == "average_model_2.pt" and load(path).weights.keys() == first.weights.keys()
    assert len(read_record(path).inputs) == len(used) and read_record(path).kind == "average"
    with pytest.raises(CheckpointError, match="holds no checkpointN.pt"):
        average([tmp_path])
