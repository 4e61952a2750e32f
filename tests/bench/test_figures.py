"""The other figures at tiny sizes: what they hold, never how fast anything is."""

import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from hat.bench import child, suite
from hat.bench.corpus import first_pairs, random_pairs, random_task, repeat_lines
from hat.bench.figure import Figure
from hat.bench.fresh import run_measured
from hat.bench.latency_row import LatencyRowConfig, Task, time_rows
from hat.bench.machine import describe_machine
from hat.bench.preprocess import PreprocessCase, time_preprocessing
from hat.bench.request import BenchOptions
from hat.bench.search_step import SearchStepConfig, time_scoring
from hat.bench.spaces import WMT14
from hat.bench.startup import TASK, StartupConfig, time_startup
from hat.cli import benchmark
from hat.cli.benchmark import main
from hat.cli.settings import parse_settings
from hat.data.indexed import write_indexed
from hat.data.pairs import PairDataset
from hat.data.vocab import EOS, Vocab
from hat.errors import DataError, HatError
from hat.space import space_of


def values(figure: Figure) -> dict[str, float]:
    return {f"{row.name}, {row.unit}": row.value for row in figure.rows}


def test_latency_rows_are_measured_in_three_ways(tiny_space) -> None:
    figure = time_rows(LatencyRowConfig(Task(tiny_space, 13, 5), rows=2, beam=2, long=12))
    assert [target.limit for target in figure.targets] == [1.0, 95.0, 95.0]
    found = values(figure)
    ratio = found["a row at +-2%, s"] / found["the release's 5 + 20 iterations, s"]
    assert figure.targets[0].value == pytest.approx(ratio)
    assert 0 <= figure.targets[1].value <= 100


def test_wmt_space_is_that_of_the_release() -> None:
    (settings,) = parse_settings(
        ["--configs", "configs/wmt14.en-de/supertransformer/space0.yml"],
        prog="test",
        description="",
        config_flags=("--configs",),
    )
    assert space_of(settings.space) == WMT14


def test_random_task_is_checked_as_preprocessed_data_is(tmp_path: Path) -> None:
    random_task(tmp_path, 40)
    assert len(PairDataset.load(tmp_path, "valid")) == 40
    name = "train.en-de.de.bin"
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[::-1])
    with pytest.raises(DataError, match="SHA256SUMS"):
        PairDataset.load(tmp_path, "train")


def test_random_pairs_are_a_training_split(tmp_path: Path) -> None:
    random_pairs(tmp_path, 300, 50)
    data = PairDataset.load(tmp_path, "train")
    assert len(data) == 300 and len(data.source_vocab) == 50
    assert (data.source_lengths >= 5).all() and (data.source_lengths <= 31).all()
    assert all(data.target[index][-1] == EOS for index in range(0, 300, 50))


def test_scoring_is_timed_on_the_pairs_asked_for(tmp_path: Path) -> None:
    random_pairs(tmp_path, 60, 50)
    data = PairDataset.load(tmp_path, "train")
    figure = time_scoring(SearchStepConfig(pairs=40, archs=2, rounds=2, max_tokens=400), data)
    assert figure.targets[0].limit == 1.3
    assert any(note.startswith("40 pairs") for note in figure.notes)


def test_scoring_takes_two_dictionaries(tmp_path: Path) -> None:
    random_pairs(tmp_path, 20, 50)
    words = [f"s{index}" for index in range(76)]
    Vocab(words).save(tmp_path / "dict.en.txt")  # larger than the target's, with ids beyond its end
    write_indexed(tmp_path / "train.en-de.en", (np.array([79, 60, EOS], np.int32) for _ in range(20)), 80)
    data = PairDataset.load(tmp_path, "train")
    assert (len(data.source_vocab), len(data.target_vocab)) == (80, 50)
    figure = time_scoring(SearchStepConfig(pairs=20, archs=1, rounds=1, max_tokens=400), data)
    assert figure.targets[0].value > 0


def test_first_pairs_keeps_the_front_of_a_split() -> None:
    batches = [np.array([5, 0, 3]), np.array([4, 6]), np.array([1, 9])]
    assert [batch.tolist() for batch in first_pairs(batches, 4)] == [[0, 3], [1]]


