"""The command download_model.py: the list, the names, what it writes; and the table behind it."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from local_site import Site, zip_checkpoint

from hat.cli.files import download_model as main
from hat.files.download import released_models
from hat.latency.table import RELEASE_COLUMNS

ROOT = Path(__file__).parents[2]
PAGE = b"<html><title>Gone</title></html>"
FIRST = "HAT_wmt14ende_raspberrypi@3.5s_bleu@25.8"
CONTENT = zip_checkpoint(size=10)
TABLE = "\n".join([",".join(RELEASE_COLUMNS), ",".join("1" for _ in RELEASE_COLUMNS), ""]).encode()


@pytest.fixture
def asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Serve all models and latency data locally, for a SuperTransformer a page; the addresses asked for."""
    site.content_of = lambda path: TABLE if ".csv" in path else PAGE if "super" in path else CONTENT
    url = site.url.removesuffix("/file")
    models = tuple(replace(m, url=f"{url}/{m.model_name}.pt?dl=0") for m in released_models())
    monkeypatch.setattr("hat.cli.files.released_models", lambda: models)
    monkeypatch.setattr("hat.files.download.LATENCY_DATA_URL", f"{url}/latency_dataset")
    return site.asked


def test_list_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; from hat.cli.files import download_model; "
    code += "assert download_model(['--list', '--json']) == 0; "
    code += "assert not {'torch', 'numpy'} & set(sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    *lines, record = done.stdout.splitlines()
    assert len(lines) == 49 and len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["model", "task", "device", "latency", "BLEU"]
    assert " ".join(lines[1].split()) == f"{FIRST} wmt14.en-de Raspberry Pi ARM Cortex-A72 CPU 3.5s 25.8"
    assert lines[-1].split() == ["HAT_iwslt14deen_super_space1", "iwslt14.de-en", "-", "-", "-"]
    models = json.loads(record)["models"]
    assert len(models) == 48 and models[0]["encoder_ffn_embed_dim"] == [1024, 3072, 3072, 2048, 2048, 2048]
    assert list(tmp_path.iterdir()) == []


def test_one_model(
    asked: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = [f"--model-name={FIRST}", "--json", "--no-progress-bar"]
    assert main(argv) == 0
    path = Path("downloaded_models") / f"{FIRST}.pt"
    assert path.read_bytes() == CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    line, record = capsys.readouterr().out.splitlines()
    assert line == f"{path}: {len(CONTENT)} bytes, SHA-256 {digest}"
    file = {"path": str(path), "num_bytes": len(CONTENT), "sha256": digest, "status": "downloaded"}
    assert json.loads(record) == {"files": [file]}
    assert main(argv) == 0 and len(asked) == 1
    line, record = capsys.readouterr().out.splitlines()
    assert "is already there and intact" in line
    assert json.loads(record) == {"files": [file | {"status": "intact"}]}
    path.write_bytes(PAGE)
    assert main(argv) == 0 and path.read_bytes() == CONTENT
    captured = capsys.readouterr()
    assert f"{path} is damaged" in captured.err and '"downloaded"' in captured.out


def test_all_models_go_on_after_one_that_is_refused(
    asked: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--download-all", "--save-path", str(tmp_path), "--no-progress-bar"]) == 2
    assert len(asked) == 48 and len(list(tmp_path.glob("*.pt"))) == 44
    assert len(list(tmp_path.iterdir())) == 88
    error = capsys.readouterr().err
    assert "it is a web page, not the file" in error
    assert "4 of 48 files failed: HAT_wmt14ende_super_space0.pt," in error.splitlines()[-1]


def test_latency_data(
    asked: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--latency-data"]) == 0
    folder = tmp_path / "latency_dataset"
    assert (folder / "wmt14enfr_cpu_xeon_all.csv").is_file()
    assert (folder / "predictors" / "iwslt14deen_gpu_titanxp.pt").is_file()
    assert len(asked) == 16 and asked[0][0] == "/latency_dataset/wmt14ende_cpu_raspberrypi_all.csv"
    assert asked[1][0] == "/latency_dataset/predictors/wmt14ende_cpu_raspberrypi.pt"
    (folder / "wmt14enfr_cpu_xeon_all.csv").write_text("a,b\n1,2\n")
    assert main(["--latency-data"]) == 0 and len(asked) == 17
    assert "is damaged" in capsys.readouterr().err
    (folder / "predictors" / "iwslt14deen_gpu_titanxp.pt.run.json").touch()
    assert main(["--latency-data"]) == 0 and len(asked) == 17
    assert "iwslt14deen_gpu_titanxp.pt was made here and stays" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--model-name=HAT_wmt14ende_raspberry@3.5s"], f"; did you mean {FIRST}?"),
        (["--model-name=../../etc/passwd"], "there is no model '../../etc/passwd'"),
        ([], "0 of --model-name, --download-all, --list and --latency-data are given"),
        (["--list", "--download-all"], "2 of --model-name"),
        (["--model=x"], "unknown option --model; did you mean --model-name?"),
        ([f"--model-name={FIRST}", "--timeout=0"], "--timeout must be above 0, got 0.0"),
    ],
)
def test_wrong_use_is_one_line(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("ConfigError: ") and text in error and error.count("\n") == 1


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    models = tuple(replace(m, url="http://127.0.0.1:9/x") for m in released_models())
    monkeypatch.setattr("hat.cli.files.released_models", lambda: models)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert main(["--download-all", f"--save-path={tmp_path}/a/b"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Unreachable: cannot download http://127.0.0.1:9/x: Connection refused")
    assert error.count("\n") == 1 and list(tmp_path.rglob("*")) == []
