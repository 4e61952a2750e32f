"""A released predictor is not lost where one's own is written, nor one's own where it is downloaded."""

from pathlib import Path

import pytest
import torch
from toy_predictor import save_predictor

from hat.cli import files
from hat.cli.set_aside import released_at, set_aside
from hat.errors import ConfigError
from hat.files.atomic import digest_matches, write_with_digest
from hat.files.released import beside_own, released_models
from hat.latency.network import LatencyNet
from hat.latency.predictor import LatencyPredictor


@pytest.fixture
def released(tmp_path: Path) -> Path:
    path = tmp_path / "predictors" / "wmt14ende_cpu_xeon.pt"
    path.parent.mkdir()
    torch.save(LatencyNet(10, 4, 1).state_dict(), path)
    write_with_digest(path, path.read_bytes())
    return path


def own_at(path: Path) -> bytes:
    save_predictor(path)
    path.with_suffix(".config.yml").touch()
    return path.read_bytes()


def test_it_moves_with_its_digest_and_stays_usable(released: Path) -> None:
    content = released.read_bytes()
    aside = released_at(released)
    assert aside == released.with_name("wmt14ende_cpu_xeon.released.pt")
    set_aside(released, aside)
    assert sorted(path.name for path in released.parent.iterdir()) == [aside.name, f"{aside.name}.sha256"]
    assert aside.read_bytes() == content and digest_matches(aside, content)
    LatencyPredictor.load(aside, (1,) * 10, 1.0)


def test_what_is_not_released_is_written_over(released: Path, tmp_path: Path) -> None:
    assert released_at(tmp_path / "none.pt") is None
    own_at(tmp_path / "own.pt")
    assert released_at(tmp_path / "own.pt") is None
    released.write_bytes(b"damaged")
    assert released_at(released) is None


def test_nothing_else_is_lost(released: Path) -> None:
    beside_own(released).write_bytes(b"another file")
    with pytest.raises(ConfigError, match="holds another file; move one of them away"):
        released_at(released)
    beside_own(released).write_bytes(released.read_bytes())
    assert released_at(released) == beside_own(released)


def test_a_download_spares_what_was_trained_here(released: Path, tmp_path: Path, capsys) -> None:
    models = released_models()
    places = {file.path for file in files._latency_data(models, tmp_path)}
    assert released in places and beside_own(released) not in places
    own_at(released)
    places = {file.path for file in files._latency_data(models, tmp_path)}
    assert released not in places and beside_own(released) in places and len(places) == 16
    assert f"{released} was trained here and stays" in capsys.readouterr().err
