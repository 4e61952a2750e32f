"""train.py end to end on a tiny corpus: runs, stops, kills, resumes."""

import io
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
import yaml
from training import (
    ROOT,
    SPACE,
    argv_of,
    assert_same_run,
    binarise,
    kill_and_go_on,
    last,
    loaded_by,
    log_of,
    refused,
    stop_before,
    sub_argv,
    updates,
)

from hat.cli.train import main
from hat.run import read_record
from hat.train.checkpoint import load


def test_super_training_writes_everything(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv_of(files, "run", "--json", "--adam-eps=1e-6")) == 0
    run = files / "run"
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["training"]
    train, valid = log_of(run, "train"), log_of(run, "valid")
    assert result["updates"] == 12 and [record["update"] for record in train] == [5, 10]
    assert set(train[0]) >= {"epoch", "loss_base2", "lr", "grad_norm", "tokens_per_s"}
    assert train[0]["lr"] == pytest.approx(5e-3)  # update 4 is the first after the warm-up
    assert valid[-1]["update"] == 12
    mean = (valid[-1]["largest_loss_base2"] + valid[-1]["smallest_loss_base2"]) / 2
    assert valid[-1]["mean_loss_base2"] == pytest.approx(mean, abs=2e-4)
    assert result["best_loss"] == pytest.approx(min(r["mean_loss_base2"] for r in valid), abs=1e-3)
    names = {path.name for path in run.iterdir()}
    assert names >= {"checkpoint_last.pt", "checkpoint_best.pt", "checkpoint1.pt", "run.json"}
    assert all(f"{name}.sha256" in names for name in names if name.endswith(".pt"))
    assert not any(name.startswith(".") for name in names)
    record = read_record(run)
    assert record.kind == "train" and record.state == "done" and record.cost.sittings == 1
    assert record.versions["torch"] == torch.__version__ and record.device["threads"] == 1
    assert record.settings["adam-eps"] == 1e-6, "an option that is not listed counts"
    assert record.results == {k: v for k, v in result.items() if k != "save_dir"}
    assert {"train.en", "valid.de", "dict.en"} <= set(record.inputs)
    assert last(files, "run").arch is None and updates(files, "run") == 12


def test_the_record_repeats_the_run(files: Path) -> None:
    assert main(argv_of(files, "run", "--seed", "3")) == 0
    settings = read_record(files / "run").settings
    (files / "again.yml").write_text(yaml.safe_dump(dict(settings)))
    assert main([f"--configs={files}/again.yml", f"--save-dir={files}/again", "--cpu", "--threads=1"]) == 0
    assert read_record(files / "again").identity == read_record(files / "run").identity
    assert_same_run(files, "run", "again")
    assert main(argv_of(files, "other", "--seed", "4")) == 0
    one, two = (last(files, run).weights["source_embed.weight"] for run in ("run", "other"))
    assert not torch.equal(one, two)


SANDWICH = ["--policy=sandwich", "--ema-decay=0.9"]
DISTILL = ["--policy=sandwich-distill", "--sandwich-random=2", "--fair-sampling", "--ema-decay=0.9"]


