"""preprocess.sh and get_preprocessed.sh of the tasks, on tiny texts with real paths. The commands of the
scripts are done by this process: each start of Python takes longer than they do.
"""

import gzip
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from release_archives import IWSLT_TESTS, MAKE, sentences
from served_python import in_process, run_script

from hat.cli.main import main
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


class Checkout:
    """A copy of the scripts with the archives of one task in a folder outside."""

    def __init__(self, folder: Path, task: str) -> None:
        self.task, self.root, self.raw = task, folder / "repo", folder / "raw data"
        self.raw.mkdir()
        for name in ("scripts", f"configs/{task}"):
            shutil.copytree(ROOT / name, self.root / name)
        self.name = FOLDER.get(task, task.replace(".", "_").replace("-", "_"))
        self.text, self.binary = (self.root / "data" / kind / self.name for kind in ("text", "binary"))
        self.done: list[str] = []  # the commands of the last run

    def run(
        self, *argv: object, script: str = "preprocess.sh", kill_at: str = "", **env: str
    ) -> subprocess.CompletedProcess:
        """Run a script; `kill_at` names the command at whose end it is killed."""
        command = ["bash", str(self.root / "configs" / self.task / script), *map(str, argv)]
        self.done = []

        def serve(words: Sequence[str]) -> tuple[int | None, str, str]:
            self.done.append(" ".join(words))
            os.chdir(self.root)
            if "--url" in words:  # there is no network
                there = Path(words[words.index("--to") + 1]).exists()
                if not there or "--unpack" not in words:
                    return (0 if there else 2), " ".join(words), ""
                words = [words[0], *words[3:]]
            code, out, err = in_process(main, words)
            return (None if kill_at and self.done[-1].startswith(kill_at) else code), out, err

        settings = {"RAW_DIR": "raw data", "BPE_MERGES": "40"} | env
        folder = self.raw.parent
        done = run_script(command, folder / "bin", serve, folder, **settings)
        return subprocess.CompletedProcess(command, *done)

    def ok(self, *argv: object, **kwargs: str) -> str:
        result = self.run(*argv, **kwargs)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def is_up_to_date(self, *argv: object, **kwargs: str) -> bool:
        said = self.ok(*argv, **kwargs)
        return not self.done and said == f"data/binary/{self.name} is up to date\n"

    def lines(self, name: str) -> list[str]:
        return (self.text / name).read_text("utf-8").splitlines()

    def sizes(self) -> list[int]:
        return [len(PairDataset.load(self.binary, split)) for split in ("train", "valid", "test")]


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], Checkout]:
    def make(task: str) -> Checkout:
        checkout = Checkout(tmp_path, task)
        MAKE[task](checkout.raw)
        return checkout

    return make


def joined(lines: list[str]) -> list[str]:
    return [line.replace("@@ ", "") for line in lines]


def test_wmt14_en_de(made: Callable[[str], Checkout], tmp_path: Path) -> None:
    checkout = made("wmt14.en-de")
    shutil.move(checkout.raw / "wmt16_en_de.tar.gz", tmp_path / "mine.tar.gz")
    missing = checkout.run("none.tar.gz")
    assert missing.returncode == 2
    assert "drive.google.com" in missing.stdout and "none.tar.gz" in missing.stdout
    checkout.ok("mine.tar.gz", 1, RAW_DIR="")
    assert checkout.sizes() == [40, 5, 6]
    dictionary = (checkout.binary / "dict.en.txt").read_bytes()
    assert dictionary == (checkout.binary / "dict.de.txt").read_bytes()
    words = {word for lang in ("en", "de") for line in sentences(lang, 0, 40) for word in line.split()}
    vocab = Vocab.load(checkout.binary / "dict.en.txt")
    assert len(vocab) % 8 == 0 and all(word in vocab for word in words)
    assert not (checkout.text / "raw" / "vocab.bpe.32000").exists()
    assert checkout.is_up_to_date("mine.tar.gz", RAW_DIR="")
    (tmp_path / "mine.tar.gz").unlink()
    assert checkout.is_up_to_date("mine.tar.gz", RAW_DIR="")


