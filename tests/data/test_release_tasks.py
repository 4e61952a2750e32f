"""preprocess.sh and get_preprocessed.sh of the 2020 tasks, on tiny archives with real paths and markup."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from release_archives import IWSLT_TESTS, MAKE, sentences

from hat.data.corpora import line_function
from hat.data.pairs import PairDataset
from hat.data.vocab import Vocab

pytest.importorskip("sacremoses")
pytest.importorskip("subword_nmt")
ROOT = Path(__file__).parents[2]
FOLDER = {
    "wmt14.en-de": "wmt16_en_de",
    "wmt14.en-fr": "wmt14_en_fr",
    "wmt19.en-de": "wmt19_en_de",
    "iwslt14.de-en": "iwslt14_de_en",
}
READY = {name: f"{name}.preprocessed.tgz" for name in FOLDER.values()} | {
    "iwslt14_de_en": "iwslt14_de_en.preproessed.tgz"  # spelt so
}
NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


class Checkout:
    """A copy of the scripts with the archives of one task in a folder outside."""

    def __init__(self, folder: Path, task: str) -> None:
        self.task, self.root, self.raw = task, folder / "repo", folder / "raw data"
        self.raw.mkdir()
        for name in ("scripts", "hat", f"configs/{task}"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.root / name, ignore=ignored)
        self.env = os.environ | NO_NETWORK
        self.env |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "RAW_DIR": "raw data"}
        self.env["BPE_MERGES"] = "40"
        self.text = self.root / "data/text" / FOLDER[task]
        self.binary = self.root / "data/binary" / FOLDER[task]

    def command(self, script: str, *argv: object) -> list[str]:
        return ["bash", str(self.root / "configs" / self.task / script), *map(str, argv)]

    def run(self, *argv: object, script: str = "preprocess.sh", **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(script, *argv),
            cwd=self.raw.parent,
            env=self.env | env,
            capture_output=True,
            text=True,
        )

    def ok(self, *argv: object, **kwargs: str) -> str:
        result = self.run(*argv, **kwargs)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def lines(self, name: str) -> list[str]:
        return (self.text / name).read_text("utf-8").splitlines()

    def sizes(self) -> list[int]:
        return [len(PairDataset.load(self.binary, split)) for split in ("train", "valid", "test")]


def made(tmp_path: Path, task: str, **kwargs: int) -> Checkout:
    checkout = Checkout(tmp_path, task)
    MAKE[task](checkout.raw, **kwargs)
    return checkout


def joined(lines: list[str]) -> list[str]:
    return [line.replace("@@ ", "") for line in lines]


def test_wmt14_en_de(tmp_path: Path) -> None:
    checkout = made(tmp_path, "wmt14.en-de")
    shutil.move(checkout.raw / "wmt16_en_de.tar.gz", tmp_path / "mine.tar.gz")
    missing = checkout.run("none.tar.gz")
    assert (
        missing.returncode == 2 and "drive.google.com" in missing.stderr and "none.tar.gz" in missing.stderr
    )
    checkout.ok("mine.tar.gz", 1, RAW_DIR="")
    assert checkout.sizes() == [40, 5, 6]
    dictionary = (checkout.binary / "dict.en.txt").read_bytes()
    assert dictionary == (checkout.binary / "dict.de.txt").read_bytes()
    words = {word for lang in ("en", "de") for line in sentences(lang, 0, 40) for word in line.split()}
    vocab = Vocab.load(checkout.binary / "dict.en.txt")
    assert len(vocab) % 8 == 0 and all(word in vocab for word in words)
    assert not (checkout.text / "raw" / "vocab.bpe.32000").exists()
    assert checkout.ok("mine.tar.gz", RAW_DIR="") == "data/binary/wmt16_en_de is up to date\n"
    (tmp_path / "mine.tar.gz").unlink()
    assert checkout.ok("mine.tar.gz", RAW_DIR="") == "data/binary/wmt16_en_de is up to date\n"


def test_iwslt14_de_en(tmp_path: Path) -> None:
    checkout = made(tmp_path, "iwslt14.de-en")
    checkout.ok(1)
    # 90 sentences behind two tagged ones; the fifth sentence is beyond the ratio
    run = {lang: line_function(lang, "tokenize", "lowercase") for lang in ("de", "en")}
    pairs = []
    for pair in zip(
        *([f"{lang}: A Title", f"{lang}: What it says", *sentences(lang, 0, 90)] for lang in ("de", "en")),
        strict=True,
    ):
        pairs.append(tuple(run[lang](line) for lang, line in zip(("de", "en"), pair, strict=True)))
    del pairs[2 + 4]
    kept = [p for p in pairs if max(n := [len(x.split()) for x in p]) <= 1.5 * min(n)]
    for number, lang in enumerate(("de", "en")):
        assert checkout.lines(f"split/valid.{lang}") == [p[number] for p in kept[22::23]]
        train = [p[number] for i, p in enumerate(kept, 1) if i % 23]
        assert checkout.lines(f"split/train.{lang}") == train == joined(checkout.lines(f"bpe/train.{lang}"))
        expected = [
            run[lang](line.replace("\u2019", "'"))
            for i, name in enumerate(IWSLT_TESTS)
            for line in (f"{name} Test.", *sentences(lang, 50 + i, i + 1))
        ]
        assert checkout.lines(f"split/test.{lang}") == expected
    assert checkout.sizes() == [len(kept) - len(kept) // 23, len(kept) // 23, 20]
    dictionaries = [(checkout.binary / f"dict.{lang}.txt").read_bytes() for lang in ("de", "en")]
    assert dictionaries[0] != dictionaries[1]
    assert len(checkout.lines("code")) == 41
    assert (checkout.binary / "bpe.codes").read_bytes() == (checkout.text / "code").read_bytes()
    assert checkout.ok(3) == "data/binary/iwslt14_de_en is up to date\n"
    assert checkout.ok(script="preprocess.sh", BPE_MERGES="30").count("merges") == 1  # learnt again, no more
    assert len(checkout.lines("code")) == 31


def test_iwslt_says_what_is_wrong(tmp_path: Path) -> None:
    checkout = made(tmp_path, "iwslt14.de-en")
    for argv in (("0",), ("x",), ("1", "2")):
        assert checkout.run(*argv).returncode == 2
    (checkout.raw / "de-en.tgz").unlink()
    missing = checkout.run()
    assert missing.returncode == 2 and "wit3.fbk.eu/archive/2014-01" in missing.stderr
    assert f"put it at {checkout.raw / 'de-en.tgz'}" in missing.stderr
    with tarfile.open(checkout.raw / "de-en.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("de-en/train.tags.de-en.de")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    hostile = checkout.run()
    assert hostile.returncode == 2 and "is a link" in hostile.stderr and not checkout.binary.exists()


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    checkout = made(tmp_path, "iwslt14.de-en")
    process = subprocess.Popen(
        checkout.command("preprocess.sh", 1),
        cwd=tmp_path,
        env=checkout.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (checkout.text / "clean/train.en").exists() and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in (checkout.text / "tok").iterdir()}
    assert before and not checkout.binary.exists()
    out = checkout.ok(1)
    assert "unpacked" not in out and "tok/train" not in out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert checkout.sizes()[2] == 20
    left = [path.name for path in checkout.text.rglob("*") if path.name.endswith((".new", ".unpacking"))]
    assert left == []


def test_wmt19_en_de(tmp_path: Path) -> None:
    checkout = made(tmp_path, "wmt19.en-de")
    checkout.ok(1)
    # six corpora of 60 pairs, four of them with one line that has no second column
    run = line_function("en", "normalize", "printable", "tokenize split")
    train = checkout.lines("split/train.en")
    assert len(train) == 364 and train[:61] == [*map(run, sentences("en", 0, 60)), "a line without tab"]
    assert train[61:122] == [*map(run, sentences("en", 1, 60)), ""]
    assert any(" @-@ " in line for line in train) and any("&quot; quote &quot;" in line for line in train)
    run = line_function("de", "tokenize split")  # no normalisation of test sets
    assert checkout.lines("split/test.de") == [*map(run, sentences("de", 2018, 8))]
    assert any("\u201e" in line for line in checkout.lines("split/test.de"))
    assert joined(checkout.lines("bpe/test.de")) == checkout.lines("split/test.de")
    for source, target in zip(
        checkout.lines("clean/train.en"), checkout.lines("clean/train.de"), strict=True
    ):
        sizes = sorted((len(source.split()), len(target.split())))
        assert sizes[0] > 0 and sizes[1] <= min(250, 1.5 * sizes[0])
    assert checkout.sizes()[1:] == [7, 8]
    given = (checkout.raw / "wmt19ende_dict.txt").read_bytes()
    assert (
        (checkout.binary / "dict.en.txt").read_bytes()
        == given
        == (checkout.binary / "dict.de.txt").read_bytes()
    )
    assert checkout.ok() == "data/binary/wmt19_en_de is up to date\n"


def test_wmt14_en_fr(tmp_path: Path) -> None:
    checkout = made(tmp_path, "wmt14.en-fr")
    out = checkout.ok(1)
    assert "commoncrawl.fr-en: 1 lines have bytes that are not UTF-8" in out
    train, valid = checkout.lines("split/train.en"), checkout.lines("split/valid.en")
    assert (len(train), len(valid)) == (5 * 560 - 2, 2)
    run = line_function("en", "normalize", "printable", "tokenize split")
    # pairs 1333 and 2666: of the third corpus (from 1121) pair 213, of the fifth (from 2241) pair 426
    assert valid == [run(sentences("en", 2, 560)[212]), run(sentences("en", 9, 560)[425])]
    assert len(checkout.lines("clean/train.en")) <= len(train) - 2  # the long pair, the empty side
    assert max(len(line.split()) for line in checkout.lines("clean/train.fr")) <= 250
    assert checkout.sizes()[2] == 6
    given = (checkout.raw / "wmt14enfr_dict.txt").read_bytes()
    assert (checkout.binary / "dict.fr.txt").read_bytes() == given
    assert checkout.ok() == "data/binary/wmt14_en_fr is up to date\n"


@pytest.mark.parametrize("task", FOLDER)
def test_help(task: str, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, task)
    for script in ("preprocess.sh", "get_preprocessed.sh"):
        text = checkout.ok("-h", script=script)
        assert text.startswith("usage: ") and "disk" in text and ("GB" in text or "MB" in text)
        assert "RAW_DIR" in text
        assert checkout.run(1, 2, 3, script=script).returncode == 2
        assert sorted(p.name for p in checkout.root.iterdir()) == ["configs", "hat", "scripts"]
    source = (checkout.root / "configs" / task / "get_preprocessed.sh").read_text()
    assert f"/{READY[FOLDER[task]]}?dl=1" in source


@pytest.mark.parametrize("prefix", ["", pytest.param("wmt16_en_de/", marks=pytest.mark.slow)])
def test_get_preprocessed(prefix: str, tmp_path: Path) -> None:
    checkout = made(tmp_path, "wmt14.en-de")
    checkout.ok()
    ready = checkout.raw / READY["wmt16_en_de"]
    with tarfile.open(ready, "w:gz") as archive:
        for path in checkout.binary.iterdir():
            archive.add(path, prefix + path.name)
    content = {path.name: path.read_bytes() for path in checkout.binary.iterdir()}
    shutil.rmtree(checkout.binary)
    out = checkout.ok(script="get_preprocessed.sh")
    assert "40 train, 5 valid, 6 test pairs" in out
    assert {path.name: path.read_bytes() for path in checkout.binary.iterdir()} == content
    assert checkout.ok(script="get_preprocessed.sh") == "data/binary/wmt16_en_de is up to date\n"
    with tarfile.open(ready, "w:gz") as archive:  # a dictionary that is too short for the ids
        (checkout.raw / "short").write_text("word 1\n")
        for name in content:
            archive.add(
                checkout.raw / "short" if name == "dict.de.txt" else checkout.binary / name, prefix + name
            )
    (checkout.raw / f"{ready.name}.sha256").unlink()
    wrong = checkout.run(script="get_preprocessed.sh")
    assert wrong.returncode == 2 and "does not hold data for training" in wrong.stderr
    assert {path.name: path.read_bytes() for path in checkout.binary.iterdir()} == content
