"""The commands generate and score on a tiny model: their files, their records, what they refuse."""

import json
from pathlib import Path

import pytest
import torch

from hat.cli.translate import generate, score
from hat.data.dataset import Dataset
from hat.data.toy import toy_pairs
from hat.decode.score import score_file
from hat.errors import ConfigError, DataError
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.run import read_record
from hat.space import DecoderSpace, EncoderSpace, SearchSpace
from hat.train.checkpoint import pack, save

SPACE = SearchSpace(
    EncoderSpace(8, 8, 1, (8,), (8,), (1,), (2,)),
    DecoderSpace(8, 8, 1, (8,), (8,), (1,), (2,), (2,), (1,)),
    8,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    sides = map(list, zip(*toy_pairs(1, 120), strict=True))
    data = Dataset.from_text(*sides, pieces=120, valid=6, folder=folder / "data")
    torch.manual_seed(1)
    network = SuperTransformer(SPACE, data.vocab_sizes, ModelConfig())
    save(pack(network, data.digests), folder / "model.pt")
    return folder


def test_generate_and_score_leave_a_record(
    work: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    argv = ["--path=model.pt", "--data=data", "--gen-subset=valid", "--cpu", "--max-len-b=9", "--beam=2"]
    argv += ["--remove-bpe=sentencepiece", "--results-path=out.txt", "--json"]
    assert generate(argv) == 0
    said = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    record = read_record(Path("out.txt"))
    assert (record.kind, record.state, said["sentences"]) == ("translation", "done", 6)
    assert record.results == said and record.settings["beam"] == 2 and len(record.inputs["checkpoint"]) == 64
    assert list(record.outputs) == ["out.txt"]
    for mode in ("normal", "sacre"):
        more = ["--remove-bpe=sentencepiece", "--data=data", "--gen-subset=valid"]
        assert score(["--gen-output=out.txt", f"--mode={mode}", *more, "--json"]) == 0
        found = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
        assert json.loads(Path(f"out.txt.{mode}.json").read_text()) == found
        record = read_record(Path(f"out.txt.{mode}.json"))
        assert (record.kind, record.results) == ("score", found) and "translation" in record.inputs
    assert score(["--gen-output=out.txt", "--data=data", "--gen-subset=train"]) == 2
    assert "holds 6 sentences, the train set has 114" in capsys.readouterr().err


def test_score_of_perfect_and_detokenised_text(work: Path, tmp_path: Path) -> None:
    pytest.importorskip("sacremoses")
    output = tmp_path / "out"
    lines = ["Das ist gut , oder ?", "Ein well-known Haus .", "Ja , heute .", "Nein , nie , danke ."]
    output.write_text("".join(f"T-{n}\t{line}\nH-{n}\t-1\t{line}\n" for n, line in enumerate(lines)))
    assert score_file(output).bleu == pytest.approx(100)
    raw = tmp_path / "raw"
    raw.write_text("Das ist gut, oder?\nEin well-known Haus.\nJa, heute.\nNein, nie, danke.\n")
    found = score_file(output, "sacre", reference=raw, target_lang="de")
    assert found.bleu == pytest.approx(100) and "tok:13a" in found.signature
    with pytest.raises(ConfigError, match="--target-lang or --data"):
        score_file(output, "sacre")
    raw.write_text("eins\n")
    with pytest.raises(DataError, match="4 hypotheses and 1 references"):
        score_file(output, "sacre", reference=raw, target_lang="de")
