"""Files of the reference, given to the commands as a user of the 2020 release gives them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hat.cli.settings import dataset_of, parse_settings, space_and_arch
from hat.cli.train import main as train
from hat.cli.translate import generate
from hat.data.indexed import write_indexed
from hat.data.pairs import PairDataset
from hat.train.checkpoint import check_compatible, load

COMPAT = Path(__file__).resolve().parents[3] / "shared" / "compat"
pytestmark = pytest.mark.skipif(
    not COMPAT.is_dir(), reason=f"no {COMPAT}: the reference's checkpoints and answers are kept there"
)
DATA = {"A": "m30k_en_de", "B": "m30k_de_en"}


def answer(name: str, n: int) -> dict[str, Any]:
    return json.loads((COMPAT / name / "expected.json").read_text())["subtransformers"][n]


@pytest.fixture(params=[("A", 1), ("B", 3)], ids=["A", "B"])
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Any], list[str], Path]:
    """What the reference answered, the options that name the SubTransformer, and the checkpoint.

    The second YAML file has the super sizes and no choices, as those of the release have.
    """
    name, n = request.param
    expected = answer(name, n)
    (tmp_path / "sub.yml").write_text(yaml.safe_dump(expected["subtransformer"]))
    lines = (COMPAT / name / "super.yml").read_text().splitlines()
    common = [line for line in lines if "-choice" not in line.partition(":")[0]]
    (tmp_path / "common.yml").write_text("\n".join(["train-subtransformer: True", *common]) + "\n")
    argv = [f"--configs={tmp_path}/sub.yml", f"--sub-configs={tmp_path}/common.yml", "--cpu"]
    return expected, [*argv, f"--data={COMPAT}/data/{DATA[name]}"], COMPAT / name / "checkpoint.pt"


def test_validation_loss(
    asked: tuple[dict[str, Any], list[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, argv, checkpoint = asked
    argv += [f"--restore-file={checkpoint}", f"--save-dir={tmp_path}/run", "--json"]
    assert train([*argv, "--validate-subtransformer"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["params"] == expected["params"]
    assert abs(found["valid_loss"] - expected["valid_loss_base2"]) < 1e-4
    assert abs(found["valid_nll_loss"] - expected["valid_nll_base2"]) < 1e-4


def test_translations(asked: tuple[dict[str, Any], list[str], Path], tmp_path: Path) -> None:
    """40 scores, in the precision that the command chooses; tests/train compares all of them, and words."""
    (expected, argv, checkpoint), n = asked, 40
    answers = expected["beam5_lenpen1"]
    lines = list(answers)[:n]
    data = PairDataset.load(argv[-1].removeprefix("--data="), "test")
    for lang, vocab, side in (
        (data.source_lang, data.source_vocab, data.source),
        (data.target_lang, data.target_vocab, data.target),
    ):
        vocab.save(tmp_path / f"dict.{lang}.txt")
        name = f"test.{data.source_lang}-{data.target_lang}.{lang}"
        write_indexed(tmp_path / name, (side[int(line)] for line in lines), len(vocab))
    argv += [f"--data={tmp_path}", f"--path={checkpoint}", "--beam=5", f"--results-path={tmp_path}/out.txt"]
    assert generate([*argv, "--no-progress-bar"]) == 0
    found = [line.split("\t") for line in (tmp_path / "out.txt").read_text("utf-8").splitlines()]
    scores = {words[0][2:]: float(words[1]) for words in found if words[0].startswith("H-")}
    assert len(scores) == n
    for number, line in enumerate(lines):
        assert abs(scores[str(number)] - answers[line]["score"]) < 1e-4, line


@pytest.mark.parametrize("name", DATA)
def test_a_supertransformer_serves_searches_and_further_training(name: str) -> None:
    argv = [f"--configs={COMPAT / name / 'super.yml'}", f"--data={COMPAT}/data/{DATA[name]}"]
    (settings,) = parse_settings(argv, prog="test", description="", config_flags=("--configs",))
    space, _ = space_and_arch(settings.space, settings.arch)
    path, vocab = COMPAT / name / "checkpoint.pt", dataset_of(settings.task)
    found = check_compatible(load(path), path, space, None, settings.model, vocab)
    assert found.space == space and found.model_config == settings.model
    assert torch.equal(found.weights["source_embed.weight"], load(path).weights["source_embed.weight"])
