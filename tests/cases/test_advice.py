"""Advice that works: every command that a message of hat/ advises stands in one table, and is followed."""

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hat.cli.main import COMMANDS, load
from hat.cli.options import parser_of
from hat.data.dataset import Dataset
from hat.data.subwords import TextCodec
from hat.errors import HatError

ROOT = Path(__file__).parents[2]
ADVISED = re.compile(
    rf"(?:python -m )?hat (?:{'|'.join(COMMANDS)})\b(?: --[a-z-]+)*|hat --help|\b[a-z_]+\.py(?: --[a-z-]+)+"
    r"|bash [a-z{}][a-z{}/_.]*|pip install|iconv(?: -[a-z])+|\{\} -dc|\btr '|\btr -d|\btorchrun\b"
)
PREPROCESS = "preprocess --source-lang=en --target-lang=de --trainpref=t --validpref=t --destdir=data"


def run(words: str, code: int = 0) -> None:
    """Run a command of HAT in this process."""
    name, *argv = shlex.split(words)
    try:
        assert load(name)(argv) == code
    except SystemExit as ended:  # --help
        assert not ended.code


def loads() -> str:
    """Return what loading and using the data says, "" if nothing is wrong."""
    try:
        data = Dataset.load("data")
        data.split("train"), TextCodec.load(Path("data"), data.languages, data.vocabs).encode("the dog")
    except HatError as error:
        return str(error)
    return ""


def data_is_made_again(capsys: pytest.CaptureFixture) -> None:
    """Whatever is missing or damaged in a data folder, preprocessing mends it."""
    damage: list[Callable[[], object]] = [
        lambda: None,
        lambda: Path("data/train.en-de.en.idx").unlink(),
        lambda: Path("data/train.en-de.de.bin").write_bytes(b"1"),
        lambda: Path("data/train.en-de.de.idx").write_bytes(b"1"),
        lambda: Path("data/dict.en.txt").write_text("a\n"),
        lambda: Path("data/SHA256SUMS").write_text("x\n"),
        lambda: [path.unlink() for path in Path("data").glob("*.idx")],
    ]
    for harm in damage:
        harm()
        said = loads()
        assert not said or "hat preprocess" in said or "make the data again" in said, said
        if "remove this file" in said:
            Path("data/SHA256SUMS").unlink()
        run(PREPROCESS)
        assert loads() == ""
    run("train --configs=space.yml --data=nowhere --save-dir=run", code=2)
    assert "make it with python -m hat preprocess" in capsys.readouterr().err


def pieces_are_learnt_again(capsys: pytest.CaptureFixture) -> None:
    run(f"{PREPROCESS} --sentencepiece=30")
    Path("data/sentencepiece.model").write_bytes(b"damaged")
    assert "hat preprocess --sentencepiece" in loads()
    run(f"{PREPROCESS} --sentencepiece=30")
    assert loads() == ""