def test_repeated_text_has_exactly_the_lines_asked_for(tmp_path: Path) -> None:
    for lang in ("en", "de"):
        (tmp_path / f"a.{lang}").write_text(f"1 {lang}\n2 {lang}\n3 {lang}\n")
    repeat_lines(tmp_path / "a", 7, tmp_path / "b")
    assert (tmp_path / "b.de").read_text().split("\n")[:-1] == [f"{n} de" for n in (1, 2, 3, 1, 2, 3, 1)]


def test_preprocessing_is_compared_at_two_sizes(tmp_path: Path) -> None:
    for lang in ("en", "de"):
        (tmp_path / f"a.{lang}").write_text("a b c\nb\n")
    figure = time_preprocessing(PreprocessCase(10, 40, rounds=1), tmp_path / "a", tmp_path)
    found = values(figure)
    # 10 pairs: each side has 5 sentences of 3 words and 5 of one, and an end for each
    assert found["10 pairs, tokens/s per worker"] * found["10 pairs, s"] == pytest.approx(2 * 30)
    assert found["40 pairs, sentences of both sides, sentences/s per worker"] * found[
        "40 pairs, s"
    ] == pytest.approx(80)
    assert found["40 pairs, peak, MiB"] >= found["40 pairs, before the work, MiB"] > 1


def test_memory_of_a_process_is_its_own(tmp_path: Path) -> None:
    held = np.ones(200 << 20, np.uint8)  # a child must not be charged with what its parent had
    for lang in ("en", "de"):
        (tmp_path / f"a.{lang}").write_text("a b c\nb\n")
    found, seconds = run_measured(
        "preprocessing", text=str(tmp_path / "a"), folder=str(tmp_path / "out"), workers=1
    )
    assert 1 < found["start_mib"] < 100 <= held.nbytes / (1 << 20)
    assert seconds > found["seconds"] > 0


def test_startup_counts_the_first_batch_from_the_start_of_the_process(tmp_path: Path) -> None:
    figure = time_startup(StartupConfig(pairs=200, rounds=1))
    found = values(figure)
    parts = ("start of Python", "its imports", "options, data, model, optimiser and batches")
    assert all(found[f"first batch, {part}, ms"] > 0 for part in parts)
    assert sum(found[f"first batch, {part}, ms"] for part in parts) == pytest.approx(found["first batch, ms"])
    assert [target.limit for target in figure.targets] == [0.4, 3.0]


def test_failing_process_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        HatError, match="(?s)hat.bench.measured ended with exit code 1.*no data folder.*exit code 2"
    ):
        run_measured(
            "first_step",
            arguments=["--configs", TASK, "--data", str(tmp_path / "none"), "--save-dir", str(tmp_path)],
            started=0.0,
        )


def test_missing_data_is_said_and_not_an_error(tmp_path: Path) -> None:
    options = BenchOptions(data=str(tmp_path / "a"), text=str(tmp_path / "b"))
    for name in ("search-step", "preprocess"):
        figure = suite.take(name, 1, options)
        assert figure.rows == () and "not taken" in figure.notes[0] and str(tmp_path) in figure.notes[0]


def test_child_takes_a_figure_with_its_threads(tmp_path: Path) -> None:
    options = BenchOptions(threads=(2,), text=str(tmp_path), data=str(tmp_path))
    figure = suite.take_apart("search-step", 2, options)
    assert figure.machine.threads == 2 and figure.name == "search-step"
    assert BenchOptions.of_values(json.loads(json.dumps({"threads": [1, 2]}))).threads == (1, 2)


