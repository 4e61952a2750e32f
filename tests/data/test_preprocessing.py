"""Text to binary data: parity, workers, bad text, interrupted runs."""

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from hat.data import folder as folder_module
from hat.data import text
from hat.data.indexed import IndexedData
from hat.data.pairs import PairDataset
from hat.data.preprocess import PreprocessConfig, preprocess
from hat.data.subwords import remove_subwords
from hat.data.vocab import Vocab
from hat.errors import DataError, HatError

ROOT = Path(__file__).parents[2]
COMPAT = ROOT.parent / "shared" / "compat" / "data"
needs_compat = pytest.mark.skipif(not COMPAT.exists(), reason=f"{COMPAT} is not on this machine")


def write_pair(folder, split, en, de):
    folder.mkdir(exist_ok=True)
    for lang, lines in (("en", en), ("de", de)):
        (folder / f"{split}.{lang}").write_bytes("".join(line + "\n" for line in lines).encode())


@pytest.fixture
def raw(tmp_path):
    en = [f"the man number {i} sees\u2028 a house {i % 7} ." for i in range(60)]
    de = [f"der Mann Nummer {i} sieht\t ein\u00a0Haus {i % 7} .\r" for i in range(60)]
    write_pair(tmp_path / "raw", "train", en, de)
    write_pair(tmp_path / "raw", "test", en[:5], de[:5])
    return tmp_path / "raw"


def config(raw, destdir, **changes):
    prefixes = {"trainpref": str(raw / "train"), "testpref": str(raw / "test")}
    return PreprocessConfig("en", "de", str(destdir), **{**prefixes, **changes})


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@needs_compat
@pytest.mark.parametrize(
    ("pair", "options"),
    [(("en", "de"), {"joined_dictionary": True}), (("de", "en"), {"thresholdsrc": 2, "thresholdtgt": 2})],
)
def test_same_bytes_as_the_reference(tmp_path, pair, options):
    prefixes = {f"{split}pref": str(COMPAT / "bpe8k" / split) for split in ("train", "valid", "test")}
    result = preprocess(PreprocessConfig(*pair, str(tmp_path / "out"), **prefixes, **options))
    expected = contents(COMPAT / f"m30k_{pair[0]}_{pair[1]}")
    found = contents(tmp_path / "out")
    subprocess.run(["sha256sum", "--check", "--quiet", folder_module.SUMS], cwd=tmp_path / "out", check=True)
    del found[folder_module.SUMS]
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert result["splits"]["train"]["sentences"] == 29_000


@pytest.mark.parametrize("pieces", [None, 80])
def test_result_does_not_depend_on_the_workers(raw, tmp_path, monkeypatch, pieces):
    whole = tmp_path / "whole"
    stats = preprocess(config(raw, whole, sentencepiece=pieces))
    monkeypatch.setattr(text, "CHUNK_BYTES", 400)
    for count in (1, 3):
        other = tmp_path / f"workers{count}"
        assert preprocess(config(raw, other, sentencepiece=pieces, workers=count)) == stats
        assert contents(other) == contents(whole)


def test_sentencepiece_keeps_the_raw_references(raw, tmp_path):
    out = tmp_path / "out"
    preprocess(config(raw, out, sentencepiece=80, joined_dictionary=True))
    assert (out / "test.en-de.de.txt").read_bytes() == (raw / "test.de").read_bytes()
    assert sorted(p.name for p in out.iterdir() if p.suffix in (".txt", ".model")) == [
        "dict.de.txt",
        "dict.en.txt",
        "sentencepiece.model",
        "test.en-de.de.txt",
        "test.en-de.en.txt",
    ]
    line = Vocab.load(out / "dict.en.txt").decode(IndexedData(out / "test.en-de.en")[2])
    assert remove_subwords(line, "sentencepiece") == "the man number 2 sees a house 2 ."


@pytest.mark.parametrize("count", [1, 2])
def test_empty_line_and_bad_utf8_are_named(raw, tmp_path, monkeypatch, count):
    monkeypatch.setattr(text, "CHUNK_BYTES", 100)
    lines = (raw / "train.de").read_bytes().split(b"\n")
    lines[41] = b" \t\r"
    for place, line, message in (
        (41, b" \t\r", r"train\.de:42 is empty.*--allow-empty"),
        (50, b"Stra\xdfe", r"train\.de:51 is not UTF-8"),
    ):
        lines[place] = line
        (raw / "train.de").write_bytes(b"\n".join(lines))
        with pytest.raises(DataError, match=message):
            preprocess(config(raw, tmp_path / "out", workers=count, allow_empty=place == 50))
    (raw / "train.de").write_bytes(b"\n".join(lines).replace(b"\xdf", b"ss"))
    preprocess(config(raw, tmp_path / "out", allow_empty=True))
    assert IndexedData(tmp_path / "out" / "train.en-de.de")[41].tolist() == [2]


