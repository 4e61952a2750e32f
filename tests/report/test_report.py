"""scripts/report.py: the page holds what the files say, needs nothing else, and trusts no name or number."""

import json
import resource
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from hat.arch.codec import SpaceOptions, arch_to_yaml, space_of, space_to_plain
from hat.arch.sampler import sample
from hat.cli.report import main
from hat.cli.task import TaskOptions
from hat.files.cost import Cost, read_cost
from hat.files.journal import Journal
from hat.model.count import count_macs
from hat.report.collect import collect
from hat.report.figures import draw_volume
from hat.report.front import evaluations_csv
from hat.report.page import duration
from hat.report.pictures import pictures
from hat.report.run import Evaluation, Search, pareto_front
from hat.rng import rng_for

HOSTILE = '<script src="https://example.org/x.js">alert(1)</script>$\\frac$ & "quoted"'
SECTIONS = ["models", "front", "latency", "search", "architecture", "training", "cost", "conditions"]
SPACE = space_of(
    SpaceOptions(
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=64,
        encoder_layers=2,
        decoder_embed_dim=32,
        decoder_ffn_embed_dim=64,
        decoder_layers=2,
        encoder_embed_choice=(32, 16),
        encoder_ffn_embed_dim_choice=(64, 32),
        encoder_layer_num_choice=(2,),
        decoder_embed_choice=(32, 16),
        decoder_ffn_embed_dim_choice=(64, 32),
        decoder_layer_num_choice=(2, 1),
    )
)
ARCH = sample(SPACE, rng_for(1, "report"))
LOADING = {"src", "srcset", "data", "poster", "action", "background", "ping", "cite", "manifest"}


