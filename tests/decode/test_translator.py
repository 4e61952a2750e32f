"""Plain sentences in, plain sentences out, by a model and by the commands generate and score."""

import json
from pathlib import Path

import pytest
import torch

from hat.cli.translate import generate as generate_command
from hat.cli.translate import score
from hat.data.dataset import Dataset
from hat.decode.beam import BeamConfig, beam_search
from hat.decode.score import parse_output, score_file
from hat.decode.translator import Model, generate
from hat.errors import ArchError, ConfigError, DataError
from hat.model.inference import InferenceModel
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.run import read_record
from hat.train.checkpoint import pack, save
from tests.decode.test_beam import SPACE


@pytest.fixture(scope="module")
def model(data: Dataset) -> Model:
    cfg = ModelConfig(max_source_positions=60, max_target_positions=12)
    network = SuperTransformer(SPACE, data.vocab_sizes, cfg)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise))
    return Model(network, data.codec, data.digests)


def test_translations_in_order_equal_one_by_one(model: Model, data: Dataset) -> None:
    sentences = ["The cat sleeps.", "", "We wait until the very old man sells his big hat.", "  ", "Why?"]
    found = model.translate(sentences, beam=3, batch_size=2)
    assert found[1] == found[3] == "" and all(found[i] for i in (0, 2, 4))
    for sentence, translation in zip(sentences, found, strict=True):
        assert model.translate([sentence], beam=3) == [translation]
    assert model.translate([]) == []
    ids = torch.tensor(data.codec.encode(sentences[0]), dtype=torch.long)[None]
    ((best, *_),) = beam_search(InferenceModel(model.network), ids, BeamConfig(beam=3))
    assert found[0] == data.codec.decode(best.tokens)
    assert model.translate(sentences, config=BeamConfig(beam=3), max_tokens=40) == found


def test_extracting(model: Model) -> None:
    arch = SPACE.smallest()
    small = model.extract(arch)
    assert (small.arch, small.space, small.codec) == (arch, SPACE, model.codec)
    assert model.arch is None and small.digests == model.digests
    ids = torch.tensor(model.codec.encode("We wait."), dtype=torch.long)[None]
    ((best, *_),) = beam_search(InferenceModel(model.network, arch), ids, BeamConfig())
    assert small.translate(["We wait."]) == [model.codec.decode(best.tokens)]
    assert small.extract(arch) is small
    with pytest.raises(ArchError, match="holds one architecture"):
        small.extract(SPACE.largest())


def test_what_cannot_be_translated(model: Model) -> None:
    with pytest.raises(DataError, match="sentence 2 has .* tokens .* 60 are allowed"):
        model.translate(["a", "we " * 200])
    with pytest.raises(DataError, match="has no dictionaries"):
        Model(model.network).translate(["a"])
    with pytest.raises(TypeError, match="list of sentences"):
        model.translate("a")


def test_a_split_is_generated_in_the_order_of_the_corpus(model: Model, data: Dataset, tmp_path: Path) -> None:
    valid = data.split("valid")
    fixed = InferenceModel(model.network)
    how = {"batch_size": 3, "remove_bpe": "sentencepiece", "nbest": 2}
    text, counts = generate(fixed, valid, BeamConfig(beam=2), **how)
    lines = text.split("\n")[:-1]
    assert [line[:2] for line in lines] == ["S-", "T-", "H-", "P-", "H-", "P-"] * len(valid)
    assert counts["sentences"] == len(valid) == 10 and counts["seconds"] > 0
    hypotheses, references = parse_output(lines, "x")
    assert references == valid.raw_target()
    sources = [line.split("\t")[1] for line in lines if line.startswith("S-")]
    assert hypotheses == model.translate(sources, beam=2)


def test_generate_and_score_leave_a_record(
    model: Model,
    data: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    save(pack(model.network, data.digests), Path("model.pt"))
    given = [f"--data={data.folder}", "--gen-subset=valid"]
    argv = ["--path=model.pt", *given, "--cpu", "--max-len-b=9", "--beam=2"]
    argv += ["--remove-bpe=sentencepiece", "--results-path=out.txt", "--json"]
    assert generate_command(argv) == 0
    said = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    record = read_record(Path("out.txt"))
    assert (record.kind, record.state, said["sentences"]) == ("translation", "done", 10)
    assert record.results == said and record.settings["beam"] == 2 and len(record.inputs["checkpoint"]) == 64
    assert list(record.outputs) == ["out.txt"]
    for mode in ("normal", "sacre"):
        more = ["--remove-bpe=sentencepiece", *given]
        assert score(["--gen-output=out.txt", f"--mode={mode}", *more, "--json"]) == 0
        found = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
        assert json.loads(Path(f"out.txt.{mode}.json").read_text()) == found
        record = read_record(Path(f"out.txt.{mode}.json"))
        assert (record.kind, record.results) == ("score", found) and "translation" in record.inputs
    assert score(["--gen-output=out.txt", given[0], "--gen-subset=train"]) == 2
    assert "out.txt is no translation of the train split" in capsys.readouterr().err
    scores = json.loads(Path("out.txt.sacre.json").read_text())
    assert generate_command([*argv, "--mode=sacre"]) == 0
    both = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert scores.items() <= both.items() and both["sentences"] == 10


def test_score_of_perfect_and_detokenised_text(tmp_path: Path) -> None:
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
