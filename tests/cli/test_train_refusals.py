"""What train.py refuses: checkpoints, dictionaries and options that do not fit, pairs that are too long."""

from pathlib import Path

import pytest
import yaml
from training import argv_of, binarise, refused, sub_argv

from hat.cli.train import main


def test_checkpoints_that_do_not_fit(
    files: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv_of(files, "super", "--max-update=1")) == 0
    assert main(sub_argv(files, "sub", "--max-update=1")) == 0
    restore = f"--restore-file={files}/super/checkpoint_last.pt"
    message = refused(argv_of(files, "a", "--restore-file=/no/such.pt"), capsys)
    assert message.startswith("CheckpointError: ") and "/no/such.pt does not exist" in message
    message = refused(argv_of(files, "a", restore, "--encoder-ffn-embed-dim=48"), capsys)
    assert "belongs to another search space: encoder" in message and "48" in message
    message = refused(argv_of(files, "a", restore, "--no-share-all-embeddings"), capsys)
    assert "share-all-embeddings True there, False here" in message
    other = binarise(tmp_path_factory.mktemp("other"), 2, 150)
    message = refused(argv_of(files, "a", restore, f"--data={other}"), capsys)
    assert message.startswith("CheckpointError: ") and "--data" in message
    message = refused(argv_of(files, "a", f"--restore-file={files}/sub/checkpoint_last.pt"), capsys)
    assert "holds a SubTransformer" in message
    changed = sub_argv(files, "a", "--decoder-ffn-embed-dim-all-subtransformer", "32")
    message = refused([*changed, f"--restore-file={files}/sub/checkpoint_last.pt"], capsys)
    assert "another SubTransformer than the one asked for" in message
    (files / "cut.pt").write_bytes((files / "super" / "checkpoint_last.pt").read_bytes()[:1000])
    message = refused(argv_of(files, "a", f"--restore-file={files}/cut.pt"), capsys)
    assert message.startswith("CheckpointError: ")
    assert not (files / "a").exists() or not list((files / "a").glob("*.pt"))


def test_a_supertransformer_serves_every_part_of_its_space(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv_of(files, "super", "--max-update=1")) == 0
    restore = f"--restore-file={files}/super/checkpoint_last.pt"
    narrow = ["--decoder-layer-num-choice=1", "--encoder-ffn-embed-dim-choice", "16", "32"]
    assert main(argv_of(files, "narrow", restore, "--max-update=1", *narrow)) == 0
    capsys.readouterr()
    wide = ["--encoder-embed-choice", "16", "12", "8"]
    message = refused(argv_of(files, "wide", restore, *wide), capsys)
    assert "was not trained for [12] of encoder-embed-choice, only for [16, 8]" in message
    other = sub_argv(files, "sub", restore, *wide, "--encoder-embed-dim-subtransformer=12")
    message = refused(other, capsys)
    assert "was not trained for this architecture: encoder embed dim: 12" in message
    space = yaml.safe_load((files / "space.yml").read_text())
    sizes = {key: value for key, value in space.items() if not key.endswith("-choice")}
    assert len(sizes) == len(space) - 10
    (files / "space.yml").write_text(yaml.safe_dump(sizes))
    assert main(sub_argv(files, "sub", restore, "--max-update=1")) == 0


def test_dictionaries_of_the_same_size_but_other_words(
    files: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv_of(files, "super", "--max-update=1")) == 0
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
    message = refused(argv_of(files, "super", f"--data={twin}"), capsys)
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


def test_long_validation_pairs_are_an_error(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(argv_of(files, "run", "--max-tokens-valid=6"), capsys)
    assert message.startswith("DataError: ") and "pairs are too long to score, first pair" in message
    message = refused(argv_of(files, "run", "--max-source-positions=5"), capsys)
    assert "pairs are too long to score" in message
