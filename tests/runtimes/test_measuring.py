"""Any engine is a device: latencies of engines and of a user's own program, by option and by table."""

import json
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hat.cli.latency_dataset import main as latency_dataset
from hat.cli.latency_dataset import measure_config, parsed
from hat.cli.translate import generate
from hat.decode.beam import BeamConfig
from hat.decode.translator import Model
from hat.errors import ConfigError, HatError
from hat.latency.measure import MeasureConfig, Subject, collect, measure_fresh, profile
from hat.latency.predictor import check_valid
from hat.latency.table import read_table
from hat.model.layers import EOS, ModelConfig
from hat.model.transformer import SuperTransformer
from hat.run import read_record
from hat.runtimes.engines import Command, engine
from hat.space import SearchSpace
from hat.train.checkpoint import load_model, save_model
from tests.runtimes.test_engines import made, space

TOY = {"encoder-layers": 2, "decoder-layers": 2, "encoder-embed-dim": 16, "decoder-embed-dim": 16}
TOY |= {"encoder-ffn-embed-dim-choice": "[24, 16, 8]", "encoder-ffn-embed-dim": 24, "qkv-dim": 8}
TOY |= {"decoder-layer-num-choice": "[2, 1]", "encoder-embed-choice": "[16, 8]", "vocab-size": "[40]"}
TOY |= {"decoder-arbitrary-ende-attn-choice": "[-1]", "profile-length": 6, "lat-row-budget": 0.01}
# ms = 10 * decoder layers; it needs the environment, the bundle's path and its config.json
PROGRAM = """#!/bin/sh
[ -s "$2/model.safetensors" ] && [ -s "$2/dict.target.txt" ] || exit 7
[ "$1 $HAT_BEAM $HAT_SOURCE_LEN $HAT_TARGET_LEN $HAT_THREADS" = "a b 5 6 6 1" ] || exit 8
layers=$(sed -n 's/.*"decoder-layer-num-subtransformer": \\([0-9]*\\).*/\\1/p' "$2/config.json")
echo started >>"$0.calls"
printf '%s.5 %s.25\\n%s.75\\n' "$((layers * 10))" "$((layers * 10))" "$((layers * 10))"
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "on board.sh"
    path.write_text(PROGRAM)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def toy_yml(tmp_path: Path) -> str:
    path = tmp_path / "toy.yml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in TOY.items()))
    return str(path)


def test_a_program_of_ones_own_is_a_device(program: Path, toy_yml: str, tmp_path: Path, capsys) -> None:
    table, command = tmp_path / "t.csv", f"'{program}' 'a b'"
    words = [f"--configs={toy_yml}", f"--lat-dataset-path={table}", "--threads=1", "--no-progress-bar"]
    words += ["--runtime=command", f"--lat-command={command}", "--lat-dataset-size=3"]
    assert latency_dataset(words) == 0
    rows = read_table(table)
    for row in rows:
        assert row.arch and row.total_ms == pytest.approx(10 * row.arch.decoder.num_layers + 0.25)
    known = rows[0].conditions
    assert known["device"] == command and known["runtime"] == "command" and known["estimate"] == "minimum"
    assert known["dtype"] == "auto" and int(known["iterations"]) >= 3 and known["anchor_ms"] == "30.5000"
    for other, named in (
        ({"--lat-command": f"{command} x"}, "device"),
        ({"--precision": "int8"}, "dtype auto, here it is int8"),
        ({"--runtime": "torch"}, "device"),
    ):
        assert latency_dataset([*words, *(f"{flag}={value}" for flag, value in other.items())]) == 2
        assert f"t.csv holds rows measured with {named}" in capsys.readouterr().err
    toy = SearchSpace.from_yaml(toy_yml)
    how = MeasureConfig(6, 6, command=command)
    (timing,) = measure_fresh([toy.smallest()], Subject(toy, (40, 40), how), known)
    assert timing.total_ms == pytest.approx(10.25) and timing.conditions["runtime"] == "command"
    with pytest.raises(ConfigError, match="valid for runtime command, here it is ctranslate2; measure"):
        check_valid("p.pt", known, {"runtime": "ctranslate2"})
    check_valid("of 2020.pt", {}, {"runtime": "torch"})
    with pytest.raises(ConfigError, match="valid for runtime torch, here it is onnxruntime"):
        check_valid("of 2020.pt", {}, {"runtime": "onnxruntime"})


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sh -c 'echo 12.5 ms'", "printed 12.5 ms; it must print the milliseconds"),
        ("sh -c 'echo nan'", "printed nan"),
        ("sh -c 'echo 5 -3'", "printed 5 -3"),
        ("true", "printed nothing"),
        ("sh -c 'echo 3; exit 4'", "failed with exit code 4"),
        ("/no/such/program", "cannot be started: No such file"),
        ("sh -c 'sleep 30 & sleep 30'", "did not end within 0.1 s; raise --lat-row-budget"),
    ],
)
def test_a_program_that_does_not_measure(command: str, message: str, data) -> None:
    prepared = Command(command, 0.1).prepare(made(data, 1), "auto", 1)
    with pytest.raises(HatError, match=f"--lat-command, .*{message}"):
        prepared.timed(torch.tensor([[5, EOS]]), BeamConfig(), lambda: None)


def test_the_bundle_of_a_program_is_one(tmp_path: Path, data) -> None:
    model = made(data, 1)
    with pytest.raises(ConfigError, match="the runtime command only measures"):
        engine(model, "command")
    prepared = Command(f"sh -c 'cp -r \"$0\" {tmp_path}/copy; echo 1'").prepare(model, "int8", 3)
    assert prepared.timed(torch.tensor([[5, 6, EOS]]), BeamConfig(beam=2, max_len_b=3), int) == [1.0]
    assert load_model(tmp_path / "copy").arch == model.arch
    told = json.loads((tmp_path / "copy/config.json").read_text())["facts"]["measure"]
    assert told == {"beam": 2, "source_len": 3, "target_len": 4, "precision": "int8", "threads": 3}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runtime=command"], "--runtime command needs --lat-command"),
        (["--runtime=command", "--lat-command='a"], "is no command line: No closing quotation"),
        (["--runtime=onnxruntime", "--precision=bf16"], "onnxruntime cannot compute in bf16"),
        (["--runtime=ctranslate", "x"], "did you mean ctranslate2"),
        (
            ["--runtime=ctranslate2", "--decoder-arbitrary-ende-attn-choice", "-1", "1"],
            "last encoder layer only, this architecture has spans (2, 2); search with "
            "`decoder-arbitrary-ende-attn-choice: [-1]`",
        ),
    ],
)
def test_what_cannot_be_measured(toy_yml: str, words, message: str, tmp_path: Path, capsys) -> None:
    if "--runtime=ctranslate2" in words:
        pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is not installed")
    table = tmp_path / "t.csv"
    assert latency_dataset([f"--configs={toy_yml}", f"--lat-dataset-path={table}", *words]) == 2
    assert message in capsys.readouterr().err and not table.exists()


def test_an_engine_is_a_device() -> None:
    pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is not installed")
    how = MeasureConfig(4, 4, beam=2, max_iterations=2, runtime="ctranslate2", dtype="int8")
    (row,) = collect(space(), 1, vocab_sizes=(40, 40), config=how)
    known = row.conditions
    assert (known["runtime"], known["dtype"], known["estimate"]) == ("ctranslate2", "int8", "minimum")
    assert known["engine"].startswith("ctranslate2 ") and row.latency_mean_encoder == 0 < row.total_ms
    with pytest.raises(ConfigError, match="torch cannot compute in int8; give fp32, bf16 or fp16"):
        profile(Subject(space(), (40, 40), replace(how, runtime="torch")), space().smallest(), timed=True)


def test_older_names_mean_the_same(toy_yml: str, tmp_path: Path) -> None:
    def how(*words: str) -> MeasureConfig:
        return measure_config(parsed([f"--configs={toy_yml}", *words])[0])

    assert how("--lat-amp=fp32") == how("--precision=fp32") != how()
    with open(toy_yml, "a") as file:
        file.write("lat-amp: bf16\n")
    assert how().dtype == "bf16" and how("--precision=int8").dtype == how("--lat-amp=int8").dtype == "int8"
    toy = SearchSpace.from_yaml(toy_yml)
    old = Subject(toy, (40, 40), MeasureConfig(6, 6), None, torch.device("cpu"), 1).identity().settings
    assert old["runtime"] == "torch" and not {"engine", "command"} & set(old), "older tables go on"


def test_a_split_is_translated_by_an_engine(data, tmp_path: Path, capsys) -> None:
    pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is not installed")
    model, out = made(data, 1), tmp_path / "out"
    network = SuperTransformer(space(), data.vocab_sizes, ModelConfig(share_all_embeddings=True))
    for name, each in (("one.pt", model), ("super.pt", Model(network, data.codec, data.digests))):
        save_model(each, tmp_path / name)

    def lines(*words: str, path: str = "one.pt", code: int = 0) -> list[str]:
        given = [f"--path={tmp_path / path}", f"--data={data.folder}", "--gen-subset=valid"]
        assert generate([*given, f"--results-path={out}", "--max-len-b=20", *words]) == code
        return out.read_text().splitlines()

    ours = lines("--amp=fp32")
    assert lines("--precision=fp32") == ours != lines("--int8") == lines("--precision=int8")
    theirs = lines("--runtime=ctranslate2", "--precision=int8")
    assert [line for line in theirs if line[0] in "ST"] == [line for line in ours if line[0] in "ST"]
    assert len(theirs) == len(ours) and read_record(out).settings["runtime"] == "ctranslate2"
    lines("--int8", "--precision=fp32", code=2)
    lines("--runtime=ctranslate2", path="super.pt", code=2)
    said = capsys.readouterr().err
    assert "--int8 contradicts --precision fp32" in said and "cut one out with hat convert" in said


@pytest.mark.slow
def test_the_program_of_the_documentation(data, tmp_path: Path, monkeypatch) -> None:
    """docs/deploy.md; commands that copy here stand for the board's."""
    pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is not installed")
    page = Path(__file__).parents[2].joinpath("docs/deploy.md").read_text("utf-8")
    programs = dict(re.findall(r"`(on_board.sh|time_it.py)`:\n\n```\w+\n(.*?)```", page, re.DOTALL))
    programs["rsync"] = '#!/bin/sh\nshift 2; mkdir -p board; cp -r "$1". "$2" board\n'
    programs["ssh"] = '#!/bin/sh\nshift 2; shift; exec "$PYTHON" board/time_it.py "$@"\n'
    programs["python"] = '#!/bin/sh\nexec "$PYTHON" "$@"\n'
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for name, value in (("PYTHON", sys.executable), ("PYTHONPATH", str(Path(__file__).parents[2]))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    prepared = Command("./on_board.sh", 60.0).prepare(made(data, 1), "int8", 1)
    found = prepared.timed(torch.tensor([[5, 6, EOS]]), BeamConfig(beam=2, max_len_b=3), int)
    assert len(found) == 10 and min(found) > 0
