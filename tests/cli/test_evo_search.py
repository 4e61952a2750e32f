"""evo_search.py whole, in tiny form: the bound, finalists, several limits, the front."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from searching import FRONT, TINY, space_of, table_of, write_predictor
from toy_predictor import released_weights
from training import loaded_by

from hat.cli import evo_search
from hat.data.indexed import IndexedData, write_indexed
from hat.data.pairs import PairDataset
from hat.errors import HatError
from hat.files.journal import read_journal
from hat.latency.predictor import LatencyPredictor, conditions_of_space
from hat.model.cpu import device_name
from hat.model.layers import count_params
from hat.run import read_record
from hat.search.constraints import Candidate
from hat.search.run import search as hat_search
from hat.search.strategies import SearchConfig, Strategy
from hat.space import Arch, SearchSpace
from hat.train.checkpoint import load

FILES = {"run.json", "run.lock", "journal.jsonl", "log.jsonl", "summary.json", "evaluations.csv"}


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_limit_is_kept_by_the_bound(search, files) -> None:
    summary, said = search("one", *TINY, "--latency-constraint=23")
    predictor = LatencyPredictor.load(files / "latency.pt")
    arch = Arch.from_yaml(yaml.safe_load((files / "one.yml").read_text()))
    (winner,) = summary["winners"]
    assert Arch.from_yaml(winner["arch"]) == Arch.from_yaml(summary["arch"]) == arch
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


def test_a_predictor_of_something_else_is_refused(search, files) -> None:
    """Row A7 of the cases: sentences of 60 tokens, and decoders that are deeper than those of the table."""
    said = search("far", *TINY, "--latency-constraint=23", "--profile-length=60", code=2)[1]
    assert f"{files}/latency.pt is valid for source_len 4, here it is 60" in said
    predictor = LatencyPredictor.load(files / "latency.pt")
    predictor.conditions |= conditions_of_space(replace(space_of(files), qkv_dim=16), 440)
    predictor.save(files / "latency.pt")
    said = search("far", *TINY, "--latency-constraint=23", code=2)[1]
    assert "is valid for qkv_dim 16, here it is 8" in said and not (files / "far").exists()


class FirstDraws(Strategy):
    """Scores random architectures in two rounds."""

    def ask(self) -> list[Candidate]:
        return self.pool.collect(self.random_gene, 3) if len(self.scored) < 6 else []


def test_the_function_gives_what_the_command_gives(search, files, data) -> None:
    summary, _ = search("one", *TINY, "--latency-constraint=23")
    model = load(files / "super" / "checkpoint_last.pt").model()
    given = model, PairDataset.load(data, "valid"), LatencyPredictor.load(files / "latency.pt")
    sizes = dict(evo_iter=2, population_size=8, parent_size=4, mutation_size=2, crossover_size=2)
    config = SearchConfig(**sizes, valid_cnt_max=8, max_tokens=256)
    result = hat_search(*given, [23], config=config)
    assert result.winners[23].arch.to_yaml() == summary["arch"] and result.history == summary["history"]
    assert result.winners[23].loss == summary["loss"] and result.winners[23].holds is None
    assert max(each.bound_ms for each in result.scored) <= 23 and result.coverage == 0.95
    limit_ms = 0.999 * result.winners[23].bound_ms
    mean = hat_search(*given, [limit_ms], config=replace(config, limit_by="mean"))
    assert mean.winners[limit_ms].bound_ms == mean.winners[limit_ms].predicted_ms and not mean.coverage
    own = [hat_search(*given, config=config, strategy=FirstDraws, out=files / "own") for _ in range(2)]
    assert own[0].front == own[1].front and len(own[0].scored) == 6 and own[0].whole_front
    assert not own[0].winners and read_record(files / "own").kind == "search"


def test_a_predictor_without_a_bound_is_said_once(search, files) -> None:
    torch.manual_seed(1)
    torch.save(released_weights(8), files / "old.pt")
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
        assert Arch.from_yaml(yaml.safe_load(path.read_text())) == Arch.from_yaml(winner["arch"])
        assert winner["bound_ms"] <= limit_ms and winner["params"] <= 4500
    assert {state["constraint_ms"] for state in summary["history"]} == {22, 31}
    assert said.count("found ") == 2
    assert all(int(row["params"]) <= 4500 for row in table_of(files / "many@9ms"))
    _, said = search("none", *TINY, "--latency-constraints", "31", "2", code=2)
    assert "Infeasible: no architecture under 2 ms in 1000 tries; fastest seen" in said
    assert not (files / "none").exists() and not list(files.glob("none*.yml"))
    search("alike", *TINY, "--latency-constraints", "40.00001", "40.00002")
    assert {path.name for path in files.glob("alike*.yml")} == {f"alike@40.0000{n}ms.yml" for n in (1, 2)}


def test_the_front_with_limits_beside_random_search(search, files) -> None:
    argv = [*FRONT, "--pareto-evaluations=14", "--latency-constraints", "22", "40"]
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
    assert left_in(files / "front") == FILES | {"front"}
    for winner in summary["winners"]:
        assert winner["bound_ms"] <= winner["constraint_ms"]
        fits = [float(row["loss"]) for row in rows if float(row["bound_ms"]) <= winner["constraint_ms"]]
        assert winner["loss"] == min(fits)
    longer, said = search("front", *argv[:4], "--pareto-evaluations=20", *argv[5:])
    assert "14 architectures are scored already" in said
    assert table_of(files / "front")[:14] == [
        row | {"on_front": new["on_front"]}
        for row, new in zip(rows, table_of(files / "front")[:14], strict=True)
    ]
    assert longer["evaluations"] == 20


@pytest.mark.parametrize("mode", [TINY, [*FRONT, "--pareto-evaluations=10"]])
def test_limits_without_latency_have_a_winner(search, files, mode, monkeypatch) -> None:
    def device(archs: Sequence[Arch], space: SearchSpace, conditions: dict, **_: object) -> Iterator:
        yield from (SimpleNamespace(total_ms=20.0, interval_ms=0.5, conditions=conditions) for _ in archs)

    monkeypatch.setattr("hat.latency.measure.measure_fresh", device)
    write_predictor(files, device_name(torch.device("cpu")))
    summary, said = search("small", *mode, "--max-params=4500", "--profile-length=4")
    (winner,) = summary["winners"]
    arch = Arch.from_yaml(yaml.safe_load((files / "small.yml").read_text()))
    assert arch == Arch.from_yaml(winner["arch"]) and count_params(arch, space_of(files)) <= 4500
    rows = table_of(files / "small")
    assert winner["loss"] == min(float(row["loss"]) for row in rows if int(row["params"]) <= 4500)
    assert (winner["constraint_ms"], winner["within"]) == (None, None) and winner["measured_ms"] > 0
    assert "Infinity" not in (files / "small" / "summary.json").read_text() and " inf" not in said
    assert "measured 20.0 +- 0.5 ms, in a fresh process; " in said and "constraint" not in said
    assert said.count("valid for estimate median, here it is minimum of each step") == 1
    assert summary["conditions"]["beam"] == "2" and summary["conditions"]["source_len"] == "4"


def test_what_a_search_loads(search, files) -> None:
    search("one", *TINY, "--latency-constraint=23")
    words = [f"--configs={files}/space.yml", f"--restore-file={files}/super/checkpoint_last.pt", *TINY]
    words += [f"--ckpt-path={files}/latency.pt", "--valid-cnt-max=8", f"--search-dir={files}/one"]
    words += ["--profile-length=4", "--latency-constraint=23", f"--write-config-path={files}/one.yml"]
    loaded = loaded_by("hat.cli.evo_search:main", words)
    assert "hat.search.run" in loaded and len(loaded) <= 45, " ".join(loaded)


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


@pytest.mark.parametrize("by", ["halving", "ridge"])
def test_short_trainings_choose_the_winner_and_are_made_once(by, search, files, monkeypatch) -> None:
    argv = [*TINY, "--latency-constraint=40", "--rerank=4", "--rerank-updates=2", f"--rerank-by={by}"]
    found, said = search("one", *argv)
    journals = {path.name: read_journal(path) for path in (files / "one").glob("trained_*.jsonl")}
    trained = {name: len(records) - 1 for name, records in journals.items()}
    scored = len(table_of(files / "one"))
    assert trained == (
        {"trained_2.jsonl": 4, "trained_4.jsonl": 2}
        if by == "halving"
        else {"trained_2.jsonl": min(10, scored)}
    )
    cost = sum(count * int(name[8:-6]) for name, count in trained.items())
    assert f"at most {cost} updates in all" in said
    assert read_record(files / "one").results["trained_updates"] == cost
    if by == "halving":
        best = min(journals["trained_4.jsonl"][1:], key=lambda record: record["loss"])
        assert (found["arch"], found["trained_loss"]) == (best["arch"], best["loss"])
        assert found["trained_updates"] == 4
    monkeypatch.setattr("hat.search.run.fit", None)
    assert search("one", *argv)[0]["arch"] == found["arch"]
    recipe = files / "recipe.yml"
    recipe.write_text((files / "space.yml").read_text() + "max-lr: 0.5\n")
    words = [f"--configs={files}/space.yml", f"--restore-file={files}/super/checkpoint_last.pt", *argv]
    words += [f"--ckpt-path={files}/latency.pt", "--valid-cnt-max=8", f"--search-dir={files}/one"]
    words += ["--profile-length=4", f"--write-config-path={files}/one.yml"]
    one, other = (
        evo_search.identity(evo_search.parsed([*words, f"--rerank-configs={files}/{name}.yml"]))
        for name in ("space", "recipe")
    )
    assert one.digest == other.digest and one.lengths != other.lengths, "another recipe is no result of this"


def test_the_front_alone(search, files) -> None:
    first, said = search("front", *FRONT, "--pareto-evaluations=8", "--objectives", "latency", "params")
    assert first["winners"] == [] and first["objectives"] == ["latency", "params"]
    assert not (files / "front.yml").exists() and "on the front, from loss" in said


def test_losses_of_other_data_or_smoothing_are_not_taken(search, files, data) -> None:
    argv = [*TINY, "--latency-constraint=23"]
    search("one", *argv)
    shutil.copytree(data, files / "copy")
    moved = f"--data={files}/copy"
    _, said = search("one", *argv, moved)
    assert "12 architectures are scored already" in said, "the same data elsewhere"
    (files / "copy" / "SHA256SUMS").unlink()
    pairs = IndexedData(files / "copy" / "valid.en-de.de")
    write_indexed(files / "copy" / "valid.en-de.de", [pairs[n] for n in range(len(pairs))][::-1], 1000)
    for name, flag in (("validation", moved), ("label_smoothing", "--label-smoothing=0.5")):
        journal = (files / "one" / "journal.jsonl").read_bytes()
        _, said = search("one", *argv, flag, code=2)
        assert f"one holds another run: {name.replace('_', '-')} " in said and "give another folder" in said
        assert (files / "one" / "journal.jsonl").read_bytes() == journal


def test_what_was_measured_before_a_failure_is_kept(search, files, monkeypatch: pytest.MonkeyPatch) -> None:
    write_predictor(files, device_name(torch.device("cpu")))
    calls: list[int] = []

    def device(archs: Sequence[Arch], *_: object, **__: object) -> Iterator[dict]:
        for _arch in archs:
            calls.append(len(calls))
            if len(calls) == 4:
                raise HatError("broken")
            yield SimpleNamespace(total_ms=10 + len(calls) / 7, interval_ms=0.1, conditions={"torch": "x"})

    monkeypatch.setattr("hat.latency.measure.measure_fresh", device)
    argv = [*FRONT, "--pareto-evaluations=6", "--latency-constraints", "23", "100"]
    summary, said = search("front", *argv, code=2)
    assert "broken" in said and not summary and not (files / "front@23ms.yml").exists()
    before = table_of(files / "front")
    assert len(before) == 6 and not any(row["measured_ms"] for row in before)
    assert any((files / "front" / "front").iterdir())
    kept = read_journal(files / "front" / "measured.jsonl")
    assert len(kept) == 3
    summary, said = search("front", *argv)
    assert " of 2 limits hold as measured, 0 are open, on average " in said
    assert read_record(files / "front").cost.sittings == 2
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