def test_command_prints_every_figure_and_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--threads", "1", "2", "--text", str(tmp_path), "--data", str(tmp_path), "--json"]
    assert main(["search-step", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    figures = json.loads(lines[-1])
    assert [figure["machine"]["threads"] for figure in figures] == [1, 2]
    assert sum(line.startswith("search-step on") for line in lines) == 2


def test_a_failed_figure_is_recorded_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def take(name: str, threads: int, options: BenchOptions) -> Figure:
        if name == "decode":
            raise HatError("no memory left")
        return Figure(name, describe_machine(), ())

    monkeypatch.setattr(benchmark, "take_apart", take)
    assert main(["all", "--threads", "2", "--json"]) == 2
    out, err = capsys.readouterr()
    figures = json.loads(out.splitlines()[-1])
    assert [figure["name"] for figure in figures] == list(suite.FIGURES)
    errors = {figure["name"]: figure["error"] for figure in figures}
    assert errors.pop("decode") == "no memory left" and not any(errors.values())
    assert "FAILED: no memory left" in out and "failed: decode (2)" in err
    assert figures[1]["machine"]["threads"] == 2


def test_what_was_taken_until_an_interrupt_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def take(name: str, threads: int, options: BenchOptions) -> Figure:
        if name == "decode":
            raise KeyboardInterrupt
        return Figure(name, describe_machine(), ())

    monkeypatch.setattr(benchmark, "take_apart", take)
    assert main(["all", "--json"]) == 130
    assert [one["name"] for one in json.loads(capsys.readouterr().out.splitlines()[-1])] == ["train-step"]


def test_missing_checkpoint_is_refused_before_anything_is_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "take_apart", lambda *what: pytest.fail("timed before the check"))
    for name in ("all", "decode"):
        assert main([name, "--quality-checkpoint", "nowhere.pt"]) == 2
        assert "--quality-checkpoint nowhere.pt is no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        (["latency-row"], {"rounds": 3}, ["--rounds does not count for latency-row"]),
        (["startup"], {"seed": 3, "rounds": 3}, ["--seed does not count for startup"]),
        (
            ["train-step"],
            {"quality_checkpoint": "x.pt"},
            ["--quality-checkpoint does not count for train-step"],
        ),
        (["decode"], {"quality_checkpoint": "x.pt", "threads": (2,)}, ["--quality-checkpoint does not"]),
        (["decode"], {"quality_checkpoint": "x.pt", "rows": 3}, ["--rows does not count for decode"]),
        (list(suite.FIGURES), {"quality_checkpoint": "x.pt", "rows": 3, "pairs": 30_000}, []),
        (
            list(suite.FIGURES),
            {"seed": 3, "rounds": 3},
            ["--rounds does not count for latency-row", "--seed does not count for preprocess, startup"],
        ),
    ],
)
def test_options_that_do_not_count_are_said(names: list[str], given: dict, said: list[str]) -> None:
    lines = suite.uncounted(names, BenchOptions(**given))
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))


def test_options_that_do_not_count_on_a_gpu_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = BenchOptions(device="cuda", quality_checkpoint="x.pt")
    assert [line.split(":")[0] for line in suite.uncounted(["decode", "startup"], options)] == [
        "--device does not count for startup",
        "--quality-checkpoint does not count for decode, startup",
    ]


@pytest.mark.parametrize(
    ("code", "out", "said"),
    [
        (2, '{"error": "DataError: damaged"}\n', "DataError: damaged"),
        (1, "", "exit code 1"),
        (-9, "half a li", "signal 9"),
    ],
)
def test_error_of_a_process_is_that_of_its_last_line(
    code: int, out: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], code, out)
    monkeypatch.setattr(suite.subprocess, "run", lambda *what, **how: done)
    with pytest.raises(HatError, match=said):
        suite.take_apart("search-step", 1, BenchOptions())


@pytest.mark.parametrize(("error", "code"), [(DataError("damaged"), 2), (ZeroDivisionError("one\ntwo"), 1)])
def test_child_hands_over_its_error(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def take(*what: object) -> Figure:
        raise error

    monkeypatch.setattr(child, "take", take)
    request = {"name": "startup", "threads": 1, "options": {}}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
    assert child.main() == code
    said = json.loads(capsys.readouterr().out)["error"]
    assert said.startswith(type(error).__name__) and "two" not in said


def test_damaged_data_is_an_error(tmp_path: Path) -> None:
    random_pairs(tmp_path, 6, 50)
    for path in tmp_path.glob("train.*"):
        path.rename(tmp_path / path.name.replace("train", "valid"))
    (tmp_path / "valid.en-de.de.bin").write_bytes(b"")
    with pytest.raises(DataError):
        suite.take("search-step", 1, BenchOptions(data=str(tmp_path)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["decod"], "did you mean decode"),
        ([], "must name a figure"),
        (["decode", "--rounds", "0"], "--rounds"),
        (["decode", "--threads", "0"], "--threads"),
        (["preprocess", "--pairs", "10000"], "--pairs must be at least 20000"),
        (["train-step", "--seed", "99999999999999999999999"], "--seed must lie between 0 and 2^63 - 1"),
        (["train-step", "--seed", "-1"], "--seed"),
        (["latency-row", "--rows", "0"], "--rows"),
    ],
)
def test_wrong_words_end_with_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_all_names_every_figure_of_the_issue() -> None:
    names = "train-step decode decode-batch latency-row search-step preprocess startup"
    assert list(suite.FIGURES) == names.split()
    for module, _ in suite.FIGURES.values():
        __import__(module)
