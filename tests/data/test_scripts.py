"""The preprocessing scripts of the tasks that this project added."""

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest
from served_python import run_script

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bash(tmp_path):
    """Return a function that runs a script, its Python in this process."""

    def bash(*argv):
        code, out, err = run_script(["bash", *map(str, argv)], tmp_path / "bin", cwd=Path("/"))
        return subprocess.CompletedProcess(argv, code, out, err)

    return bash


@pytest.fixture
def copy(tmp_path):
    for name in ("configs", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / "repo" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "repo"


def test_multi30k_from_a_folder_plain_or_compressed(copy, bash, tmp_path):
    raw = tmp_path / "raw"
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
    script = copy / "configs" / "multi30k.en-de" / "preprocess.sh"
    first = bash(script, raw)
    assert first.returncode == 0, first.stderr
    assert "79 pairs kept, 1 with an empty side dropped" in first.stdout
    out = copy / "data" / "binary" / "multi30k_en_de"
    assert (out / "valid.en-de.en.txt").read_bytes() == (raw / "val.en").read_bytes()
    assert "up to date" in bash(script, raw).stdout
    (raw / "val.en").unlink()
    (raw / "val.en.gz").unlink()
    missing = bash(script, raw)
    assert missing.returncode == 2 and "val.en" in missing.stderr


def test_toy_from_nothing(copy, bash):
    script = copy / "configs" / "toy.en-de" / "preprocess.sh"
    first = bash(script)
    assert first.returncode == 0, first.stderr
    assert "12000 train, 200 valid, 400 test" in first.stdout
    again = bash(script).stdout
    assert "up to date" in again and "pairs" not in again
