"""evo_search.py whole, in tiny form: the bound, finalists, several limits, the front, a warm start."""

import csv
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from training import argv_of

from hat.arch.codec import arch_from_yaml
from hat.arch.config import Arch
from hat.arch.sampler import sample
from hat.arch.space import SearchSpace
from hat.cli.evo_search import main
from hat.cli.front_check import main as front_check
from hat.cli.settings import parse_settings
from hat.cli.task import space_and_arch
from hat.cli.train import main as train
from hat.data.indexed import IndexedData, write_indexed
from hat.errors import HatError
from hat.files.journal import Journal, read_journal
from hat.latency.network import LatencyNet
from hat.latency.predictor import LatencyPredictor
from hat.latency.predictor_config import PredictorConfig
from hat.latency.table import row_of
from hat.model.count import count_params
from hat.model.precision import device_name

TINY = ["--evo-iter=2", "--population-size=8", "--parent-size=4", "--mutation-size=2", "--crossover-size=2"]
FRONT = ["--pareto", "--pareto-population=6", "--pareto-children=4", "--pareto-screen=3"]
FILES = {
    "config.yml",
    "cost.json",
    "version.json",
    "journal.jsonl",
    "log.jsonl",
    "summary.json",
    "evaluations.csv",
}


def space_of(files: Path) -> SearchSpace:
    argv = [f"--configs={files}/space.yml"]
    (settings,) = parse_settings(argv, prog="x", description="", config_flags=("--configs",))
    return space_and_arch(settings.space, settings.arch)[0]


def write_predictor(files: Path, device: str) -> Path:
    """Train a predictor on an invented device of that name, where decoder layers take 10 ms."""
    rng, space = random.Random(0), space_of(files)
    conditions = {"device": device, "threads": "1", "dtype": "fp32", "beam": "2", "source_len": "4"}
    rows = []
    for _ in range(60):
        arch = sample(space, rng)
        ms = (5 + 10 * arch.decoder.num_layers + sum(arch.decoder.ffn_dims) / 16) * rng.uniform(0.97, 1.03)
        rows.append(row_of(arch, (2.0, 0.1), (ms, 0.1), conditions | {"vocab_size": "60", "qkv_dim": "8"}))
    path = files / "latency.pt"
    cfg = PredictorConfig(hidden_dim=8, hidden_layer_num=1, train_steps=5)
    LatencyPredictor.fit(rows, cfg, 1).save(path)
    return path


@pytest.fixture
def search(files: Path, capsys: pytest.CaptureFixture[str]):
    """Return a function that searches into a folder of that name and returns what is left and said."""
    assert train(argv_of(files, "super", "--max-update=2")) == 0
    predictor = write_predictor(files, "another device")

    def run(name: str, *more: str, code: int = 0) -> tuple[dict, str]:
        argv = [f"--configs={files}/space.yml", f"--restore-file={files}/super/checkpoint_last.pt"]
        argv += [f"--ckpt-path={predictor}", "--valid-cnt-max=8", f"--search-dir={files / name}"]
        capsys.readouterr()
        assert main([*argv, f"--write-config-path={files / name}.yml", *more]) == code
        said = "".join(capsys.readouterr())
        path = files / name / "summary.json"
        return (json.loads(path.read_text()) if path.exists() else {}), said

    return run


def table_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "evaluations.csv", newline="") as file:
        return list(csv.DictReader(file))


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"front.png"}  # drawn where matplotlib is installed


def test_one_limit_is_kept_by_the_bound(search, files) -> None:
    summary, said = search("one", *TINY, "--latency-constraint=23")
    predictor = LatencyPredictor.load(files / "latency.pt")
    arch = arch_from_yaml(yaml.safe_load((files / "one.yml").read_text()))
    (winner,) = summary["winners"]
    assert arch_from_yaml(winner["arch"]) == arch_from_yaml(summary["arch"]) == arch
    assert summary["predicted_ms"] == predictor.predict_ms(arch) < summary["bound_ms"] <= 23
    assert (
        summary["bound_ms"] == pytest.approx(predictor.upper_ms(arch, 0.95)) and summary["coverage"] == 0.95
    )
    assert summary["params"] == count_params(arch, space_of(files))
    assert summary["measured_ms"] is None and "not measured: the predictor is of another device" in said
    assert (
        f"predicted {summary['predicted_ms']:.2f} ms (95% bound {summary['bound_ms']:.2f} ms) of 23 ms"
        in said
    )
    assert [state["iteration"] for state in summary["history"]] == [1, 2] and summary["evaluations"] == 12
    rows = table_of(files / "one")
    assert len(rows) == 12 and all(float(row["bound_ms"]) <= 23 for row in rows)
    assert min(float(row["loss"]) for row in rows) == summary["loss"]
    assert summary["finalists"][0]["loss"] == summary["loss"] and len(summary["finalists"]) == 5
    assert left_in(files / "one") == FILES
    files.joinpath("one", "summary.json").unlink()
    again, said = search("one", *TINY, "--latency-constraint=23")
    assert "12 architectures are scored already" in said
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in summary.items() if k != "seconds"
    }


