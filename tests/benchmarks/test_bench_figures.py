"""The other figures in tiny form, the data they are taken on, and the command that takes them."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from tiny_task import SPACE

from benchmarks import __main__ as command
from benchmarks import commands, data, figures, latency_row, process, timing, training
from benchmarks.peers import PlainTrainer
from benchmarks.timing import Figure, Options
from hat import ModelConfig, SearchSpace, SuperTransformer, sample
from hat.latency.measure import Timing
from hat.rng import rng_for
from hat.train.loss import smoothed_loss
from hat.train.trainer import target_rows

ROOT = Path(__file__).parents[2]


def values(figure: Figure) -> dict[str, float]:
    return {f"{row.name}, {row.unit}": row.value for row in figure.rows}


def test_benchmarks_use_the_public_names_alone() -> None:
    import hat

    for path in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.startswith("hat.")], path
            elif isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("hat.") and not node.level, path
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "hat"
            ):
                assert hasattr(hat, node.attr), f"{path.name}: hat.{node.attr} is not public"


# --- training


def test_plain_step_has_our_loss_and_our_gradients(tiny_space: SearchSpace) -> None:
    model = SuperTransformer(tiny_space, 13, ModelConfig(dropout=0.0, share_all_embeddings=True))
    plain = PlainTrainer(model, 0.1)
    batch = data.random_batch(4, 6, 13, seed=3)
    for update in range(8):
        arch = sample(tiny_space, rng_for(1, "test", update))
        model.zero_grad()
        plain.model.zero_grad()
        ours, _ = smoothed_loss(*target_rows(model, batch, arch), 0.1)
        logits = plain.logits(batch, arch).flatten(0, 1)
        theirs = F.cross_entropy(logits, batch.target.flatten(), label_smoothing=0.1, reduction="sum")
        torch.testing.assert_close(theirs, ours)
        ours.backward()
        theirs.backward()
        other = dict(plain.model.named_parameters())
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                torch.testing.assert_close(other[name].grad, weight.grad, rtol=1e-4, atol=1e-5)
    for group in plain.optimizer.param_groups:
        group["lr"] = 1e-2
    losses = [plain.train_step(batch, tiny_space.largest()) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def tiny_steps(space: SearchSpace, **more: object) -> training.StepConfig:
    return training.StepConfig(space, 13, 4, 5, random_archs=2, rounds=1, square=16, **more)  # type: ignore[arg-type]


def test_training_figure_has_every_number(tiny_space: SearchSpace) -> None:
    figure = training.time_steps(tiny_steps(tiny_space))
    rates = {row.name for row in figure.rows if row.unit == "tokens/s"}
    many = "mean of 2 random"
    assert rates == {f"largest: {name}" for name in ("bf16", "fp32", "plain fp32")} | {
        f"{many}: bf16",
        f"{many}: plain fp32",
    }
    assert [target.limit for target in figure.targets] == [1.9, 3.0]
    found = values(figure)
    assert found["largest: bf16, tokens/s"] == pytest.approx(1e3 * 20 / found["largest: bf16, ms"])


# --- the other figures and their data


def test_latency_rows_are_measured_twice(tmp_path: Path) -> None:
    (tmp_path / "space.yml").write_text(yaml.safe_dump(SPACE))
    figure = latency_row.latency_row(Options(rows=2), 1, (tmp_path / "space.yml", 50, 3))
    assert [target.limit for target in figure.targets] == [95.0]
    found = values(figure)
    assert found["rows, rows"] == 2 and found["repeats of a row, repeats"] >= 3


def test_two_measurements_are_compared_at_one_speed() -> None:
    def timing(ms: float, anchor_ms: float, interval_ms: float = 0.1) -> Timing:
        return Timing(0.0, ms, 0, 0, interval_ms, {"iterations": "9"}, anchor_ms)

    once, again = [timing(10, 50), timing(20, 50)], [timing(20.2, 100), timing(44, 100)]
    rows, (target,) = latency_row.summary_of(once, again, 0.5, [1.0, 2.0])
    found = {row.name: row.value for row in rows}
    assert found["largest distance of two measurements"] == pytest.approx(10)
    assert target.value == 50 and found["two measurements within their interval"] == 0


def write_text(folder: Path, lines: str) -> None:
    for lang in ("en", "de"):
        (folder / f"a.{lang}").write_text(lines)


def test_preprocessing_is_compared_at_two_sizes(tmp_path: Path) -> None:
    """Each run is a fresh process, whose memory is its own and not that of the process that started it."""
    write_text(tmp_path, "a b c\nb\n")
    held = np.ones(200 << 20, np.uint8)
    figure = commands.time_preprocessing(tmp_path / "a", tmp_path, 10, 40, 1, 1)
    found = values(figure)
    # 10 pairs: each side has 5 sentences of 3 words and 5 of one, and an end for each
    assert found["10 pairs, tokens/s per worker"] * found["10 pairs, s"] == pytest.approx(2 * 30)
    assert 1 < found["40 pairs, before the work, MiB"] < 100 <= held.nbytes / (1 << 20)
    assert found["40 pairs, peak, MiB"] >= found["40 pairs, before the work, MiB"]
    assert [target.limit for target in figure.targets] == [1.1, 1.25]


def test_startup_ends_where_the_first_step_begins(tmp_path: Path) -> None:
    data.random_task(tmp_path / "data", 200)
    words = [f"--configs={data.MULTI30K}", f"--data={tmp_path}/data", f"--save-dir={tmp_path}/run", "--cpu"]
    found = process.fresh_call("work:first_step", arguments=[*words, "--no-tensorboard"], started=0.0)
    assert found["import_s"] > 0 and found["run_s"] > 0 and found["peak_mib"] > 50
    assert not list((tmp_path / "run").glob("*.pt")), "no step was made"


# --- processes and the command


def test_a_figure_is_taken_in_a_process_with_its_threads(tmp_path: Path) -> None:
    """Its data is missing, which is said and no error."""
    found = figures.take_apart("search-step", 2, Options(text=str(tmp_path), data=str(tmp_path)))
    assert found["machine"]["threads"] == 2 and found["rows"] == [] and found["error"] == ""
    assert "not taken" in found["notes"][0] and str(tmp_path) in found["notes"][0]


def test_every_figure_and_study_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    names = "train-step decode decode-batch latency-row search-step preprocess startup all"
    studies = "rank-study predictor-study latency-estimates engines int8-study comparison front-study"
    assert list(command.NAMES) == [*names.split(), *studies.split()]
    assert command.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in command.NAMES)
    for entry in figures.FIGURES.values():
        module, _, function = entry.function.partition(":")
        assert callable(getattr(__import__(f"benchmarks.{module}", fromlist=[function]), function))


def test_failed_figures_are_recorded_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def take(name: str, threads: int, options: Options) -> dict:
        if name == "startup":
            raise KeyboardInterrupt
        error = "no memory left" if name == "decode" else ""
        return Figure(name, timing.describe_machine(threads=threads), error=error).values()

    monkeypatch.setattr(command, "take_apart", take)
    assert command.main(["decode", "--threads", "1", "2", "--json"]) == 2
    out, err = capsys.readouterr()
    assert [one["machine"]["threads"] for one in json.loads(out.splitlines()[-1])] == [1, 2]
    assert "FAILED: no memory left" in out and "failed: decode (1), decode (2)" in err
    assert command.main(["all", "--json"]) == 130, "what was taken until the interrupt is printed"
    taken = [one["name"] for one in json.loads(capsys.readouterr().out.splitlines()[-1])]
    assert taken[0] == "train-step" and taken[-1] == "preprocess" and taken.count("decode") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["decod"], "allowed are train-step"),
        ([], "must name a figure"),
        (["decode", "--rounds", "0"], "--rounds"),
        (["decode", "--rows", "3"], "--rows"),
        (["preprocess", "--pairs", "10000"], "--pairs must be at least 20000"),
        (["train-step", "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_words_end_before_anything_is_timed(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Figure("x", timing.describe_machine()).values()
    monkeypatch.setattr(command, "take_apart", lambda *what: taken)
    assert command.main(words) == (0 if "--rows" in words else 2)  # an option of others has no effect
    assert said in capsys.readouterr().err
