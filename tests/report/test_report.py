"""scripts/report.py: the page holds what the files say, needs nothing else, and trusts no name or number."""

import json
from pathlib import Path

import pytest
from run_folders import (
    ARCH,
    HOSTILE,
    SECTIONS,
    SPACE,
    check_alone,
    lines,
    search_folder,
    task_folder,
    written,
)

from hat.cli.task import TaskOptions
from hat.files.journal import Journal
from hat.model.count import count_macs
from hat.report.collect import collect
from hat.report.figures import draw_volume
from hat.report.front import evaluations_csv
from hat.report.page import duration
from hat.report.pictures import pictures
from hat.report.run import Evaluation, Search, pareto_front


def test_the_page_of_a_task(tmp_path) -> None:
    page = written(task_folder(tmp_path / "run"))
    check_alone(page)
    assert [a["id"] for tag, a in page.elements if tag == "section"] == SECTIONS
    for number in ("1.23", "0.46", "0.010", "3.0", "12.5", "12.75", "25.00", "37.87", "8.25", "5.250"):
        assert any(text.strip() == number for text in page.texts), number
    text = "".join(page.texts)
    assert "nrefs:1|tok:13a" in text and "2.0% above its limit of 12.5 ms" in text
    assert "1 min 15 s" in text and "0.033" in text  # 75 s and 120 s of cores
    assert "No latencies" not in text and "python latency" not in text  # models are measured
    for name in ("front", "latency", "search", "architecture", "training"):
        content = (tmp_path / "run/report" / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")


def test_nothing_in_a_run_is_trusted(tmp_path) -> None:
    run = task_folder(tmp_path / "run", HOSTILE)
    (run / "search@12.5ms/evaluations.csv").write_text("loss,predicted_ms\nnan,1\n5.5,x\n\0,\n")
    (run / "super/config.yml").write_text("a: [")
    (run / "super/version.json").write_text('["no"]')
    with open(run / "search@12.5ms/log.jsonl", "a") as log:
        log.write('{"kind": "search", "update": 1e999}\n[[[\n{"kind": "train", "up')
    page = written(run)
    check_alone(page)
    text = "".join(page.texts)
    assert HOSTILE in text
    assert "config.yml is left out: it is damaged" in text and "lines are damaged" in text


def test_a_search_alone_says_what_is_missing(tmp_path) -> None:
    page = written(search_folder(tmp_path / "search"))
    check_alone(page)
    text = "".join(page.texts)
    assert [a["id"] for tag, a in page.elements if tag == "section"] == SECTIONS
    assert "No log of a training is here" in text and "No SacreBLEU signature" in text and "98765" not in text
    assert "0.10" in text  # M parameters
    assert "1 min 30 s" in text


def test_a_training_alone(tmp_path) -> None:
    folder = tmp_path / "training"
    record = {"kind": "train", "update": 100, "loss_base2": 7.5, "train_s": 3661.0}
    lines(folder / "log.jsonl", record, {"kind": "valid", "update": 100, "sub_loss_base2": 6.5})
    (folder / "version.json").write_text('{"threads": "2", "device": "a CPU"}')
    text = "".join(written(folder).texts)
    assert "No search is here" in text and "1 h 01 min" in text and "\u2248 2.034" in text  # 2 threads


def test_several_limits_and_a_front_in_one_folder(tmp_path) -> None:
    folder = search_folder(tmp_path / "search")
    winner = json.loads((folder / "summary.json").read_text())
    other = winner | {"constraint_ms": 20.0, "write_config_path": "large.yml"}
    (folder / "summary.json").write_text(json.dumps({"winners": [winner, other], "seconds": 3.0}))
    lines(folder / "log.jsonl", {"kind": "front", "update": 1, "evaluations": 5, "hypervolume": 0.5})
    table = "evaluation,loss,predicted_ms,bound_ms,measured_ms\n1,5.5,10,11,10.5\n2,5.25,12,13,\n"
    (folder / "evaluations.csv").write_text(table)
    run = collect(folder)
    assert [model.limit_ms for model in run.found] == [12.5, 20.0]
    (search,) = run.searches
    assert search.evaluations == (Evaluation(5.5, 10, 11, 10.5), Evaluation(5.25, 12, 13, None))
    assert search.limits_ms == (12.5, 20.0)
    written(folder)
    assert (folder / "report/hypervolume.png").exists()


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ("arch: transformersuper_wmt_en_de", 30),
        ("arch: transformersuper_iwslt_de_en", 23),
        ("arch: transformersuper_iwslt_de_en\nprofile-length: 17", 17),
        ("arch: [1]\nprofile-length: -3", None),
        ("seed: 1", None),
    ],
)
def test_flops_are_those_of_the_summary_or_of_the_length_of_the_task(config, length, tmp_path) -> None:
    folder = search_folder(tmp_path / "search")
    (folder / "config.yml").write_text(config)
    largest, _, found = collect(folder).models
    assert (largest.role, found.role) == ("largest", "found")
    expected = [2 * count_macs(arch, SPACE, length) if length else None for arch in (SPACE.largest(), ARCH)]
    assert [largest.flops, found.flops] == expected
    if length in (23, 30):
        assert TaskOptions(arch=config.removeprefix("arch: ")).sentence_length() == length
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"flops": 7_654_000_000}))
    assert collect(folder).found[0].flops == 7_654_000_000
    assert any(text.strip() == "7.654" for text in written(folder).texts)