def test_a_predictor_without_a_bound_is_said_once(search, files) -> None:
    torch.manual_seed(1)
    torch.save(LatencyNet(10, 8, 1).state_dict(), files / "old.pt")
    norm = ["--feature-norm", *["1"] * 10, "--lat-norm=10", f"--ckpt-path={files}/old.pt"]
    summary, said = search("old", *TINY, "--latency-constraint=100000", *norm)
    assert said.count("this predictor has no bound") == 1
    assert summary["coverage"] is None and summary["bound_ms"] == summary["predicted_ms"]


def test_several_limits_write_several_files(search, files) -> None:
    limits = ["--latency-constraints", "22", "31", "--max-params=4500"]
    summary, said = search("many@9ms", *TINY, *limits)
    assert [winner["constraint_ms"] for winner in summary["winners"]] == [22, 31]
    for limit_ms, winner in zip((22, 31), summary["winners"], strict=True):
        path = files / f"many@{limit_ms}ms.yml"
        assert winner["write_config_path"] == str(path)
        assert arch_from_yaml(yaml.safe_load(path.read_text())) == arch_from_yaml(winner["arch"])
        assert winner["bound_ms"] <= limit_ms and winner["params"] <= 4500
    assert set(summary["histories"]) == {"22", "31"} and said.count("found ") == 2
    assert all(int(row["params"]) <= 4500 for row in table_of(files / "many@9ms"))
    _, said = search("none", *TINY, "--latency-constraints", "31", "2", code=2)
    assert "Infeasible: no architecture under 2 ms in 1000 tries; fastest seen" in said
    assert not (files / "none").exists() and not list(files.glob("none*.yml"))


