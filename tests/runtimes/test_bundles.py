"""Training and averaging leave a bundle, which keeps what is found out about its checkpoint."""

import os
import select
import shutil
import threading
from pathlib import Path

import pytest

import hat
from hat.cli.translate import export_model, generate, translate
from tests.runtimes.test_engines import made, space

SMALL = hat.ModelConfig(share_all_embeddings=True)
SHORT = hat.BeamConfig(beam=2, max_len_b=9)


@pytest.fixture(scope="module")
def config() -> hat.TrainConfig:
    optim, loop = hat.OptimConfig(max_update=4, amp="fp32"), hat.LoopConfig(no_tensorboard=True)
    return hat.TrainConfig(model=SMALL, optim=optim, loop=loop, batches=hat.BatchConfig(max_tokens=4096))


def card(folder: Path) -> str:
    return (folder / "bundle" / "README.md").read_text("utf-8")


def test_training_and_averaging_leave_a_bundle(
    data: hat.Dataset, config: hat.TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, arch = tmp_path / "run", space().smallest()
    hat.fit(arch, data, config, space=space(), out=run, device="cpu")
    want = hat.load(run / "checkpoint_best.pt", data).translate(["We wait."], config=SHORT)
    assert "| made from | checkpoint_best.pt |" in card(run) and f"| task | {data.folder.name} |" in card(run)
    moved = shutil.copytree(run / "bundle", tmp_path / "elsewhere")
    assert hat.load(moved).translate(["We wait."], config=SHORT) == want

    averaged, _ = hat.average([run])
    assert "| made from | average_model_10.pt |" in card(run)
    hat.fit(arch, data, config, space=space(), out=run, device="cpu")  # it had ended
    assert "| made from | average_model_10.pt |" in card(run)

    split = data.split("valid")
    short = ["--beam=2", "--max-len-b=9"]
    words = [f"--data={data.folder}", "--gen-subset=valid", "--mode=sacre", "--remove-bpe=sentencepiece"]
    words += [f"--results-path={tmp_path / 'out'}"]
    for path, search in ((averaged, ["--beam=3", "--max-len-b=8"]), (run / "bundle", short)):
        assert generate([f"--path={path}", *words, *search]) == 0
        for told in (" BLEU (nrefs:1", " chrF (nrefs:1", f"by {' '.join(search)} |", f"=bundle {search[0]}"):
            assert told in card(run)
    lines = [line.split("\t")[2] for line in (tmp_path / "out").read_text().splitlines() if line[0] == "H"]
    raw = Path(f"{split.source.prefix}.txt")
    words = [f"--model={run / 'bundle'}", f"--input={raw}", f"--output={tmp_path / 'de'}", *short]
    assert translate(words) == 0
    assert (tmp_path / "de").read_text().splitlines() == lines, "test.sh scores what a user gets"
    assert export_model([f"--model={averaged}", f"--output={tmp_path / 'again'}"]) == 0
    assert " BLEU (nrefs:1" in (tmp_path / "again" / "README.md").read_text()

    aside, _ = hat.average([run / "checkpoint_best.pt"], tmp_path / "mean.pt")
    assert hat.load(aside.with_suffix(".bundle")).translate(["We wait."], config=SHORT) == want

    hat.fit(space(), data, config, out=tmp_path / "super", device="cpu")
    hat.average([tmp_path / "super"])
    assert not list((tmp_path / "super").glob("*bundle"))
    words_only = tmp_path / "words"
    words_only.mkdir()
    for path in data.folder.iterdir():
        if path.name != "sentencepiece.model":
            shutil.copy(path, words_only)
    capsys.readouterr()
    hat.fit(arch, hat.Dataset.load(words_only), config, space=space(), out=tmp_path / "b", device="cpu")
    said = capsys.readouterr().err
    assert "no bundle of" in said and "hat export --to=bundle --model=" in said
    assert not (tmp_path / "b" / "bundle").exists()


def test_a_line_does_not_wait(data: hat.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = hat.save_bundle(made(data, 1), tmp_path / "bundle")
    (source, typed), (read, printed), kept = os.pipe(), os.pipe(), os.dup(0)
    os.dup2(source, 0)
    monkeypatch.setattr("sys.stdout", os.fdopen(printed, "w"))
    thread = threading.Thread(target=translate, args=([f"--model={bundle}", "--beam=1", "--max-len-b=9"],))
    thread.start()
    try:
        for line in (b"We wait.\n", b"\n", b"Why?\n"):
            os.write(typed, line)
            assert select.select([read], [], [], 60)[0], "nothing is printed before the next line is typed"
            assert os.read(read, 1 << 16).endswith(b"\n")
    finally:
        os.close(typed)
        thread.join()
        os.dup2(kept, 0)


def test_given_dictionaries(data: hat.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, texts, pieces = made(data, 1), tmp_path / "texts", tmp_path / "pieces"
    texts.mkdir()
    for name in ("dict.en.txt", "dict.de.txt"):
        shutil.copy(data.folder / name, texts)
    shutil.copy(data.folder / "sentencepiece.model", pieces)
    hat.save(hat.Model(model.network), tmp_path / "model.pt")
    words = [f"--model={tmp_path / 'model.pt'}", f"--output={tmp_path / 'made'}", f"--data={texts}"]
    langs = ("--source-lang=en", "--target-lang=de")
    for missing, message in (((), "cannot tell the languages"), (langs, "give it as --subwords")):
        assert export_model([*words, *missing]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "made").exists()
    assert export_model([*words, *langs, f"--subwords={pieces}"]) == 0
    assert hat.load(tmp_path / "made").translate(["We wait."], config=SHORT) == model.translate(
        ["We wait."], config=SHORT
    )
