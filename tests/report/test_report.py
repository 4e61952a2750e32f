"""hat report: the page holds what records say, needs nothing else, and trusts no name, number or path."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_folders import (
    ARCH,
    HOSTILE,
    SPACE,
    Page,
    check_alone,
    lines,
    record,
    search_folder,
    spent,
    task_folder,
    written,
)

from hat.cli.files import report as main
from hat.report.collect import Model, Report, Search, collect
from hat.report.page import charts, page, report
from hat.run import Run, record_path

ALL = ["front", "models", "latency", "search", "training", "cost", "conditions"]


def test_the_page_of_a_task(tmp_path: Path) -> None:
    page = Page(report(task_folder(tmp_path / "run")).read_text("utf-8"))
    check_alone(page)
    assert page.sections == ALL
    cells = [text.strip() for text in page.texts]
    shown = ["1.23", "0.46", "0.010", "3.0", "12.5", "12.75", "25.00", "37.87", "8.25", "5.250", "0.033"]
    assert not [number for number in shown if number not in cells]
    assert "nrefs:1|tok:13a" in page.text and "2.0% above its limit of 12.5 ms" in page.text
    assert "1 min 15 s" in page.text and "a predictor: python latency_dataset.py" in page.text
    for name in ("front", "latency", "search", "training"):
        content = (tmp_path / "run/report" / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")
    found = page.series("front")["found"]["points"][0]  # what pointing at it shows
    assert found[:7] == [12.75, 5.25, "found@12.5ms", 5.25, 12.0, 12.25, 12.75]
    keys = [dim["key"] for dim in page.data["dims"]]
    assert dict(zip(keys, page.data["archs"][found[7]], strict=True)) == ARCH.to_yaml()


def test_nothing_in_a_run_is_trusted(tmp_path: Path) -> None:
    run = task_folder(tmp_path / "run", name=HOSTILE)
    (run / "search/evaluations.csv").write_text("loss,predicted_ms\nnan,1\n5.5,x\n\0,\n")
    (run / "super/run.json").write_text("a: [")
    with open(run / "search/log.jsonl", "a") as log:
        log.write('{"kind": "search", "update": 1e999}\n[[[\n{"kind": "train", "up')
    page = written(run)
    check_alone(page)
    assert HOSTILE in page.text and page.data["charts"]
    assert "is left out: it is damaged" in page.text and "lines are damaged" in page.text


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
@pytest.mark.parametrize(
    "name", ["run.json", "log.jsonl", "journal.jsonl", "evaluations.csv", "summary.json"]
)
def test_only_plain_files_of_the_folder_are_read(what: str, name: str, tmp_path: Path) -> None:
    other = search_folder(tmp_path / "other")
    (other / "evaluations.csv").write_text("loss,predicted_ms\n1.5,2.5\n")
    run = search_folder(tmp_path / "runs/run")
    lines(tmp_path / "runs/training/log.jsonl", {"kind": "train", "update": 1, "loss_base2": 7.0})
    record(tmp_path / "runs/training", "train")
    (run / name).unlink(missing_ok=True)
    if what == "link":
        (run / name).symlink_to(other / name)
    elif what == "pipe":
        os.mkfifo(run / name)
    else:
        (run / name).mkdir()
    (tmp_path / "runs/elsewhere").symlink_to(other)
    found = collect(tmp_path / "runs")
    assert "elsewhere" not in {search.name for search in found.searches}
    assert all(each.inherited_loss != 1.5 for search in found.searches for each in search.evaluations)


@pytest.mark.parametrize(
    "place", ["/etc", "../secret", "/etc/passwd", "/dev/zero", "fifo", "link", "fifo.run.json", 7, None]
)
def test_c4_a_report_reads_inside_its_folder_only(place: object, tmp_path: Path) -> None:
    """Whatever a record names: nothing of another folder is shown, and nothing blocks."""
    search_folder(tmp_path / "secret")
    run = task_folder(tmp_path / "run")
    os.mkfifo(run / "fifo")
    (run / "fifo.run.json").symlink_to("/dev/zero")
    (run / "link").symlink_to(tmp_path / "secret")
    held = json.loads((run / "run.json").read_text())
    held["results"]["stages"]["train"]["places"] = [place]
    (run / "run.json").write_text(json.dumps(held))
    found = collect(run)
    assert not found.searches and not found.trainings and len(found.models) == 3


def test_a10_what_lies_about_is_not_shown(tmp_path: Path) -> None:
    run = task_folder(tmp_path / "run")
    lie = {"bleu": 99.9, "signature": "nrefs:1", "mode": "sacre"}
    for place in ("super/exp/checkpoint_best_valid.out", "search/test.out", "found/exp/test.out", "test.out"):
        file = run / f"{place}.sacre.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(lie))
        record(file, "score", {"gen-subset": "test"}, **lie)
    search_folder(run / "search.1a2b3c4d")  # an earlier result that was moved out of the way
    (run / "predictor.pt").touch()
    record(run / "predictor.pt", "predictor", mape_percent=99.9)
    (run / "predictor.pt").write_text("another")
    text = written(run).text
    assert "99.9" not in text and "does not vouch for its content" in text and "train old" not in text
    assert len(collect(run).searches) == len(collect(run).trainings) == 1


def test_a_search_alone_says_what_is_missing(tmp_path: Path) -> None:
    page = written(search_folder(tmp_path / "search"))
    check_alone(page)
    assert page.sections == [name for name in ALL if name != "training"]
    assert "the log of a training" in page.text and "BLEU with its signature" in page.text
    assert "0.10" in page.text and "98765" not in page.text  # M parameters
    assert "1 min 30 s" in page.text


def test_a_training_alone(tmp_path: Path) -> None:
    folder = tmp_path / "training"
    seen = {"kind": "valid", "update": 100, "sub_loss_base2": 6.5}
    lines(folder / "log.jsonl", {"kind": "train", "update": 100, "loss_base2": 7.5}, seen)
    spent(record(folder, "train", ARCH.to_yaml()), 3661.0, 7322.0)
    page = written(folder)
    assert page.sections == ["models", "architecture", "training", "cost", "conditions"]
    assert "a search: python evo_search.py" in page.text and "1 h 01 min" in page.text
    assert "2.034" in page.text and page.series("training")["validation"]["points"] == [[100.0, 6.5, ""]]
    (model,) = collect(folder).models
    assert (model.arch, model.trained_loss, model.weights) == (ARCH, 6.5, "trained")


def test_products_of_a_training_belong_to_its_model(tmp_path: Path) -> None:
    folder = tmp_path / "run/found"
    lines(folder / "log.jsonl", {"kind": "valid", "update": 1, "sub_loss_base2": 6.5})
    record(folder, "train", ARCH.to_yaml())
    for name, kind, results in (
        ("average_model_5.pt", "average", {}),
        ("exp/test.out.sacre", "score", {"bleu": 21.5, "signature": "nrefs:1"}),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x" * 2048)
        record(folder / name, kind, {"gen-subset": "test"}, **results)
    (model,) = collect(tmp_path / "run").models
    assert (model.size_bytes, model.bleu, model.signature) == (2048, 21.5, "nrefs:1")


def test_several_limits_and_a_front_in_one_folder(tmp_path: Path) -> None:
    winner = {"arch": ARCH.to_yaml(), "loss": 5.25, "constraint_ms": 12.5, "predicted_ms": 12.0}
    other = winner | {"constraint_ms": 20.0, "write_config_path": "large.yml"}
    folder = search_folder(tmp_path / "search", winners=[winner, other])
    lines(folder / "log.jsonl", {"kind": "front", "update": 1, "evaluations": 5, "hypervolume": 0.5})
    table = "evaluation,loss,predicted_ms,bound_ms,measured_ms\n1,5.5,10,11,10.5\n2,5.25,12,13,\n"
    (folder / "evaluations.csv").write_text(table)
    run = collect(folder)
    assert [model.limit_ms for model in run.models[2:]] == [12.5, 20.0]
    (search,) = run.searches
    assert [(e.inherited_loss, e.predicted_ms, e.bound_ms, e.measured_ms) for e in search.evaluations] == [
        (5.5, 10, 11, 10.5),
        (5.25, 12, 13, None),
    ]
    assert search.limits_ms == (12.5, 20.0)
    front, *_ = charts(run)
    assert front.limits_ms == (12.5, 20.0)
    assert {"scored (2)", "front (2)", "measured (1)"} <= {series.name for series in front.series}
    assert "Hypervolume of the front" in {chart["title"] for chart in written(folder).charts("search")}


def test_a_front_without_limits(tmp_path: Path) -> None:
    front = [
        {"arch": ARCH.to_yaml(), "loss": 4.75, "predicted_ms": 31.5, "bound_ms": 33.0},
        {"arch": SPACE.smallest().to_yaml(), "loss": 5.875, "predicted_ms": 9.25, "bound_ms": 10.0},
    ]
    folder = search_folder(tmp_path / "front", mode="pareto", winners=[], front=front)
    step = {"kind": "front", "update": 1, "evaluations": 5, "best_loss": 4.75, "hypervolume": 0.5}
    lines(folder / "log.jsonl", step)
    page = written(folder)
    assert "The front of front has 2 architectures, from validation loss 4.750 at 31.50 ms" in page.text
    assert "to 5.875 at 9.25 ms" in page.text and "No architecture" not in page.text
    assert collect(folder).shown == ("Lowest loss of the front", ARCH)
    limited = search_folder(tmp_path / "limit", mode="constraint", front=front, **{"arch": ARCH.to_yaml()})
    assert "The front of" not in written(limited).text  # its summary holds a front that nobody asked for


def test_what_a_predictor_says_of_rows_it_did_not_learn_from(tmp_path: Path) -> None:
    folder = task_folder(tmp_path / "run")
    (folder / "predictor.pt").touch()
    scores = {"mape_percent": 4.5, "rmse_ms": 0.75, "kendall_tau": 0.875}
    more = {
        "baselines": {"depth_only": scores, "bad": 1},
        "bound": {"coverage": 0.95, "above_percent": 3, "held": 0.94},
    }
    unseen = [[10.0, 11.0], [12.0, 12.5], [None, 1], "x"]
    record(folder / "predictor.pt", "predictor", **scores, **more, unseen=unseen, conditions={"threads": "1"})
    page = written(folder)
    assert page.series("latency")["rows not learnt from (2)"]["points"] == [[10, 11, ""], [12, 12.5, ""]]
    assert "depth only" in page.text and "The upper bound of 95% lies 3.0% above" in page.text
    assert page.series("latency")["largest"]["points"] == [[25.0, 24.5, "largest"]]
    with Run(record_path(folder / "search"), "search", settings={}, inputs={"predictor": "0" * 64}):
        pass
    assert "predictor.pt is left out: the searches here used another predictor" in written(folder).text


def test_a_large_run_stays_small_on_the_page() -> None:
    one = Model("", "scored", "", ARCH)
    many = tuple(
        replace(one, inherited_loss=5 + n / 1e4, predicted_ms=10 + n / 7, bound_ms=11 + n / 7)
        for n in range(20_000)
    )
    run = Report("large", searches=[Search("one", (), (), many)], space=SPACE)
    text = page(run, charts(run))
    assert len(text) < 2e6 and "scored (20,000)" in text


@pytest.mark.parametrize("make", [None, Path.mkdir])
def test_a_folder_without_a_run_is_refused(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "empty"
    if make:
        make(folder)
    assert main([str(folder)]) == 2 and str(folder) in capsys.readouterr().err
    assert not (folder / "report").exists()