def test_the_front_with_limits_and_ablations(search, files) -> None:
    argv = [*FRONT, "--pareto-evaluations=14", "--latency-constraints", "22", "40", "--ablations=15"]
    summary, said = search("front", *argv)
    assert summary["mode"] == "pareto" and summary["evaluations"] == 14
    rows = table_of(files / "front")
    assert [int(row["evaluation"]) for row in rows] == list(range(1, 15))
    volumes = [float(row["hypervolume"]) for row in rows]
    assert volumes == sorted(volumes) and volumes[-1] == pytest.approx(summary["hypervolume"], abs=1e-8)
    log = [json.loads(line) for line in (files / "front" / "log.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["evaluations"]) for r in log] == [("front", n) for n in (6, 10, 14)]
    assert log[-1]["hypervolume"] == pytest.approx(summary["hypervolume"])
    on_front = [float(row["loss"]) for row in rows if row["on_front"] == "1"]
    assert sorted(on_front) == [each["loss"] for each in summary["front"]]
    written = {path.name for path in (files / "front" / "front").iterdir()}
    assert len(written) == len(on_front) and all(name.startswith("front@") for name in written)
    assert left_in(files / "front") == FILES | {"front", "random.jsonl", "depth.jsonl"}
    methods = summary["comparison"]["methods"]
    assert methods["random"]["evaluations"] == 15 and methods["random"]["share"] == 1
    assert methods["depth"]["evaluations"] == 2 and "99% after" in said
    for winner in summary["winners"]:
        assert winner["bound_ms"] <= winner["constraint_ms"]
        fits = [float(row["loss"]) for row in rows if float(row["bound_ms"]) <= winner["constraint_ms"]]
        assert winner["loss"] == min(fits)
    longer, said = search("front", *argv[:4], "--pareto-evaluations=20", *argv[5:])
    assert "14 architectures are scored already" in said and "of which 0 are not in" in said
    assert table_of(files / "front")[:14] == [
        row | {"on_front": new["on_front"]}
        for row, new in zip(rows, table_of(files / "front")[:14], strict=True)
    ]
    reached = longer["comparison"]["methods"]["search"]["reached"]
    assert front_check([f"--search-dir={files}/front", f"--at-most={reached or 20}"]) == (0 if reached else 1)
    assert front_check([f"--search-dir={files}/front", "--share=1.5"]) == 1


@pytest.mark.parametrize("mode", ["front", "limits"])
def test_a_search_cut_in_the_middle_of_a_record_ends_the_same(mode, search, files) -> None:
    argv = [*FRONT, "--pareto-evaluations=14"] if mode == "front" else TINY
    argv = [*argv, "--latency-constraints", "22", "40"]
    whole, _ = search("whole", *argv)
    journal = (files / "whole" / "journal.jsonl").read_bytes()
    (files / "cut").mkdir()
    (files / "cut" / "journal.jsonl").write_bytes(journal[: int(0.6 * len(journal))])
    again, said = search("cut", *argv)
    assert "architectures are scored already" in said
    assert (files / "cut" / "journal.jsonl").read_bytes() == journal
    table = (files / "whole" / "evaluations.csv").read_bytes()
    assert (files / "cut" / "evaluations.csv").read_bytes() == table
    for name in ("history", "front", "hypervolume", "reference"):
        assert again[name] == whole[name]
    for limit_ms in (22, 40):
        one, other = ((files / f"{name}@{limit_ms}ms.yml").read_text() for name in ("whole", "cut"))
        assert one == other


def test_the_front_alone_and_a_warm_start(search, files) -> None:
    first, said = search("front", *FRONT, "--pareto-evaluations=8", "--objectives", "latency", "params")
    assert first["winners"] == [] and first["objectives"] == ["latency", "params"]
    assert not (files / "front.yml").exists() and "on the front, from loss" in said
    warm = f"--warm-start={files}/front/journal.jsonl"
    second, _ = search("second", *FRONT, "--pareto-evaluations=6", warm)
    assert second["evaluations"] == 14
    old = {json.dumps(each["arch"]): each["loss"] for each in first["front"]}
    records = [
        json.loads(line)["record"] for line in (files / "second/journal.jsonl").read_text().splitlines()
    ]
    taken = {json.dumps(record["arch"]): record["loss"] for record in records[1:]}
    key = {json.dumps(json.loads(text), sort_keys=True): loss for text, loss in taken.items()}
    assert all(key[json.dumps(json.loads(text), sort_keys=True)] == loss for text, loss in old.items())
    single, _ = search("third", *TINY, "--latency-constraint=100", warm)
    assert single["loss"] <= min(each["loss"] for each in first["front"])
    (files / "empty.jsonl").touch()
    _, said = search("x", *FRONT, f"--warm-start={files}/empty.jsonl", code=2)
    assert "is not the journal of a search" in said and not (files / "x").exists()


def test_a_warm_start_under_a_tight_limit_starts_with_the_best_that_keep_it(search, files) -> None:
    search("wide", *FRONT, "--pareto-evaluations=20")
    slowest = sorted(table_of(files / "wide"), key=lambda row: -float(row["predicted_ms"]))
    loss = {json.dumps(arch_from_table(row)): 3 + number / 100 for number, row in enumerate(slowest)}
    old = read_journal(files / "wide" / "journal.jsonl")
    with Journal(files / "old.jsonl") as journal:  # the slower the better
        journal.append(old[0])
        for record in old[1:]:
            journal.append(record | {"loss": loss[json.dumps(record["arch"])]})
    fitting = [arch_from_table(row) for row in slowest if float(row["bound_ms"]) <= 23]
    assert 4 <= len(fitting) <= 16, "none of the four best keeps it"
    search("tight", *TINY, "--latency-constraint=23", f"--warm-start={files}/old.jsonl")
    records = read_journal(files / "tight" / "journal.jsonl")[1:]
    assert [record["arch"] for record in records[:4]] == fitting[:4]


def arch_from_table(row: dict[str, str]) -> dict:
    return {key: json.loads(value) for key, value in row.items() if key.endswith("-subtransformer")}


def test_losses_of_other_data_or_smoothing_are_not_taken(search, files, data) -> None:
    argv = [*TINY, "--latency-constraint=23"]
    search("one", *argv)
    warm = [*argv, f"--warm-start={files}/one/journal.jsonl"]
    shutil.copytree(data, files / "copy")
    moved = f"--data={files}/copy"
    _, said = search("one", *argv, moved)
    assert "12 architectures are scored already" in said, "the same data elsewhere"
    search("moved", *warm, moved)
    (files / "copy" / "SHA256SUMS").unlink()
    pairs = IndexedData(files / "copy" / "valid.en-de.de")
    write_indexed(files / "copy" / "valid.en-de.de", [pairs[n] for n in range(len(pairs))][::-1], 1000)
    for name, flag in (("validation", moved), ("label_smoothing", "--label-smoothing=0.5")):
        journal = (files / "one" / "journal.jsonl").read_bytes()
        _, said = search("one", *argv, flag, code=2)
        assert f"belongs to another search: {name} is " in said and "use another folder" in said
        assert (files / "one" / "journal.jsonl").read_bytes() == journal
        _, said = search("two", *warm, flag, code=2)
        assert f"cannot be a warm start: {name} is " in said


def test_a_journal_without_the_label_smoothing_is_refused(search, files) -> None:
    argv = [*TINY, "--latency-constraint=23"]
    search("one", *argv)
    records = read_journal(files / "one" / "journal.jsonl")
    (files / "old").mkdir()
    with Journal(files / "old" / "journal.jsonl") as journal:
        old = {name: value for name, value in records[0].items() if name != "label_smoothing"}
        for record in (old | {"validation": "data/bin valid 8"}, *records[1:]):
            journal.append(record)
    for name, more in (("old", []), ("new", [f"--warm-start={files}/old/journal.jsonl"])):
        _, said = search(name, *argv, *more, code=2)
        assert "it says nothing of label_smoothing, as an older version of HAT wrote it" in said


def test_finalists_are_measured_on_this_device(search, files) -> None:
    write_predictor(files, device_name(torch.device("cpu")))
    argv = ["--latency-constraints", "23", "100", "--finalists=2", "--profile-length=4"]
    summary, said = search("here", *FRONT, "--pareto-evaluations=6", *argv)
    assert summary["conditions"]["beam"] == "2" and summary["conditions"]["source_len"] == "4"
    for winner in summary["winners"]:
        times = [ms for each in winner["finalists"] for ms in each["measured_ms"]]
        assert winner["measured_ms"] in times and winner["within"] == (
            winner["measured_ms"] <= winner["constraint_ms"]
        )
    assert said.count("in fresh processes; ") == 2
    held = sum(winner["within"] for winner in summary["winners"])
    assert f"{held} of 2 limits hold as measured, on average " in said
    measured = [row for row in table_of(files / "here") if row["measured_ms"]]
    assert 2 <= len(measured) <= 4 and all(float(row["measured_ms"]) > 0 for row in measured)


def test_what_was_measured_before_a_failure_is_kept(search, files, monkeypatch: pytest.MonkeyPatch) -> None:
    write_predictor(files, device_name(torch.device("cpu")))
    calls: list[int] = []

    def device(archs: Sequence[Arch], *_: object, **__: object) -> Iterator[dict]:
        for _arch in archs:
            calls.append(len(calls))
            if len(calls) == 4:
                raise HatError("broken")
            yield {"total": 10 + len(calls) / 7, "conditions": {"torch": "x"}}

    monkeypatch.setattr("hat.cli.finalists.remeasure", device)
    argv = [*FRONT, "--pareto-evaluations=6", "--latency-constraints", "23", "100"]
    summary, said = search("front", *argv, code=2)
    assert "broken" in said and not summary and not (files / "front@23ms.yml").exists()
    before = table_of(files / "front")
    assert len(before) == 6 and not any(row["measured_ms"] for row in before)
    assert any((files / "front" / "front").iterdir())
    kept = read_journal(files / "front" / "measured.jsonl")
    assert len(kept) == 3
    summary, _ = search("front", *argv)
    assert read_journal(files / "front" / "measured.jsonl")[:3] == kept
    ends = [(files / "front" / "evaluations.csv").read_bytes(), (files / "front@23ms.yml").read_bytes()]
    count = len(calls)
    again, said = search("front", *argv)
    assert len(calls) == count and "finalists are measured already" in said
    assert again["winners"] == summary["winners"] and again["conditions"] == summary["conditions"]
    assert ends == [
        (files / "front" / "evaluations.csv").read_bytes(),
        (files / "front@23ms.yml").read_bytes(),
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--finalists=0"], "--finalists must be at least 1"),
        (["--ablations=-1"], "--ablations must not be negative"),
        (["--objectives", "latency", "energy"], "'energy' is not one of latency, params, flops"),
        (["--latency-constraints", "3", "3"], "names a limit twice"),
        (["--pareto", "--ckpt-path=a.pt", "--restore-file=b.pt"], "--search-dir is needed"),
    ],
)
def test_wrong_options(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(more) == 2
    assert message in capsys.readouterr().err
