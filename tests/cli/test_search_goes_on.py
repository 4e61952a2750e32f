"""evo_search.py again: after a kill, with the losses of an older search, with what was measured before."""

import json
import shutil
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest
import torch
from searching import FRONT, TINY, table_of, write_predictor

from hat.cli import evo_search
from hat.data.indexed import IndexedData, write_indexed
from hat.errors import HatError
from hat.files.journal import Journal, read_journal
from hat.model.cpu import device_name
from hat.run import read_record
from hat.space import Arch


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


def test_the_front_alone_and_a_warm_start(search, files) -> None:
    first, said = search("front", *FRONT, "--pareto-evaluations=8", "--objectives", "latency", "params")
    assert first["winners"] == [] and first["objectives"] == ["latency", "params"]
    assert not (files / "front.yml").exists() and "on the front, from loss" in said
    assert "there is no limit, so none of the front is chosen for --write-config-path" in said
    warm = f"--warm-start={files}/front/journal.jsonl"
    second, _ = search("second", *FRONT, "--pareto-evaluations=6", warm)
    assert second["evaluations"] == 14
    old, new = (read_journal(files / name / "journal.jsonl")[1:] for name in ("front", "second"))
    assert all(record in new for record in old)
    single, _ = search("third", *TINY, "--latency-constraint=100", warm)
    assert single["loss"] <= min(each["loss"] for each in first["front"])


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
        assert f"one holds another run: {name.replace('_', '-')} " in said and "give another folder" in said
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
    _, said = search("old", *argv, code=2)
    assert "belongs to another search, or to one of an older version; use another folder" in said
    _, said = search("new", *argv, f"--warm-start={files}/old/journal.jsonl", code=2)
    assert "it says nothing of label_smoothing, as an older version of HAT wrote it" in said


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