@pytest.mark.parametrize("policy", [["--amp=fp32"], [*DISTILL, "--amp=bf16"]])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    policy: list[str], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real kills are in tests/faults/test_calls.py."""
    more = [*policy, "--save-interval-updates=3", "--update-freq=2", "--max-update=8"]
    one, two = kill_and_go_on(files, 4, 3, monkeypatch, *more)
    if "--ema-decay=0.9" in policy:
        assert one.master is not None and two.master is not None
        assert all(torch.equal(weight, two.master[name]) for name, weight in one.master.items())
        assert any(not torch.equal(weight, one.weights[name]) for name, weight in one.master.items())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_saves_and_the_run_goes_on_exactly(
    number: int, code: int, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_before(5, patch, lambda: os.kill(os.getpid(), number))
        assert main(argv_of(files, "run")) == code
    assert f"stopped by signal {number} and saved" in capsys.readouterr().err
    assert read_record(files / "run").state == "stopped"
    assert updates(files, "run") == 6
    for name in ("run", "whole"):
        assert main(argv_of(files, name)) == 0
    assert_same_run(files, "run", "whole")


def test_sub_from_scratch_and_inherited(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv_of(files, "super")) == 0
    assert main(sub_argv(files, "scratch", "--max-update=3")) == 0
    scratch = last(files, "scratch")
    assert scratch.arch is not None and scratch.weights["decoder_layers.0.ffn.up.weight"].shape == (16, 8)
    whole = load(files / "super" / "checkpoint_best.pt")
    argv = sub_argv(files, "inherited", f"--restore-file={files}/super/checkpoint_best.pt", "--max-update=3")
    capsys.readouterr()
    # a rate of zero leaves the inherited weights as they are
    still = ["--lr=0", "--warmup-updates=0"]
    assert main([*argv, *still]) == 0
    assert "weights inherited from" in capsys.readouterr().err
    inherited = last(files, "inherited").weights
    for name, weight in whole.sub(scratch.arch).named_parameters():
        assert torch.equal(inherited[name], weight), name
    assert main([*argv[:-1], *still, "--max-update=5"]) == 0, "it goes on, and does not start anew"
    assert "at update 3" in capsys.readouterr().err and updates(files, "inherited") == 5


def test_validate_subtransformer(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv_of(files, "super", "--max-update=4")) == 0
    restore = f"--restore-file={files}/super/checkpoint_best.pt"
    argv = [arg for arg in sub_argv(files, "none", restore, "--json") if arg != "--train-subtransformer"]
    capsys.readouterr()
    assert main([*argv, "--validate-subtransformer"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 2 < result["valid_nll_loss"] < 12 and result["valid_loss"] > 2 and result["params"] > 1000
    assert not (files / "none").exists()
    assert main(sub_argv(files, "one", restore, "--max-update=1", "--lr=0", "--warmup-updates=0")) == 0
    trained = log_of(files / "one", "valid")[-1]["sub_loss_base2"]
    assert result["valid_loss"] == pytest.approx(trained, abs=1e-3)


def test_profile_without_data(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "space.yml").write_text(yaml.safe_dump(SPACE))
    first, second = files / "sub.yml", files / "space.yml"
    argv = [f"--configs={first}", f"--sub-configs={second}", "--vocab-size=100", "--json"]
    argv += ["--latcpu", "--profile-flops", "--latiter=3", "--profile-length=5", "--latsilent"]
    assert main(argv) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    # one encoder layer of each FFN width, one decoder layer, by hand (qkv-dim 8)
    attention = {16: (16 + 1) * 24 + 9 * 16, 8: (8 + 1) * 24 + 9 * 8}
    encoder = 2 * attention[16] + (2 * 16 * 32 + 48) + (2 * 16 * 16 + 32) + 2 * 4 * 16
    cross = 9 * 8 + 17 * 16 + 9 * 8
    decoder = attention[8] + cross + (2 * 8 * 16 + 24) + 6 * 8
    assert result["params"] == encoder + decoder
    assert result["flops"] > 2 * 5 * (encoder + decoder) * 0.8
    latency = result["latency_ms"]
    assert set(latency) == {"encoder", "decoder", "total", "interval"}
    assert latency["total"] == pytest.approx(latency["encoder"] + latency["decoder"]) and latency["total"] > 0
    assert not (ROOT / "checkpoints" / "sub").exists()
    assert "--vocab-size" in refused([arg for arg in argv if "vocab" not in arg], capsys)


def test_patience_stops(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a rate of zero no validation is better than the first."""
    more = ("--lr=0", "--warmup-updates=0", "--patience=2", "--max-update=1000", "--json", "--dropout=0")
    assert main(argv_of(files, "run", *more)) == 0
    assert len(log_of(files / "run", "valid")) == 3
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["training"]["updates"] < 1000
    assert main(argv_of(files, "run", *more)) == 0
    assert len(log_of(files / "run", "valid")) == 3, "a run that has ended does not go on"


