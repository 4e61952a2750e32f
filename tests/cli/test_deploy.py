"""hat export and hat translate: plain text in, plain text out."""

import io
import json
import sys
from pathlib import Path

import pytest

from hat.cli.deploy import export_model, translate
from hat.data.dataset import Dataset
from hat.decode.translator import Model
from hat.train.bundle import save_bundle
from hat.train.checkpoint import save_model
from tests.runtimes.test_engines import data, made  # noqa: F401 - a fixture

TEXT = "The cat sleeps.\n\nWe wait.\r\n" + "old " * 200 + "\nWhy?"


@pytest.fixture
def model(data: Dataset) -> Model:  # noqa: F811
    return made(data, 1)


@pytest.fixture
def bundle(model: Model, tmp_path: Path) -> str:
    return str(save_bundle(model, tmp_path / "bundle"))


def test_lines_stay_lines(
    model: Model, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: object
) -> None:
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    common = [f"--model={bundle}", "--precision=fp32", "--batch-size=2"]
    assert translate([*common, f"--input={source}", f"--output={target}"]) == 0
    lines = target.read_text().split("\n")
    assert len(lines) == 6 and lines[1] == lines[5] == ""
    assert [lines[0], lines[2], lines[4]] == model.translate(["The cat sleeps.", "We wait.", "Why?"], beam=4)
    assert lines[3], "a sentence that is too long is translated in parts"

    class Input:
        buffer = io.BytesIO(TEXT.encode())

        @staticmethod
        def isatty() -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", Input)
    assert translate(common) == 0
    out, err = capfdbinary.readouterr()  # type: ignore[attr-defined]
    assert out == target.read_bytes() and b"translated in parts: 1" in err


def test_nbest(bundle: str, tmp_path: Path, capfdbinary: object) -> None:
    source = tmp_path / "in.txt"
    source.write_text("The cat sleeps.\n\n")
    assert translate([f"--model={bundle}", f"--input={source}", "--nbest=2"]) == 0
    rows = [line.split(b"\t") for line in capfdbinary.readouterr().out.splitlines()]  # type: ignore[attr-defined]
    assert [row[0] for row in rows] == [b"1", b"1", b"2"] and float(rows[0][1]) >= float(rows[1][1])


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        (["--nbest=9"], b"a", "--nbest 9 exceeds --beam 4"),
        (["--input=missing.txt"], b"a", "no such file; check --input"),
        ([], "Gr\xfc\xdfe".encode("latin1"), "in.txt:1 is not UTF-8"),
        ([], b"x" * 500, "line 1 holds a word of 500 characters"),
        (["--runtime=onnxruntime", "--precision=bf16"], b"a", "onnxruntime cannot compute in bf16"),
    ],
)
def test_refusals(
    bundle: str, words: list[str], text: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes(text)
    assert translate([f"--model={bundle}", f"--input={source}", f"--output={target}", *words]) == 2
    assert message in capsys.readouterr().err and not target.exists()


def test_export(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoint, folder = tmp_path / "model.pt", tmp_path / "made"
    save_model(model, checkpoint)
    assert export_model([f"--model={checkpoint}", "--to=bundle", f"--output={folder}", "--json"]) == 0
    made_of = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(made_of["files"]) >= {"config.json", "model.safetensors", "README.md"}
    half = tmp_path / "half"
    assert (
        export_model([f"--model={folder}", "--to=safetensors", "--precision=bf16", f"--output={half}"]) == 0
    )
    assert export_model([f"--model={folder}", f"--output={folder}"]) == 2
    assert export_model([f"--model={folder}", f"--output={half}"]) == 2
    assert "holds other files than a bundle" in capsys.readouterr().err
    pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is not installed")
    other = tmp_path / "ct2"
    assert (
        export_model([f"--model={folder}", "--to=ctranslate2", "--precision=int8", f"--output={other}"]) == 0
    )
    assert (other / "model.bin").exists()
