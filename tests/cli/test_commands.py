"""What the commands around training say to wrong input: one line, exit code 2, nothing written."""

from pathlib import Path

import pytest

from hat.cli import evo_search, latency_dataset, latency_predictor
from hat.cli.files import average
from hat.cli.new_task import new_task
from hat.cli.translate import generate, score
from hat.run import read_record

SPACE = ["--encoder-embed-dim=16", "--decoder-embed-dim=16", "--encoder-layers=1", "--decoder-layers=1"]
TABLE = ["--lat-dataset-path=x.csv", *SPACE]
SEARCH = ["--ckpt-path=a.pt", "--write-config-path=b.yml", "--restore-file=c.pt"]


@pytest.mark.parametrize(
    ("main", "argv", "expected"),
    [
        (evo_search.main, [], "--ckpt-path is needed"),
        (evo_search.main, ["--ckpt-path=a.pt"], "--write-config-path is needed"),
        (evo_search.main, SEARCH, "--latency-constraint"),
        (evo_search.main, [*SEARCH, "--latency-constraint=5"], "a.pt"),
        (evo_search.main, ["--latency-constrain=5"], "did you mean --latency-constraint?"),
        (evo_search.main, ["--population-size=7"], "--population-size 7 is not parents"),
        (latency_dataset.main, SPACE, "--lat-dataset-path is needed"),
        (latency_dataset.main, [*TABLE, "--encoder-attention-heads=3"], "do not divide qkv-dim"),
        (latency_dataset.main, TABLE, "there is no data folder None"),
        (latency_dataset.main, [*TABLE, "--latiter=1", "--vocab-size=9"], "--latiter"),
        (latency_dataset.main, [*TABLE, "--vocab-size", "5", "6", "7"], "--vocab-size must be one or two"),
        (latency_dataset.main, [*TABLE, "--vocab-size=4"], "--vocab-size must be at least 5, got 4"),
        (latency_predictor.main, [], "--lat-dataset-path is not given"),
        (latency_predictor.main, ["--lat-dataset-path=x.csv"], "--ckpt-path is not given"),
        (generate, [], "--path is needed"),
        (generate, ["--path=no.pt"], "the checkpoint no.pt does not exist"),
        (generate, ["--path=no.pt", "--remove-bpe=spm"], "allowed are '@@ '"),
        (generate, ["--beam=0"], "--beam must be at least 1"),
        (score, [], "--gen-output is needed"),
        (score, ["--gen-output=none.out"], "none.out is no file"),
        (score, ["--mode=sacr"], "did you mean sacre?"),
        (average, [], "--inputs"),
        (average, ["--inputs=."], "holds no checkpointN.pt"),
        (new_task, [], "required: --name, --source, --target, --template"),
        (new_task, ["--name=x", "--template=y", "--source=a", "--target=b"], "<name>.<source>-<target>"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(main, argv, expected, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().split("\n")
    assert expected in error[-1] and "Traceback" not in "".join(error)
    assert list(tmp_path.iterdir()) == []


def test_score_names_a_damaged_line(tmp_path, capsys) -> None:
    path = tmp_path / "gen.out"
    path.write_text("S-0\ta\nT-0\tb\nH-0\t-0.5\n")
    assert score(["--gen-output", str(path)]) == 2
    assert f"{path}:3" in capsys.readouterr().err
    path.write_text("T-0\tb\nH-0\t-0.5\tb\nT-1\tc\n")
    assert score(["--gen-output", str(path)]) == 2
    assert "not one of each" in capsys.readouterr().err


def test_latency_rows_of_different_conditions_do_not_mix(tmp_path, capsys) -> None:
    argv = ["--vocab-size=20", "--latiter=3", "--profile-length=3", "--latcpu", *SPACE]
    argv += ["--encoder-ffn-embed-dim-choice", "16", "32", "--decoder-ffn-embed-dim-choice", "16", "32", "48"]
    table = tmp_path / "lat.csv"
    assert latency_dataset.main([*argv, f"--lat-dataset-path={table}", "--lat-dataset-size=2"]) == 0
    before = table.read_bytes()
    more = [*argv, f"--lat-dataset-path={table}", "--lat-dataset-size=3"]
    assert latency_dataset.main([*more, "--lat-beam=2"]) == 2
    assert "measured with beam 5, here it is 2" in capsys.readouterr().err
    assert table.read_bytes() == before
    wanted = latency_dataset.identity(latency_dataset.parsed(more))
    assert wanted.digest == read_record(table).identity.digest
    assert latency_dataset.main(more) == 0
    assert table.read_bytes().startswith(before) and len(Path(table).read_text().split("\n")) == 5