def test_a_search_under_limits_on_other_than_latency(tmp_path) -> None:
    folder = search_folder(tmp_path / "search")
    winner = json.loads((folder / "summary.json").read_text())
    assert "limits" in caption(folder, "front")
    nothing = {"constraint_ms": None, "within": None, "write_config_path": None, "flops": 5_000_000_000}
    (folder / "summary.json").write_text(json.dumps({"mode": "constraint", "winners": [winner | nothing]}))
    (search,) = collect(folder).searches
    (found,) = collect(folder).found
    assert search.limits_ms == () and found.limit_ms is None and found.within_limit is None
    assert (found.name, found.measured_ms) == ("search", 12.75)
    text = "".join(written(folder).texts)
    drawn = "".join("".join(each.wide + each.narrow) for each in pictures(collect(folder)))
    for word in ("limit", "None", "nan"):
        assert word not in text and word not in drawn, word
    assert "12.75" in text and "5.250" in text  # measured, and the loss
    assert "limit" not in caption(folder, "front")


def front_folder(path: Path) -> Path:
    """Write what evo_search.py --pareto leaves where no limit is given."""
    search_folder(path)
    step = {"kind": "front", "update": 1, "evaluations": 5, "best_loss": 4.75, "hypervolume": 0.5}
    lines(path / "log.jsonl", step)
    front = [
        {"arch": ARCH.to_yaml(), "loss": 4.75, "predicted_ms": 31.5, "bound_ms": 33.0},
        {"arch": SPACE.smallest().to_yaml(), "loss": 5.875, "predicted_ms": 9.25, "bound_ms": 10.0},
    ]
    summary = {"mode": "pareto", "winners": [], "front": front, "seconds": 3.0}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def test_a_front_without_limits(tmp_path) -> None:
    folder = front_folder(tmp_path / "front")
    text = "".join(written(folder).texts)
    assert "No architecture" not in text
    assert "The front of front has 2 architectures: validation loss 4.750 at 31.50 ms at its one end" in text
    assert "5.875 at 9.25 ms at the other" in text
    assert (folder / "report/architecture.png").exists() and "Lowest loss of the front" in text
    assert collect(folder).front_best.arch == ARCH
    single = search_folder(tmp_path / "limit")  # its summary holds a front too, which nobody asked for
    summary = json.loads((single / "summary.json").read_text()) | {"mode": "constraint"}
    (single / "summary.json").write_text(
        json.dumps(summary | {"front": [{"loss": 5.0, "predicted_ms": 9.0}]})
    )
    assert "The front of" not in "".join(written(single).texts)


