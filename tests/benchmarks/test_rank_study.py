"""python -m benchmarks rank-study on a tiny corpus: resumable, exact, refusing."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from tiny_task import SPACE
from toy_predictor import save_predictor

from benchmarks import rank_study
from benchmarks.rank_study import study
from hat.data.dataset import Dataset
from hat.data.toy import toy_pairs
from hat.model.layers import ModelConfig
from hat.space import SearchSpace
from hat.train.loop import BatchConfig, TrainConfig, fit
from hat.train.trainer import OptimConfig, Trainer


@pytest.fixture(scope="module")
def argv(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return a study of one SuperTransformer, without BLEU and fine-tuning."""
    tmp_path = tmp_path_factory.mktemp("study")
    source, target = zip(*toy_pairs(1, 120), strict=True)
    dataset = Dataset.from_text(source, target, pieces=60, valid=10, folder=tmp_path / "bin")
    (tmp_path / "space.yml").write_text(yaml.safe_dump(SPACE | {"data": str(tmp_path / "bin")}))
    space = SearchSpace.from_yaml(tmp_path / "space.yml")
    model = ModelConfig(share_all_embeddings=True)
    config = TrainConfig(model, OptimConfig(max_update=4), batches=BatchConfig(max_tokens=512))
    fit(space, dataset, config, out=tmp_path / "one", device="cpu")
    save_predictor(tmp_path / "latency.pt")
    words = ["--num-archs=3", "--updates=4", "--max-len-b=5", "--beam=2", "--finetune-archs=2", "--cpu"]
    words += ["--max-tokens=512"]
    words += [f"--configs={tmp_path}/space.yml", f"--super=one={tmp_path}/one/checkpoint_best.pt", "--seed=3"]
    return [*words, f"--ckpt-path={tmp_path}/latency.pt"]


def test_a_study_goes_on_where_it_was_interrupted(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 slices, 6 trainings from scratch, 2 from slices; Ctrl-C in the second training."""
    real, calls = Trainer.train_step, []

    def step(self: Trainer, *args: object) -> object:
        calls.append(1)
        if len(calls) == 2 + 4 + 2:  # a probe makes 2
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train_step", step)
    monkeypatch.setattr(rank_study, "PROBED_UPDATES", 1)
    argv = [*argv, "--finetune-updates=3"]
    assert study([*argv, f"--out-dir={tmp_path}/cut"]) == 130
    said = capsys.readouterr().err
    assert "0 of 11 scores are known" in said and "stopped; the same command goes on" in said
    for stage, count in (("slices of one", 3), ("from scratch, seed 4", 3), ("fine-tuning of one", 2)):
        assert f"{stage}: {count} left, about " in said
    assert study([*argv, f"--out-dir={tmp_path}/cut"]) == 0
    captured = capsys.readouterr()
    assert "4 of 11 scores are known" in captured.err and "BLEU" in captured.out
    for part in ("1/2", "2/2"):
        assert study([*argv, f"--out-dir={tmp_path}/whole", f"--part={part}"]) == 0
        assert not (tmp_path / "whole" / "summary.json").exists()
    assert study([*argv, f"--out-dir={tmp_path}/whole", "--json"]) == 0
    for name in ("summary.json", "archs.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    trivial = ["decoder depth", "parameters", "FLOPs", "predicted latency"]
    assert list(summary["rankings"]) == ["one", *trivial] and summary["seeds"] == 2
    assert [point[0] for point in summary["finetuning"]["one"]["curve"]] == [0, 3]
    assert "one</td><td>" in (tmp_path / "cut" / "report" / "index.html").read_text("utf-8")
    assert not list((tmp_path / "cut").rglob("*.pt")), "scored trainings leave no weights"
    assert study([*argv, f"--out-dir={tmp_path}/cut", "--seeds=3", "--budget"]) == 0
    assert "11 of 14 scores are known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--super", "checkpoint.pt"], "--super takes different names without spaces, each"),
        (["--super", "a=/no/such.pt"], "/no/such.pt does not exist"),
        (["--super=a=b", "--super=c=d"], "--super is given twice"),
        (["--super=a=b", "--finetune-updates", "5", "5"], "--finetune-updates names a number twice: [5, 5]"),
        (["--part=3/2"], "--part takes a part and how many there are, such as 1/2, got '3/2'"),
        (["--num-archs=300"], "were found in the space; ask for fewer"),
        (["--finetune-updates", "5"], "--finetune-updates needs --super"),
    ],
)
def test_refusals_are_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = {"encoder-ffn-embed-dim-choice": [16], "decoder-ffn-embed-dim-choice": [16]}
    (tmp_path / "space.yml").write_text(yaml.safe_dump(SPACE | narrow))
    assert study([f"--configs={tmp_path}/space.yml", f"--out-dir={tmp_path}/out", *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1] and "Error: " in lines[-1] and not (tmp_path / "out").exists()
