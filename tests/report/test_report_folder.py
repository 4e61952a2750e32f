"""Which folder scripts/report.py reports on, and which it refuses; folders of studies."""

import json
from pathlib import Path

import pytest
from run_folders import (
    ARCH,
    HOSTILE,
    check_alone,
    lines,
    search_folder,
    written,
)

from hat.cli.report import main
from hat.files.journal import Journal
from hat.report.collect import collect


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
    part = study_folder(tmp_path / "rank", loss=5.0, arch=ARCH.to_yaml(), stage="inherited from single")
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
    folder = study_folder(tmp_path / "rank", loss=5.0, arch=ARCH.to_yaml(), stage="scratch")
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
    assert (
        "No search" not in text
        and "pictures lie" not in text
        and "12 architectures, 2 trainings of each" in text
    )
    assert "Kendall tau 0.625; two trainings agree to 0.875." in text
    (folder / "summary.json").write_text(json.dumps(summary | {"ceiling": None}))
    assert "agree to" not in "".join(written(folder).texts)