def test_baselines_have_the_losses_that_a_search_scored(tmp_path) -> None:
    folder = front_folder(tmp_path / "front")
    (folder / "evaluations.csv").write_text(
        evaluations_csv(
            [{"loss": 5.875, "predicted_ms": 9.25}, {"loss": 4.75, "predicted_ms": 31.5}],
            [SPACE.smallest(), ARCH],
        )
    )
    with Journal(folder / "depth.jsonl") as journal:
        journal.append({"kind": "hat search"})
        journal.append({"arch": SPACE.largest().to_yaml(), "loss": 4.625, "latency_ms": 40.0})
    with Journal(folder / "random.jsonl") as journal:
        journal.append({"arch": ARCH.to_yaml(), "loss": 4.75, "latency_ms": 31.5})
    lines(tmp_path / "training/log.jsonl", {"kind": "train", "update": 1, "loss_base2": 7.0})
    run = collect(tmp_path)
    found = {model.role: (model.inherited_loss, model.predicted_ms) for model in run.models}
    assert found == {"largest": (4.625, 40.0), "smallest": (5.875, 9.25)}
    (search,) = run.searches
    assert [each.arch for each in search.evaluations] == [SPACE.smallest(), ARCH]
    assert ([each.loss for each in search.random], [each.loss for each in search.depth]) == ([4.75], [4.625])
    text = "".join(written(folder).texts)
    assert "random (1)" in text and "largest but for its depths (1)" in text
    assert "Small grey dots" in text and "Crosses" in text
    (folder / "depth.jsonl").unlink()
    assert "Crosses" not in caption(folder, "front") and "Small grey dots" in caption(folder, "front")
    (folder / "evaluations.csv").write_text("loss,predicted_ms,encoder-embed-dim-subtransformer\n5,9,[[\n")
    assert collect(folder).searches[0].evaluations == (Evaluation(5, 9),)


def caption(root: Path, section: str) -> str:
    return next(picture.caption for picture in pictures(collect(root)) if picture.section == section)


def test_the_curves_of_a_search_are_called_what_they_are(tmp_path) -> None:
    assert "parents" in caption(search_folder(tmp_path / "limit"), "search")
    assert "hypervolume" not in caption(tmp_path / "limit", "search")
    front = front_folder(tmp_path / "front")
    assert "parents" not in caption(front, "search") and "hypervolume" in caption(front, "search")
    assert "parents" in caption(tmp_path, "search") and "hypervolume" in caption(tmp_path, "search")


@pytest.mark.parametrize("narrow", [False, True])
def test_no_legend_looks_like_a_point_or_lies_on_the_end_of_a_curve(narrow) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure(layout="constrained")
    steps = tuple({"evaluations": 10.0 * n, "hypervolume": 0.5 - 0.4 / n} for n in range(1, 9))
    draw_volume([Search("front", (), steps)], figure, narrow)
    (axes,) = figure.axes
    (legend,) = figure.legends if narrow else [axes.get_legend()]
    assert [handle.get_marker() for handle in legend.legend_handles] == ["None"]
    assert [text.get_text() for text in legend.get_texts()] == ["front"]
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    points = axes.transData.transform([(step["evaluations"], step["hypervolume"]) for step in steps])
    assert not box.count_contains(points)


def test_front_and_duration() -> None:
    points = [Evaluation(3.0, 10.0), Evaluation(2.0, 20.0), Evaluation(2.5, 20.0), Evaluation(2.5, 15.0)]
    assert pareto_front(points) == [points[0], points[3], points[1]]
    assert [duration(s) for s in (0.25, 59.9, 61, 3661)] == ["0.2 s", "59.9 s", "1 min 01 s", "1 h 01 min"]