class Page(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.texts.append(data)


def lines(path: Path, *records: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def search_folder(path: Path, name: str = "small") -> Path:
    """Write what evo_search.py leaves."""
    path.mkdir(parents=True)
    lines(
        path / "log.jsonl",
        {"kind": "search", "update": 1, "best_loss": 5.5, "mean_parent_loss": 6.0, "evaluations": 3},
        {"kind": "search", "update": 2, "best_loss": 5.25, "mean_parent_loss": 5.5, "evaluations": 5},
    )
    with Journal(path / "journal.jsonl") as journal:
        journal.append({"kind": "hat search", "space": space_to_plain(SPACE)})
        for n in range(5):
            arch = arch_to_yaml(sample(SPACE, rng_for(n, "scored")))
            journal.append({"arch": arch, "loss": 5.25 + n / 8, "latency_ms": 12.0 - n})
    found = {"arch": arch_to_yaml(ARCH), "loss": 5.25, "constraint_ms": 12.5, "predicted_ms": 12.0}
    found |= {"measured_ms": 12.75, "params": 98765, "seconds": 90.0, "write_config_path": f"{name}.yml"}
    (path / "summary.json").write_text(json.dumps(found))
    return path


def task_folder(path: Path, name: str = "found@12.5ms") -> Path:
    """Write what run_task.py leaves, with one model of the given name."""
    search_folder(path / "search@12.5ms")
    rows = [
        {
            "name": "largest",
            "params": 1_234_567,
            "flops": 34_500_000,
            "predicted_ms": 24.5,
            "measured_ms": 25.0,
        },
        {"name": "smallest", "params": 123_000, "flops": 3_450_000, "predicted_ms": 8.5, "measured_ms": 8.25},
        {"name": name, "params": 456_000, "flops": 9_870_000, "predicted_ms": 12.0, "measured_ms": 12.75},
    ]
    rows[2] |= {"constraint_ms": 12.5, "bleu": 37.87, "weights": "trained", "size_bytes": 3 << 20}
    rows[2] |= {"signature": "nrefs:1|tok:13a", "within_limit": False}
    summary = {"task": HOSTILE if name == HOSTILE else "toy", "hardware": "cpu", "models": rows}
    (path / "summary.json").write_text(json.dumps(summary | {"machine": {"device": name}}))
    for row, arch in zip(rows, (SPACE.largest(), SPACE.smallest(), ARCH), strict=True):
        if "/" not in row["name"]:
            text = "".join(f"{key}: {value}\n" for key, value in arch_to_yaml(arch).items())
            (path / f"{row['name']}.yml").write_text(text)
    lines(path / "super/log.jsonl", {"kind": "train", "update": 10, "loss_base2": 7.0, "train_s": 5.0})
    spent = {"wall_s": 75.0, "cpu_s": 120.0, "sittings": 2}
    stages = {"train": {"seconds": 60.0, "spent": spent, "command": f"python train.py {name}"}}
    (path / "stages.json").write_text(json.dumps(stages))
    return path


def written(folder: Path, *flags: str) -> Page:
    assert main([str(folder), *flags]) == 0
    return Page((folder / "report/index.html").read_text("utf-8"))


def check_alone(page: Page) -> None:
    """Nothing is loaded, nothing runs, and every reference leads to an element of the page."""
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in {"script", "iframe", "object", "embed", "img", "image", "foreignobject", "base"}
        assert not LOADING & attributes.keys()
        assert not [key for key in attributes if key.startswith("on")]
        for key in attributes.keys() & {"href", "xlink:href"}:
            assert attributes[key] == "data:," or attributes[key][1:] in ids, attributes[key]
    style = "".join(page.texts)
    assert "@import" not in style and "url(" not in style


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
        {"arch": arch_to_yaml(ARCH), "loss": 4.75, "predicted_ms": 31.5, "bound_ms": 33.0},
        {"arch": arch_to_yaml(SPACE.smallest()), "loss": 5.875, "predicted_ms": 9.25, "bound_ms": 10.0},
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
        journal.append({"arch": arch_to_yaml(SPACE.largest()), "loss": 4.625, "latency_ms": 40.0})
    with Journal(folder / "random.jsonl") as journal:
        journal.append({"arch": arch_to_yaml(ARCH), "loss": 4.75, "latency_ms": 31.5})
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


@pytest.mark.parametrize("make", [None, Path.mkdir])
def test_a_folder_without_a_run_is_refused(make, tmp_path, capsys) -> None:
    folder = tmp_path / "empty"
    if make:
        make(folder)
    assert main([str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["RUN", "--to=TO"],
        ["--to=TO", "RUN"],
        ["--to", "TO", "RUN"],
        ["--json", "RUN", "--to", "TO"],
        ["--run-dir", "RUN", "--to", "TO"],
        ["--to", "TO", "--run-dir=RUN", "--json"],
    ],
)
def test_the_folder_stands_anywhere(flags, tmp_path) -> None:
    summary = {"rankings": {"depth": {"kendall_tau": 0.5}}}
    (study_folder(tmp_path / "run") / "summary.json").write_text(json.dumps(summary))
    places = {"RUN": f"{tmp_path}/run", "TO": f"{tmp_path}/to"}
    for name, place in places.items():
        flags = [flag.replace(name, place) for flag in flags]
    assert main(flags) == 0
    assert (tmp_path / "to/index.html").exists() and not (tmp_path / "run/report").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no folder is given"),
        (["--to=x"], "no folder is given"),
        (["a", "--json", "b"], "two folders are given, a and b;"),
        (["--run-dir=a", "b"], "two folders are given, --run-dir=a and b;"),
        (["--frob", "a"], "unknown option --frob"),
    ],
)
def test_no_folder_or_two_are_refused(flags, message, capsys) -> None:
    assert main(flags) == 2
    assert f"ConfigError: {message}" in capsys.readouterr().err


def study_folder(path: Path, **record: object) -> Path:
    """Write the journal of a study, which has the name of a search's."""
    with Journal(path / "journal.jsonl") as journal:
        journal.append(record or {"table": "wmt", "method": "predictor", "rows": 0, "mape_percent": 4.5})
    return path


def test_a_study_without_rankings_is_refused(tmp_path, capsys) -> None:
    predictor = study_folder(tmp_path / "predictor")
    part = study_folder(tmp_path / "rank", loss=5.0, arch=arch_to_yaml(ARCH), stage="inherited from single")
    (part / "journal.jsonl").rename(part / "journal-1-of-2.jsonl")
    lines(part / "trainings/one/log.jsonl", {"kind": "train", "update": 1, "loss_base2": 7.0})
    for folder in (predictor, part):
        assert main([str(folder)]) == 2
        said = capsys.readouterr().err
        assert f"DataError: {folder} holds a predictor study" in said and "RUN_DIR must hold" in said
        assert said.count("\n") == 1 and not (folder / "report").exists()
    assert main([str(tmp_path), f"--to={tmp_path}/to"]) == 2 and "holds no run" in capsys.readouterr().err
    search_folder(tmp_path / "search")
    assert [search.name for search in collect(tmp_path).searches] == ["search"]


