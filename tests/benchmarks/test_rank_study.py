"""python -m benchmarks rank-study on a tiny corpus: resumable, exact, refusing; agreement by hand."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import yaml
from tiny_task import SPACE, train_super
from toy_predictor import save_predictor

from benchmarks.rank_study import agreement, design, study
from benchmarks.trainings import Trainings
from hat.model.layers import count_params
from hat.space import Arch, DecoderArch, EncoderArch, SearchSpace
from hat.train.trainer import Trainer


@pytest.fixture(scope="module")
def argv(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return a study of one SuperTransformer."""
    tmp_path = tmp_path_factory.mktemp("study")
    train_super(tmp_path, 4)
    save_predictor(tmp_path / "latency.pt")
    words = ["--num-archs=4", "--updates=4", "--short-updates=1", "--max-tokens=512", "--seed=3", "--cpu"]
    words += [f"--configs={tmp_path}/space.yml", f"--super={tmp_path}/super/checkpoint_best.pt"]
    return [*words, f"--ckpt-path={tmp_path}/latency.pt"]


def test_a_study_goes_on_where_it_was_interrupted(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 slices, 4 short trainings, 8 from scratch; Ctrl-C in the first of those."""
    real, calls = Trainer.train_step, []

    def step(self: Trainer, *args: object) -> object:
        calls.append(1)
        if len(calls) == 6 + 4 + 2:  # a probe makes 6
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args)  # type: ignore[arg-type]

    def words(folder: str, *more: str) -> list[str]:
        return [*argv, f"--out-dir={tmp_path}/{folder}", f"--results={tmp_path}/{folder}", *more]

    monkeypatch.setattr(Trainer, "train_step", step)
    assert study(words("cut")) == 130
    said = capsys.readouterr().err
    assert "16 of 16 losses are not known; they take 36 updates" in said
    assert "stopped; the same command goes on" in said
    assert study(words("cut", "--json")) == 0
    captured = capsys.readouterr()
    assert "8 of 16 losses are not known" in captured.err
    for part in ("1", "2"):
        assert study(words("whole", f"--part={part}", "--parts=2")) == 0
        assert ("| tau |" in capsys.readouterr().out) == (part == "2")
    assert study(words("whole", "--json")) == 0
    again = capsys.readouterr()
    assert again.out == captured.out and "not known" not in again.err
    rankings = json.loads(again.out.splitlines()[-1])
    names = ["slices", "after 1 updates each", "successive halving", "ridge regression, each left out"]
    trivial = ["decoder depth", "parameters", "FLOPs", "predicted latency"]
    assert list(rankings) == [*names, *trivial] and "| ceiling: seed to seed |" in again.out
    assert sorted(rankings["successive halving"]) == [0, 1, 2, 3]
    lines = Trainings(tmp_path / "whole").lines("ranking")
    assert len(lines) == 16 + 2, "the last round of successive halving trains two"
    assert {line["note"] for line in lines.values()} == {"slice", "from its slice", "from scratch"}
    assert not list((tmp_path / "cut").rglob("*.pt")), "what is scored leaves no weights"
    assert study(words("cut", "--seeds=3", "--budget")) == 0
    assert "4 of 20 losses are not known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--super", "/no/such.pt"], "--super /no/such.pt does not exist; train that model first"),
        (["--part=3", "--parts=2"], "--part 3 of --parts 2: give a part from 1 to that"),
        (["--num-archs=300"], "were found in the space; ask for fewer"),
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


@pytest.mark.parametrize("count", [2, 3, 7, 12])
def test_a_design_is_spread_over_depth_and_size(count: int) -> None:
    space = SearchSpace.from_yaml(SPACE)
    archs = design(space, count, 1)
    assert len(set(archs)) == count and archs == design(space, count, 1)
    depths = Counter(arch.decoder.num_layers for arch in archs)
    assert max(depths.values()) - min(depths.values()) <= 1
    for depth in depths:
        sizes = [count_params(arch, space) for arch in archs if arch.decoder.num_layers == depth]
        assert sizes == sorted(sizes)


def test_agreement_by_hand() -> None:
    """Of six pairs one is ordered otherwise; depth ties two pairs, which are no answer or a coin."""
    archs = [
        Arch(
            EncoderArch(8, (16,), (2,)),
            DecoderArch(8, (n,) * depth, (2,) * depth, (2,) * depth, (1,) * depth),
        )
        for depth, n in ((1, 8), (1, 16), (2, 8), (2, 16))
    ]
    truth = [3.1, 2.8, 2.5, 2.4]
    assert agreement([5.0, 4.0, 4.5, 3.0], truth, archs) == (pytest.approx(4 / 6), 1)
    assert agreement([-1, -1, -2, -2], truth, archs) == (pytest.approx(4 / 6), 0.5)
    assert agreement([1, 2, 2, 1], truth, archs)[1] == 0.5