def test_given_dictionary_is_used_as_it_is(raw, tmp_path):
    (tmp_path / "given").write_text("Mann 3\nder 1\n")
    out = tmp_path / "out"
    stats = preprocess(config(raw, out, tgtdict=str(tmp_path / "given"), nwordssrc=10))
    assert (out / "dict.de.txt").read_text() == "Mann 3\nder 1\n"
    assert stats["dictionary"] == {"en": 16, "de": 6}
    # U+00A0 separates two words
    assert stats["splits"]["test"]["de"] == {"tokens": 50, "unk_percent": 70}
    dicts = {"srcdict": str(out / "dict.en.txt"), "tgtdict": str(out / "dict.de.txt")}
    preprocess(config(raw, tmp_path / "again", trainpref=None, **dicts))
    for name, content in contents(tmp_path / "again").items():
        assert name == folder_module.SUMS or content == (out / name).read_bytes()


@pytest.mark.parametrize("exchange", [True, False])
def test_new_run_replaces_its_data_and_keeps_foreign_files(raw, tmp_path, monkeypatch, exchange):
    if not exchange:  # a system that cannot swap folders in one step
        monkeypatch.setattr(folder_module.ctypes, "CDLL", lambda *args, **kwargs: object())
    out = tmp_path / "out"
    preprocess(config(raw, out, sentencepiece=80))
    (out / "notes").mkdir()
    for name in ("notes/mine.md", "README"):
        (out / name).write_text("keep")
    preprocess(config(raw, out, testpref=None))
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["README", "notes", folder_module.SUMS, "dict.de.txt", "dict.en.txt"]
        + [f"train.en-de.{lang}.{end}" for lang in ("en", "de") for end in ("bin", "idx")]
    )
    assert (out / "notes" / "mine.md").read_text() == "keep"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]


def test_a_split_is_added_under_the_same_dictionaries(raw, tmp_path):
    out = tmp_path / "out"
    preprocess(config(raw, out, testpref=None))
    path = out / "train.en-de.en.bin"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    before = contents(out)
    dicts = {"srcdict": str(out / "dict.en.txt"), "tgtdict": str(out / "dict.de.txt")}
    preprocess(config(raw, out, trainpref=None, **dicts))
    after = contents(out)
    sums = [set(each.pop(folder_module.SUMS).split(b"\n")) for each in (before, after)]
    assert sums[0] < sums[1] and {name: after[name] for name in before} == before
    assert len(PairDataset.load(out, "test")) == 5
    with pytest.raises(DataError, match=r"train.en-de.en.bin is damaged: its SHA-256 differs"):
        PairDataset.load(out, "train")  # the split that stayed is checked against what was written


def test_what_fails_leaves_the_earlier_data(raw, tmp_path):
    out = tmp_path / "out"
    preprocess(config(raw, out))
    before = contents(out)
    swapped = dataclasses.replace(config(raw, out), source_lang="de", target_lang="en")
    with pytest.raises(HatError, match="holds data of en-de"):
        preprocess(swapped)
    with pytest.raises(HatError, match="cannot learn"):
        preprocess(config(raw, out, sentencepiece=2))
    target = out, ("en", "de")
    with (
        pytest.raises(HatError, match="another process"),
        folder_module.replacing(*target),
        folder_module.replacing(*target),
    ):
        pass
    (raw / "test.de").write_text("eins\nzwei\n")
    with pytest.raises(DataError, match=r"test\.en has 5 lines but .*test\.de has 2"):
        preprocess(config(raw, out))
    names = {path.name for path in out.iterdir()} | {path.name for path in tmp_path.iterdir()}
    assert names == {*before, "out", "raw"}


def test_killed_worker_is_an_error_not_a_hang():
    with text.Workers(2) as pool, pytest.raises(HatError, match="worker process was killed.*--workers"):
        list(pool.run(os._exit, [1, 2]))