def test_the_rankings_of_a_rank_study(tmp_path) -> None:
    folder = study_folder(tmp_path / "rank", loss=5.0, arch=arch_to_yaml(ARCH), stage="scratch")
    row = {"kendall_tau": 0.625, "equal_depth_accuracy": 0.5, "kendall_tau_bleu": None}
    rankings = {HOSTILE: row, "decoder depth": row | {"kendall_tau": 0.375}, "bad": [1]}
    ceiling = row | {"kendall_tau": 0.875}
    summary = {"archs": 12, "seeds": 2, "rankings": rankings, "ceiling": ceiling}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = written(folder)
    check_alone(page)
    assert [a["id"] for tag, a in page.elements if tag == "section"] == ["ranking", "conditions"]
    for number in ("0.625", "0.375", "0.875", "0.500"):
        assert any(text.strip() == number for text in page.texts), number
    text = "".join(page.texts)
    assert "No search" not in text and "12 architectures, 2 trainings of each" in text
    assert "Kendall tau 0.625; two trainings agree to 0.875." in text
    (folder / "summary.json").write_text(json.dumps(summary | {"ceiling": None}))
    assert "agree to" not in "".join(written(folder).texts)


def test_sittings_add_up(tmp_path) -> None:
    path = tmp_path / "cost.json"
    for _ in range(2):
        with Cost(path, threads=3, processes=2, gpus=1):
            pass
    first = json.loads(path.read_text())["sittings"]
    first[0] |= {"wall_s": 100.0, "cpu_s": 50.0}
    path.write_text(json.dumps({"sittings": first}))
    with pytest.raises(KeyboardInterrupt), Cost(path, threads=3, processes=2, gpus=1):
        raise KeyboardInterrupt
    spent = read_cost(path)
    assert spent.sittings == 3 and spent.threads == 6 and spent.gpus == 1
    assert 100 <= spent.wall_s < 110 and 50 <= spent.cpu_s < 60 and spent.gpu_s == pytest.approx(spent.wall_s)
    with Cost(path, threads=1, resumable=False):
        pass
    assert read_cost(path).sittings == 1


def test_the_processes_that_measure_count_once(tmp_path, monkeypatch) -> None:
    used = {resource.RUSAGE_SELF: [1.0, 2.0], resource.RUSAGE_CHILDREN: [10.0, 20.0]}
    monkeypatch.setattr(
        "hat.files.cost.resource.getrusage",
        lambda who: SimpleNamespace(ru_utime=used[who][0], ru_stime=used[who][1]),
    )
    with Cost(tmp_path / "cost.json", threads=1, processes=4):
        used[resource.RUSAGE_SELF] = [6.0, 3.0]  # 6 s more in each of four processes
        used[resource.RUSAGE_CHILDREN] = [16.0, 21.0]  # 7 s more
    assert read_cost(tmp_path / "cost.json").cpu_s == 4 * 6 + 7


@pytest.mark.parametrize("text", ["", "[]", '{"sittings": [1]}', '{"sittings": [{"wall_s": -1}]}', "\0"])
def test_a_damaged_record_of_costs_stops_nothing(text, tmp_path) -> None:
    path = tmp_path / "cost.json"
    path.write_text(text)
    spent = read_cost(path)
    assert spent is None or spent.wall_s == 0
    with Cost(path, threads=1):
        pass
    assert read_cost(path).wall_s >= 0


def test_front_and_duration() -> None:
    points = [Evaluation(3.0, 10.0), Evaluation(2.0, 20.0), Evaluation(2.5, 20.0), Evaluation(2.5, 15.0)]
    assert pareto_front(points) == [points[0], points[3], points[1]]
    assert [duration(s) for s in (0.25, 59.9, 61, 3661)] == ["0.2 s", "59.9 s", "1 min 01 s", "1 h 01 min"]