def test_get_preprocessed(made: Callable[[str], Checkout]) -> None:
    checkout = made("wmt14.en-de")
    checkout.ok()
    ready = checkout.raw / READY["wmt16_en_de"]
    with tarfile.open(ready, "w:gz") as archive:
        for path in checkout.binary.iterdir():
            archive.add(path, f"wmt16_en_de/{path.name}")
    content = {path.name: path.read_bytes() for path in checkout.binary.iterdir()}
    shutil.rmtree(checkout.binary)
    for task, name in FOLDER.items():
        assert f"/{READY[name]}?dl=1" in (ROOT / "configs" / task / "get_preprocessed.sh").read_text()
    assert checkout.run(1, 2, 3, script="get_preprocessed.sh").returncode == 2
    assert "40 train, 5 valid, 6 test pairs" in checkout.ok(script="get_preprocessed.sh")
    assert {path.name: path.read_bytes() for path in checkout.binary.iterdir()} == content
    assert checkout.is_up_to_date(script="get_preprocessed.sh")
    (checkout.raw / "short").write_text("word 1\n")
    with tarfile.open(ready, "w:gz") as archive:  # a dictionary that is too short for the ids
        for name in content:
            archive.add(checkout.raw / "short" if name == "dict.de.txt" else checkout.binary / name, name)
    wrong = checkout.run(script="get_preprocessed.sh")
    assert wrong.returncode == 2 and "does not hold data for training" in wrong.stderr
    assert {path.name: path.read_bytes() for path in checkout.binary.iterdir()} == content