def test_max_epoch_and_kept_checkpoints(files: Path) -> None:
    more = ("--max-epoch=4", "--keep-last-epochs=2", "--max-update=1000", "--save-interval-updates=3")
    assert main(argv_of(files, "run", *more, "--keep-interval-updates=1")) == 0
    run = files / "run"
    names = {path.name for path in run.glob("*.pt")}
    within = {name for name in names if name.startswith("checkpoint_") and name[11].isdigit()}
    assert len(within) == 1
    assert names - within == {"checkpoint3.pt", "checkpoint4.pt", "checkpoint_best.pt", "checkpoint_last.pt"}
    assert len(list(run.glob("*.sha256"))) == len(names)
    before = updates(files, "run")
    for epochs, wanted in ((4, before), (5, before // 4 * 5)):  # a finished run goes on with a higher limit
        assert main(argv_of(files, "run", f"--max-epoch={epochs}", "--max-update=1000")) == 0
        assert updates(files, "run") == wanted


def test_long_pairs(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--max-tokens-valid=6", "--max-source-positions=5"):
        message = refused(argv_of(files, "run", flag), capsys)
        advice = f"shorten it, or raise {flag[:-2]}"
        assert re.match("DataError: line [0-9]+ of the source text has", message) and advice in message
    assert main(argv_of(files, "run", "--max-update=2", "--max-tokens=12", "--max-tokens-valid=200")) == 0
    error = capsys.readouterr().err
    assert " of 200 training pairs are too long and are skipped" in error


def test_what_training_loads(files: Path) -> None:
    loaded = loaded_by("hat.cli.train:main", argv_of(files, "run", "--max-update=1"))
    assert "hat.train.loop" in loaded and len(loaded) <= 35, loaded


def test_a_run_starts_from_a_checkpoint_but_for_what_is_reset(files: Path) -> None:
    """All of its state is taken; each reset leaves one thing out, once: the run that goes on has its own."""
    assert main(argv_of(files, "whole", "--max-update=4")) == 0
    start = f"--restore-file={files}/whole/checkpoint_last.pt"

    def state(run: str, *more: str) -> tuple[int, float]:
        assert main(argv_of(files, run, start, *more)) == 0
        content = (files / run / "checkpoint_last.pt").read_bytes()
        trainer = torch.load(io.BytesIO(content), weights_only=True)["state"]["trainer"]
        return trainer["num_updates"], max(
            float(each["step"]) for each in trainer["optimizer"]["state"].values()
        )

    assert state("on", "--max-update=6") == (6, 6)
    assert state("moments", "--max-update=6", "--reset-optimizer") == (6, 2)
    again = "--max-update=2", "--reset-lr-scheduler"
    assert state("schedule", *again) == (2, 6)
    assert state("schedule", *again) == (2, 6), "nothing is left to do"


def test_an_average_may_begin_and_end_between_runs(files: Path) -> None:
    """A checkpoint without one is of format 1, which every version reads; one with it goes on from both."""

    def trained(run: str, before: str, *more: str) -> dict:
        start = [f"--restore-file={files}/{before}/checkpoint_last.pt"] if before else []
        assert main(argv_of(files, run, *start, *more)) == 0
        content = (files / run / "checkpoint_last.pt").read_bytes()
        return torch.load(io.BytesIO(content), weights_only=True)

    content = trained("run", "", "--max-update=4")
    assert content["hat_format"] == 1 and "master" not in content
    content = trained("averaged", "run", "--max-update=8", "--ema-decay=0.9")
    assert content["hat_format"] == 2
    master = content["master"]
    content = trained("ended", "averaged", "--max-update=9", "--lr=0", "--warmup-updates=0")
    assert content["hat_format"] == 1
    assert all(torch.equal(weight, master[name]) for name, weight in content["weights"].items())
    # nothing of it touches what is trained
    content = trained("plain", "run", "--max-update=8")
    assert all(torch.equal(weight, master[name]) for name, weight in content["weights"].items())


@pytest.fixture
def trained(files: Path) -> str:
    """Train a SuperTransformer and return the option that starts from it."""
    assert main(argv_of(files, "super", "--max-update=1")) == 0
    return f"--restore-file={files}/super/checkpoint_last.pt"


def test_checkpoints_that_do_not_fit(
    files: Path, trained: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(sub_argv(files, "sub", "--max-update=1")) == 0
    sub = f"--restore-file={files}/sub/checkpoint_last.pt"
    (files / "cut.pt").write_bytes((files / "super" / "checkpoint_last.pt").read_bytes()[:1000])
    other = binarise(tmp_path_factory.mktemp("other"), 2, 150)
    another = sub_argv(files, "a", sub, "--decoder-ffn-embed-dim-all-subtransformer", "32")
    for argv, message in (
        (argv_of(files, "a", "--restore-file=/no/such.pt"), "/no/such.pt does not exist"),
        (argv_of(files, "a", trained, "--encoder-ffn-embed-dim=48"), "another search space: encoder-ffn"),
        (argv_of(files, "a", trained, "--no-share-all-embeddings"), "share-all-embeddings True there, False"),
        (argv_of(files, "a", trained, f"--data={other}"), "--data"),
        (another, "another SubTransformer than the one asked for"),
        (argv_of(files, "a", f"--restore-file={files}/cut.pt"), "cut.pt"),
    ):
        found = refused(argv, capsys)
        assert found.startswith("CheckpointError: ") and message in found
    assert not list((files / "a").glob("*.pt"))
    assert main(argv_of(files, "grown", sub, "--max-update=1")) == 0  # from any of its own
    assert "weights inherited from" in capsys.readouterr().err


def test_a_supertransformer_serves_every_part_of_its_space(
    files: Path, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = ["--decoder-layer-num-choice=1", "--encoder-ffn-embed-dim-choice", "16", "32"]
    assert main(argv_of(files, "narrow", trained, "--max-update=1", *narrow)) == 0
    capsys.readouterr()
    wide = ["--encoder-embed-choice", "16", "12", "8"]
    message = refused(argv_of(files, "wide", trained, *wide), capsys)
    assert "was not trained for [12] of encoder-embed-choice, only for [16, 8]" in message
    other = sub_argv(files, "sub", trained, *wide, "--encoder-embed-dim-subtransformer=12")
    message = refused(other, capsys)
    assert "was not trained for this architecture: encoder embed dim: 12" in message
    space = yaml.safe_load((files / "space.yml").read_text())
    sizes = {key: value for key, value in space.items() if not key.endswith("-choice")}
    assert len(sizes) == len(space) - 10
    (files / "space.yml").write_text(yaml.safe_dump(sizes))
    assert main(sub_argv(files, "sub", trained, "--max-update=1")) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data=/no/such/folder"], "DataError: there is no data folder '/no/such/folder'"),
        (["--train-subtransformer"], "ConfigError: --train-subtransformer needs an architecture"),
        (["--qkv-dim=9"], "ArchError: encoder-self-attention-heads-choice: 2 heads do not divide qkv-dim 9"),
        (["--max-updates=3"], "did you mean --max-update?"),
        (["--dropout=1"], "ConfigError: --dropout must be at least 0 and below 1"),
        (["--save-interval=0"], "ConfigError: --save-interval must be at least 1"),
        (["--valid-subset=test"], "DataError: there is no"),
        (["--max-tokens=2"], "DataError: "),
    ],
)
def test_refusals_are_one_line(
    flags: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(argv_of(files, "a", *flags), capsys)
