"""The command scripts/rank_study.py on a tiny corpus: resumable, exact, refusing."""

import csv
import json
import os
import signal
from pathlib import Path

import pytest
from toy_predictor import save_predictor
from training import argv_of, log_of, sub_argv

from hat.cli.rank_study import main
from hat.cli.train import main as train
from hat.train.trainer import Trainer

SMALL = ["--num-archs=4", "--updates=6", "--max-len-b=12", "--finetune-archs=2", "--max-tokens=512"]


@pytest.fixture
def study(files: Path) -> list[str]:
    """Return a study of two SuperTransformers."""
    assert train(argv_of(files, "one", "--max-update=20")) == 0
    assert train(argv_of(files, "two", "--max-update=8", "--policy=sandwich", "--ema-decay=0.9")) == 0
    save_predictor(files / "latency.pt")
    supers = [f"{name}={files}/{name}/checkpoint_best.pt" for name in ("one", "two")]
    argv = [f"--configs={files}/space.yml", f"--ckpt-path={files}/latency.pt", *SMALL, "--super", *supers]
    return [*argv, "--finetune-updates", "2", "5", "--seed=3"]


def test_a_study_goes_on_where_it_was_interrupted(
    study: list[str],
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """4 architectures: 8 slices, 8 trainings from scratch, 8 from slices; Ctrl-C in the third of them."""
    real, calls = Trainer.train_step, []

    def step(self: Trainer, *args: object) -> object:
        calls.append(1)
        if len(calls) == 6 + 6 + 6 + 4:  # a probe makes 12
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train_step", step)
    capsys.readouterr()
    assert main([*study, f"--out-dir={files}/cut"]) == 130
    said = capsys.readouterr().err
    assert "0 of 24 scores are in the journal" in said and "stopped; the same command goes on" in said
    for stage in ("slices of one", "slices of two", "training from scratch, seed 3", "fine-tuning of two"):
        assert f"{stage}: 4 left, about " in said
    assert "min in all" in said
    assert main([*study, f"--out-dir={files}/cut"]) == 0
    captured = capsys.readouterr()
    assert "9 of 24 scores are in the journal" in captured.err and "resumed" in captured.err
    assert main([*study, f"--out-dir={files}/whole", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out.splitlines()[-1])
    summary = json.loads((files / "cut" / "summary.json").read_text())
    assert (
        summary == whole
        and (files / "cut" / "archs.csv").read_bytes() == (files / "whole" / "archs.csv").read_bytes()
    )
    assert list(summary["rankings"]) == [
        "one",
        "two",
        "decoder depth",
        "parameters",
        "FLOPs",
        "predicted latency",
    ]
    assert (summary["archs"], summary["seeds"], summary["equal_depth_pairs"]) == (4, 2, 2)
    assert [point[0] for point in summary["finetuning"]["two"]["curve"]] == [0, 2, 5]
    for text in ("ceiling: seed to seed", "one: ", "two: ", " 6 updates from scratch (loss ", "BLEU"):
        assert text in captured.out
    assert (files / "cut" / "rank.png").read_bytes().startswith(b"\x89PNG")
    assert not list((files / "cut").rglob("*.pt")), "scored trainings leave no weights"
    before = len(calls)
    assert main([*study, f"--out-dir={files}/cut"]) == 0
    again = capsys.readouterr()
    assert again.out == captured.out and len(calls) == before
    assert main([*study, f"--out-dir={files}/cut", "--seeds=3", "--budget"]) == 0
    assert "training from scratch, seed 5: 4 left, about" in capsys.readouterr().err


def test_scores_are_those_of_train_py(study: list[str], files: Path) -> None:
    """The same architecture, seed and recipe by train.py: trained, and validated as a slice."""
    out = [f"--out-dir={files}/out", "--no-bleu", "--seeds=1", "--keep-checkpoints"]
    argv = [word for word in study if word not in ("--finetune-updates", "2", "5")]
    assert main([*argv, *out]) == 0
    row = list(csv.DictReader((files / "out" / "archs.csv").open()))[-1]
    keys = {key: json.loads(value) for key, value in row.items() if key.endswith("subtransformer")}
    (files / "sub.yml").write_text(json.dumps(keys))
    more = ("--max-update=6", "--warmup-updates=1", "--seed=3", "--max-tokens=512")
    assert train(sub_argv(files, "scratch", *more)) == 0
    loss = log_of(files / "scratch", "valid")[-1]["sub_loss_base2"]
    assert float(row["scratch_1_loss_base2"]) == pytest.approx(loss, abs=2e-6)
    assert row["scratch_1_bleu"] == "" and len(list((files / "out").rglob("checkpoint_last.pt"))) == 4
    restore = f"--restore-file={files}/two/checkpoint_best.pt"
    zero = ("--max-update=1", "--lr=0", "--warmup-updates=0", "--max-tokens=512")
    assert train(sub_argv(files, "slice", restore, *zero)) == 0
    loss = log_of(files / "slice", "valid")[-1]["sub_loss_base2"]
    assert float(row["two_loss_base2"]) == pytest.approx(loss, abs=2e-5)
    summary = json.loads((files / "out" / "summary.json").read_text())
    assert summary["ceiling"] is None and summary["gaps"]["one"]["bleu"] is None


def test_two_parts_are_the_whole(
    study: list[str],
    files: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = [*study, "--no-bleu", "--seeds=1", "--finetune-archs=4"]
    for part in ("1/2", "2/2"):
        assert main([*argv, f"--out-dir={files}/parts", f"--part={part}"]) == 0
        assert f"part {part} is done" in capsys.readouterr().err
        assert not (files / "parts" / "summary.json").exists()
    assert main([*argv, f"--out-dir={files}/parts"]) == 0
    assert "are in the journal" not in capsys.readouterr().err, "nothing was left"
    assert main([*argv, f"--out-dir={files}/whole"]) == 0
    one, two = ((files / name / "summary.json").read_bytes() for name in ("parts", "whole"))
    assert one == two
    tuned = ["one, fine-tuned 2", "one, fine-tuned 5", "two, fine-tuned 2", "two, fine-tuned 5"]
    assert json.loads(one)["inherited"] == ["one", "two", *tuned], "all architectures were fine-tuned"
    assert "one_fine-tuned_5_loss_base2" in (files / "whole" / "archs.csv").read_text()
    capsys.readouterr()
    assert main([*argv, f"--out-dir={files}/parts", "--part=1/3"]) == 0
    assert "are in the journal" not in capsys.readouterr().err, "another division finds the same scores"


def test_weights_that_were_kept_are_scored_anew_without_training(
    study: list[str], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [word for word in study if word not in ("--finetune-updates", "2", "5")]
    argv += ["--seeds=1", "--keep-checkpoints", f"--out-dir={files}/kept"]
    assert main([*argv, "--no-bleu"]) == 0
    trained = {path: path.read_bytes() for path in (files / "kept").rglob("checkpoint_last.pt")}
    assert main([*argv, "--remove-bpe=subword_nmt"]) == 0
    assert (
        trained
        and {path: path.read_bytes() for path in (files / "kept").rglob("checkpoint_last.pt")} == trained
    )
    records = list(csv.DictReader((files / "kept" / "archs.csv").open()))
    assert all(record["scratch_1_bleu"] for record in records)


def test_other_data_is_another_study(
    study: list[str], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [word for word in study if word not in ("--finetune-updates", "2", "5")]
    argv += ["--no-bleu", "--seeds=1", f"--out-dir={files}/other"]
    assert main(argv) == 0
    for more, held in (((), 12), (("--train-subset=valid",), 0), (("--valid-subset=train",), 0)):
        capsys.readouterr()
        assert main([*argv, *more, "--budget"]) == 0
        assert f"{held} of 12 scores are in the journal" in capsys.readouterr().err, more


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--super", "checkpoint.pt"],
            "--super takes different names without spaces, each",
        ),
        (["--super", "a=/no/such.pt"], "/no/such.pt does not exist"),
        (["--super=a=b", "--super=c=d"], "--super is given twice"),
        (["--super", "FLOPs=a.pt"], "--super takes different names without spaces"),
        (["--super", "a b=a.pt"], "--super takes different names without spaces"),
        (["--super=a=b", "--finetune-updates", "5", "5"], "--finetune-updates names a number twice: [5, 5]"),
        (["--part=3/2"], "--part takes the number of a part and of all, such as 1/2, got '3/2'"),
        (["--num-archs=1"], "--num-archs must be at least 2, got 1"),
        (["--num-archs=100000"], "were found in the space; ask for fewer"),
        (["--finetune-updates", "5"], "--finetune-updates needs --super"),
        (["--remove-bpe=bpe"], "bpe"),
    ],
)
def test_refusals_are_one_line(
    flags: list[str],
    message: str,
    files: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = [f"--configs={files}/space.yml", f"--out-dir={files}/out"]
    if "--num-archs=100000" in flags:
        argv += ["--encoder-ffn-embed-dim-choice", "16", "--decoder-ffn-embed-dim-choice", "16"]
        argv += ["--updates=2", "--no-bleu"]
        flags = ["--num-archs=2000"]
    assert main([*argv, *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1] and "Error: " in lines[-1]
    assert not (files / "out").exists()