def merges_are_learnt(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("subword_nmt")
    Path("codes").write_text("a b\n")
    run("apply-bpe --codes=codes --inputs t.en t.de --to=split", code=2)
    assert "make it with hat learn-bpe" in capsys.readouterr().err
    run("learn-bpe --inputs t.en t.de --codes=codes --merges=5")
    run("apply-bpe --codes=codes --inputs t.en t.de --to=split")


def extras_are_ours(capsys: pytest.CaptureFixture) -> None:
    """pip takes the extras of the installed distribution: each advised one is in setup.py."""
    setup = (ROOT / "setup.py").read_text("utf-8")
    assert 'name="hardware-aware-transformers"' in setup
    named = [
        extra
        for path in (ROOT / "hat").rglob("*.py")
        for extra in re.findall(
            r"(?:install\(|package\(.+, |extra: str = |needs = \(.+, )['\"]([a-z0-9]+)['\"]",
            path.read_text("utf-8"),
        )
    ]
    assert {"text", "report", "shell", "onnx", "ctranslate2"} <= {*named}
    assert all(f'"{extra}": [' in setup for extra in [*named, "ja", "ko"])


def help_is_shown(capsys: pytest.CaptureFixture) -> None:
    for words in ("preprocess --help", "download --help", "download --list"):
        run(words)
    assert "HAT_wmt14ende_super_space0" in capsys.readouterr().out


STAGES = "tests/test_documented.py::test_the_stages_on_multi30k"
ENCODINGS = "tests/cases/test_text_cases.py::test_c8_an_encoding_is_named_and_the_command_converts_it"
DEPLOYED = "tests/cli/test_deploy.py::test_advice_leads_to_a_bundle"
RELEASED = "tests/cli/test_download_model.py::test_"
FOLLOWED: dict[str, Callable[[pytest.CaptureFixture], None] | str] = {
    "hat preprocess": data_is_made_again,
    "python -m hat preprocess": data_is_made_again,
    "hat preprocess --sentencepiece": pieces_are_learnt_again,
    "hat learn-bpe": merges_are_learnt,
    "pip install": extras_are_ours,
    "hat --help": help_is_shown,
    "hat preprocess --help": help_is_shown,
    "download_model.py --list": help_is_shown,
    "download_model.py --model-name": "tests/cli/test_download_model.py::test_one_model",
    "download_model.py --latency-data": "tests/cli/test_download_model.py::test_latency_data",
    "hat generate": "tests/decode/test_translator.py::test_generate_and_score_leave_a_record",
    "hat distill": "tests/cli/test_distill.py::test_training_takes_a_mixture_and_refuses_it",
    "python -m hat report": STAGES,
    **dict.fromkeys(
        ("hat convert --configs", "hat export", "hat export --model", "hat export --to"), DEPLOYED
    ),
    **dict.fromkeys(("hat translate", "hat translate --model", "python -m hat translate --model"), DEPLOYED),
    "train.py --configs": STAGES,
    "bash scripts/run_task.sh": STAGES,
    "bash {}": "tests/data/test_release_tasks.py::test_toy_from_nothing",
    "torchrun": "tests/cli/test_distributed.py::test_two_processes_equal_one_and_each_goes_on_from_the_other",
    **dict.fromkeys(("iconv -f", "iconv -c -f", "tr '", "tr -d", "{} -dc"), ENCODINGS),
}


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield the strings of a module, with {} for what an f-string puts in, but no docstrings."""
    skipped = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def test_every_advised_command_stands_in_the_table() -> None:
    found: dict[str, str] = {}
    for path in (ROOT / "hat").rglob("*.py"):
        for text in texts(ast.parse(path.read_text("utf-8"))):
            if not text.startswith("#!") and not re.fullmatch("hat [a-z-]+( --space)?", text):  # no prog
                found |= dict.fromkeys(ADVISED.findall(text), path.name)
    assert found.keys() == FOLLOWED.keys(), found


def test_every_flag_in_a_message_exists() -> None:
    known = {"--help", "--version"}
    for name in COMMANDS:
        known |= {*parser_of(load(name))._option_string_actions}
    found = {}
    for path in (ROOT / "hat").rglob("*.py"):
        for text in texts(ast.parse(path.read_text("utf-8"))):
            found |= dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+(?![\w{-])", text), path.name)
    assert {flag: name for flag, name in found.items() if flag not in known} == {}


@pytest.mark.parametrize("place", sorted({each for each in FOLLOWED.values() if isinstance(each, str)}))
def test_advice_that_another_test_follows(place: str) -> None:
    path, _, name = place.partition("::")
    assert f"def {name}" in (ROOT / path).read_text("utf-8")


FUNCTIONS = {each.__name__: each for each in FOLLOWED.values() if callable(each)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_advice_is_followed_to_success(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda fd: None)
    Path("t.en").write_text("the dog runs home\nthe cat sees the dog\n")
    Path("t.de").write_text("der Hund rennt heim\ndie Katze sieht den Hund\n")
    Path("space.yml").write_text("encoder-layers: 1\n")
    FUNCTIONS[name](capsys)