def test_iwslt14_de_en(made: Callable[[str], Checkout]) -> None:
    checkout = made("iwslt14.de-en")
    assert checkout.run(1, kill_at="clean").returncode == -9 and not checkout.binary.exists()
    checkout.ok(1)  # goes on: no text is unpacked or tokenised again
    assert [command.split()[0] for command in checkout.done] == [
        *("clean", "prepare", "split-pairs", "prepare", "learn-bpe", "apply-bpe", "preprocess")
    ]
    # 90 sentences behind two tagged ones; the fifth sentence is beyond the ratio
    run = {lang: line_function(lang, "tokenize", "lowercase") for lang in ("de", "en")}
    texts = [[f"{lang}: A Title", f"{lang}: What it says", *sentences(lang, 0, 90)] for lang in run]
    pairs = [(run["de"](de), run["en"](en)) for de, en in zip(*texts, strict=True)]
    del pairs[2 + 4]
    kept = [p for p in pairs if max(n := [len(x.split()) for x in p]) <= 1.5 * min(n)]
    for number, lang in enumerate(("de", "en")):
        assert checkout.lines(f"split/valid.{lang}") == [p[number] for p in kept[22::23]]
        train = [p[number] for i, p in enumerate(kept, 1) if i % 23]
        assert checkout.lines(f"split/train.{lang}") == train == joined(checkout.lines(f"bpe/train.{lang}"))
        assert checkout.lines(f"split/test.{lang}") == [
            run[lang](line.replace("\u2019", "'"))
            for i, name in enumerate(IWSLT_TESTS)
            for line in (f"{name} Test.", *sentences(lang, 50 + i, i + 1))
        ]
    assert checkout.sizes() == [len(kept) - len(kept) // 23, len(kept) // 23, 20]
    dictionaries = [(checkout.binary / f"dict.{lang}.txt").read_bytes() for lang in ("de", "en")]
    assert dictionaries[0] != dictionaries[1]
    assert len(checkout.lines("code")) == 41
    assert (checkout.binary / "bpe.codes").read_bytes() == (checkout.text / "code").read_bytes()
    assert checkout.is_up_to_date(3)
    checkout.ok(BPE_MERGES="30")  # learnt again, no more
    assert [command.split()[0] for command in checkout.done] == ["learn-bpe", "apply-bpe", "preprocess"]
    assert len(checkout.lines("code")) == 31


def test_wmt19_en_de(made: Callable[[str], Checkout]) -> None:
    checkout = made("wmt19.en-de")
    checkout.ok(1)
    # six corpora of 60 pairs, four of them with one line that has no second column
    run = line_function("en", "normalize", "printable", "tokenize", hyphens="split")
    train = checkout.lines("split/train.en")
    assert len(train) == 364 and train[:61] == [*map(run, sentences("en", 0, 60)), "a line without tab"]
    assert train[61:122] == [*map(run, sentences("en", 1, 60)), ""]
    assert any(" @-@ " in line for line in train) and any("&quot; quote &quot;" in line for line in train)
    run = line_function("de", "tokenize", hyphens="split")  # no normalisation of test sets
    assert checkout.lines("split/test.de") == [*map(run, sentences("de", 2018, 8))]
    assert any("\u201e" in line for line in checkout.lines("split/test.de"))
    assert joined(checkout.lines("bpe/test.de")) == checkout.lines("split/test.de")
    for pair in zip(checkout.lines("clean/train.en"), checkout.lines("clean/train.de"), strict=True):
        sizes = sorted(len(line.split()) for line in pair)
        assert sizes[0] > 0 and sizes[1] <= min(250, 1.5 * sizes[0])
    assert checkout.sizes()[1:] == [7, 8]
    given = (checkout.raw / "wmt19ende_dict.txt").read_bytes()
    assert {(checkout.binary / f"dict.{lang}.txt").read_bytes() for lang in ("en", "de")} == {given}
    assert checkout.is_up_to_date()


def test_wmt14_en_fr(made: Callable[[str], Checkout]) -> None:
    checkout = made("wmt14.en-fr")
    assert "commoncrawl.fr-en: 1 lines have bytes that are not UTF-8" in checkout.ok(1)
    train, valid = checkout.lines("split/train.en"), checkout.lines("split/valid.en")
    assert (len(train), len(valid)) == (5 * 560 - 2, 2)
    run = line_function("en", "normalize", "printable", "tokenize", hyphens="split")
    # pairs 1333 and 2666: of the third corpus (from 1121) pair 213, of the fifth (from 2241) pair 426
    assert valid == [run(sentences("en", 2, 560)[212]), run(sentences("en", 9, 560)[425])]
    assert len(checkout.lines("clean/train.en")) <= len(train) - 2  # the long pair, the empty side
    assert max(len(line.split()) for line in checkout.lines("clean/train.fr")) <= 250
    assert checkout.sizes()[2] == 6
    given = (checkout.raw / "wmt14enfr_dict.txt").read_bytes()
    assert (checkout.binary / "dict.fr.txt").read_bytes() == given
    assert checkout.is_up_to_date()


def test_multi30k_from_a_folder_plain_or_compressed(tmp_path: Path) -> None:
    checkout, raw = Checkout(tmp_path, "multi30k.en-de"), tmp_path / "raw"
    raw.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz"
    en = [" ".join(letters[(i * k) % 26 :][:5] for k in (1, 3, 7)) for i in range(80)]
    for split in ("train", "val", "test_2016_flickr"):
        for lang in ("en", "de"):
            lines = [line[::-1] if lang == "de" else line for line in en]
            if (split, lang) == ("train", "en"):
                lines[3] = ""
            with gzip.open(raw / f"{split}.{lang}.gz", "wt") as file:
                file.write("".join(line + "\n" for line in lines))
    (raw / "val.en").write_text("".join(line + "\n" for line in en))
    assert "79 pairs kept, 1 with an empty side dropped" in checkout.ok(raw)
    assert (checkout.binary / "valid.en-de.en.txt").read_bytes() == (raw / "val.en").read_bytes()
    assert checkout.is_up_to_date(raw)
    (raw / "val.en").unlink()
    (raw / "val.en.gz").unlink()
    missing = checkout.run(raw)
    assert missing.returncode == 2 and "val.en" in missing.stderr


def test_toy_from_nothing(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, "toy.en-de")
    assert "12000 train, 200 valid, 400 test" in checkout.ok()
    assert checkout.is_up_to_date()
