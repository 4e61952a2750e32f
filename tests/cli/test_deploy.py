"""hat export and hat translate: plain text in, plain text out."""

import json
import os
from pathlib import Path

import pytest

from hat.cli.files import convert
from hat.cli.translate import export_model, translate
from hat.data.dataset import Dataset
from hat.decode.translator import Model
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.runtimes.bundle import save_bundle
from hat.train.checkpoint import save_model
from tests.conftest import data  # noqa: F401 - a fixture
from tests.runtimes.test_engines import made, space

TEXT = "The cat sleeps.\n\nWe wait.\r\n" + "old " * 200 + "\nWhy?"


@pytest.fixture
def model(data: Dataset) -> Model:  # noqa: F811
    return made(data, 1)


@pytest.fixture
def bundle(model: Model, tmp_path: Path) -> str:
    return str(save_bundle(model, tmp_path / "bundle"))


def test_lines_stay_lines(model: Model, bundle: str, tmp_path: Path, capfdbinary: object) -> None:
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    common = [f"--model={bundle}", "--precision=fp32", "--batch-size=2"]
    assert translate([*common, f"--input={source}", f"--output={target}"]) == 0
    lines = target.read_text().split("\n")
    assert len(lines) == 6 and lines[1] == lines[5] == ""
    assert [lines[0], lines[2], lines[4]] == model.translate(["The cat sleeps.", "We wait.", "Why?"])
    assert lines[3], "a sentence that is too long is translated in parts"

    read, filled = os.pipe()
    os.write(filled, TEXT.encode())
    os.close(filled)
    kept = os.dup(0)
    os.dup2(read, 0)
    try:
        assert translate(common) == 0
    finally:
        os.dup2(kept, 0)
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
        (["--nbest=9"], b"a", "--nbest 9 exceeds --beam 5"),
        (["--input=missing.txt"], b"a", "missing.txt"),
        ([], "Gr\xfc\xdfe".encode("latin1"), "not UTF-8"),
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


def test_advice_leads_to_a_bundle(data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    network = SuperTransformer(space(), data.vocab_sizes, ModelConfig(share_all_embeddings=True))
    save_model(Model(network, data.codec, data.digests), tmp_path / "super.pt")
    arch, cut, folder = tmp_path / "arch.yml", tmp_path / "cut.pt", tmp_path / "bundle"
    arch.write_text("".join(f"{key}: {value}\n" for key, value in network.space.smallest().to_yaml().items()))
    words = [f"--model={tmp_path / 'super.pt'}", f"--output={folder}"]
    assert export_model(words) == 2 and not folder.exists()
    assert "cut one out with hat convert --configs ARCH.yml" in capsys.readouterr().err
    assert convert([f"--configs={arch}", f"--input={tmp_path / 'super.pt'}", f"--output={cut}"]) == 0
    words = [f"--model={cut}", f"--output={folder}", f"--data={data.folder}"]
    assert export_model(words) == 0
    (folder / "model.safetensors").write_bytes(b"cut")
    (tmp_path / "in.txt").write_text("We wait.\n")
    translation = [f"--model={folder}", f"--input={tmp_path / 'in.txt'}"]
    assert translate(translation) == 2 and "make it with hat export" in capsys.readouterr().err
    assert export_model(words) == 0
    shown = (folder / "README.md").read_text()
    assert "hat translate --model=bundle" in shown and "hat export --model=bundle" in shown
    assert translate(translation) == 0
