"""What train.py refuses: checkpoints, dictionaries and options that do not fit, pairs that are too long."""

from pathlib import Path

import pytest
import yaml
from training import argv_of, binarise, refused, sub_argv

from hat.cli.train import main


@pytest.fixture
def trained(files: Path) -> str:
    """Train a SuperTransformer and return the option that starts from it."""
    assert main(argv_of(files, "super", "--max-update=1")) == 0
    return f"--restore-file={files}/super/checkpoint_last.pt"


def test_checkpoints_that_do_not_fit(
    files: Path, trained: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(sub_argv(files, "sub", "--max-update=1")) == 0
    sub = f"--restore-file={files}/sub/checkpoint_last.pt"
    (files / "cut.pt").write_bytes((files / "super" / "checkpoint_last.pt").read_bytes()[:1000])
    other = binarise(tmp_path_factory.mktemp("other"), 2, 150)
    another = sub_argv(files, "a", sub, "--decoder-ffn-embed-dim-all-subtransformer", "32")
    for argv, message in (
        (argv_of(files, "a", "--restore-file=/no/such.pt"), "/no/such.pt does not exist"),
        (argv_of(files, "a", trained, "--encoder-ffn-embed-dim=48"), "another search space: encoder-ffn"),
        (argv_of(files, "a", trained, "--no-share-all-embeddings"), "share-all-embeddings True there, False"),
        (argv_of(files, "a", trained, f"--data={other}"), "--data"),
        (another, "another SubTransformer than the one asked for"),
        (argv_of(files, "a", f"--restore-file={files}/cut.pt"), "cut.pt"),
    ):
        found = refused(argv, capsys)
        assert found.startswith("CheckpointError: ") and message in found
    assert not list((files / "a").glob("*.pt"))
    assert main(argv_of(files, "grown", sub, "--max-update=1")) == 0, (
        "a SuperTransformer grows from any of its own"
    )
    assert "weights inherited from" in capsys.readouterr().err


def test_a_supertransformer_serves_every_part_of_its_space(
    files: Path, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = ["--decoder-layer-num-choice=1", "--encoder-ffn-embed-dim-choice", "16", "32"]
    assert main(argv_of(files, "narrow", trained, "--max-update=1", *narrow)) == 0
    capsys.readouterr()
    wide = ["--encoder-embed-choice", "16", "12", "8"]
    message = refused(argv_of(files, "wide", trained, *wide), capsys)
    assert "was not trained for [12] of encoder-embed-choice, only for [16, 8]" in message
    other = sub_argv(files, "sub", trained, *wide, "--encoder-embed-dim-subtransformer=12")
    message = refused(other, capsys)
    assert "was not trained for this architecture: encoder embed dim: 12" in message
    space = yaml.safe_load((files / "space.yml").read_text())
    sizes = {key: value for key, value in space.items() if not key.endswith("-choice")}
    assert len(sizes) == len(space) - 10
    (files / "space.yml").write_text(yaml.safe_dump(sizes))
    assert main(sub_argv(files, "sub", trained, "--max-update=1")) == 0


def test_dictionaries_of_the_same_size_but_other_words(
    files: Path, data: Path, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = files / "twin"
    twin.mkdir()
    for path in data.iterdir():
        (twin / path.name).write_bytes(path.read_bytes())
    (twin / "SHA256SUMS").unlink()
    for lang in ("en", "de"):
        lines = (twin / f"dict.{lang}.txt").read_text(encoding="utf-8").splitlines()
        (twin / f"dict.{lang}.txt").write_text(
            "\n".join([lines[1], lines[0], *lines[2:]]) + "\n", encoding="utf-8"
        )
    message = refused(argv_of(files, "a", trained, f"--data={twin}"), capsys)
    assert message.startswith("CheckpointError: ") and "dictionaries" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data=/no/such/folder"], "DataError: there is no data folder '/no/such/folder'"),
        (["--train-subtransformer"], "ConfigError: --train-subtransformer needs an architecture"),
        (["--qkv-dim=9"], "ArchError: encoder-self-attention-heads-choice: 2 heads do not divide qkv-dim 9"),
        (["--max-updates=3"], "did you mean --max-update?"),
        (["--dropout=1"], "ConfigError: --dropout must be at least 0 and below 1"),
        (["--save-interval=0"], "ConfigError: --save-interval must be at least 1"),
        (["--valid-subset=test"], "DataError: there is no"),
        (["--max-tokens=2"], "DataError: "),
    ],
)
def test_refusals_are_one_line(
    flags: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(argv_of(files, "a", *flags), capsys)
