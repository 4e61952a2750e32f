"""Checkpoints: what they keep, what is refused, and what a crash leaves."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hat.errors import CheckpointError
from hat.files.atomic import digest_path
from hat.model.layers import EOS, ModelConfig
from hat.model.transformer import SuperTransformer, Transformer, extract
from hat.space import DecoderSpace, EncoderSpace, SearchSpace
from hat.train.checkpoint import (
    Checkpoint,
    load,
    load_newest,
    mean_of,
    numbered,
    pack,
    rotate,
    save,
    to_bytes,
)

SPACE = SearchSpace(
    EncoderSpace(8, 16, 2, (8, 6), (16, 8), (2, 1), (2,)),
    DecoderSpace(6, 16, 2, (6, 4), (16, 8), (2, 1), (2,), (2,), (1, 2)),
    8,
)
SOURCE, TARGET = torch.tensor([[5, 6, EOS]]), torch.tensor([[EOS, 7]])
STATE = {"trainer": {"num_updates": 3, "betas": (0.9, 0.98)}, "progress": {"best": None, "loss": 1.5}}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda fd: None)


def super_model(seed: int = 1) -> SuperTransformer:
    return SuperTransformer(SPACE, (9, 11), ModelConfig(dropout=0.2), torch.Generator().manual_seed(seed))


def saved(path: Path, model: Transformer | None = None, state: dict | None = None) -> Path:
    save(pack(model or super_model(), ("s" * 64, "t" * 64), STATE if state is None else state), path)
    return path


def silent_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".sha256"))


@pytest.mark.parametrize("kind", ["super", "sub"])
def test_round_trip(kind: str, tmp_path: Path) -> None:
    model: Transformer = super_model()
    if kind == "sub":
        model = extract(model, SPACE.smallest())
    said: list[str] = []
    found = load(saved(tmp_path / "a.pt", model), said.append)
    assert said == []
    assert (found.space, found.arch) == (SPACE, None if kind == "super" else SPACE.smallest())
    assert (found.model_config, found.vocab_sizes) == (model.cfg, (9, 11))
    assert found.vocab_digests == ("s" * 64, "t" * 64) and found.state == STATE
    assert all(torch.equal(found.weights[name], weight) for name, weight in model.named_parameters())
    again = found.model()
    assert type(again) is type(model) and torch.equal(again(SOURCE, TARGET), model(SOURCE, TARGET))
    assert to_bytes(pack(again, found.vocab_digests, STATE)) == to_bytes(found)
    sub = found.sub(SPACE.smallest())
    torch.testing.assert_close(sub(SOURCE, TARGET), model(SOURCE, TARGET, SPACE.smallest()))


def test_one_content_under_several_names(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.pt", "b.pt")]
    save(pack(super_model()), *paths)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert load(paths[1]).weights.keys() == dict(super_model().named_parameters()).keys()


def test_another_sub_is_refused(tmp_path: Path) -> None:
    found = load(saved(tmp_path / "a.pt", extract(super_model(), SPACE.smallest())))
    with pytest.raises(CheckpointError, match="another SubTransformer than the one asked for"):
        found.sub(SPACE.largest())


def test_missing_digest_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt")
    digest_path(path).unlink()
    said: list[str] = []
    load(path, said.append)
    assert len(said) == 1 and "no a.pt.sha256 beside it" in said[0]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match="cannot read checkpoint"):
            load(path)


def rewritten(tmp_path: Path, **changes: object) -> Path:
    """Return a checkpoint whose plain content was changed, without digest."""
    values = torch.load(io.BytesIO(to_bytes(pack(super_model(), state=STATE))), weights_only=True) | changes
    torch.save({k: v for k, v in values.items() if v is not ...}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


@pytest.mark.parametrize("value", [0, 3, "1", None, ...])
def test_format_number(value: object, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="has format .*, this version reads 1|is not a checkpoint of this system"
    ):
        load(rewritten(tmp_path, hat_format=value))


@pytest.mark.parametrize(
    "changes",
    [
        {"space": ...},
        {"space": {}},
        {"space": []},
        {"arch": {}},
        {"arch": {"encoder-layer-num-subtransformer": "x"}},
        {"model_config": {"colour": 1}},
        {"model_config": {"dropout": 2}},
        {"model_config": {"dropout": "x"}},
        {"vocab_sizes": 3},
        {"vocab_sizes": [9]},
        {"vocab_sizes": [9, 12]},
        {"vocab_sizes": [9, -11]},
        {"vocab_digests": None},
        {"weights": ...},
        {"weights": {}},
        {"weights": [1, 2]},
        {"weights": {"output.weight": 1}},
        {"weights": {name: "x" for name, _ in super_model().named_parameters()}},
        {"state": ...},
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_content_that_describes_no_model(changes: dict, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a.pt"):
        load(rewritten(tmp_path, **changes))


def test_weights_of_another_space_or_arch(tmp_path: Path) -> None:
    packed = pack(super_model())
    wider = replace(SPACE, encoder=replace(SPACE.encoder, super_ffn_dim=20))
    sub = pack(extract(super_model(), SPACE.smallest()))
    weights = dict(packed.weights)
    del weights["decoder_layers.1.self_norm.bias"]
    for wrong, name in (
        (
            replace(packed, space=wider),
            "encoder_layers.0.ffn.down.weight has shape .8, 16., .*needs .8, 20",
        ),
        (replace(sub, arch=SPACE.largest()), "has shape"),
        (replace(packed, arch=SPACE.smallest()), "has shape"),
        (replace(packed, weights=weights), "decoder_layers.1.self_norm.bias has shape None"),
        (replace(packed, weights=packed.weights | {"extra": torch.zeros(1)}), "weight extra has shape"),
    ):
        save(wrong, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=name):
            load(tmp_path / "a.pt")


def test_average_is_the_mean(tmp_path: Path) -> None:
    models = [super_model(seed) for seed in (1, 2, 3)]
    paths = [saved(tmp_path / f"checkpoint{n}.pt", model) for n, model in enumerate(models, 1)]
    mean = mean_of(paths)
    for name, weight in mean.weights.items():
        stacked = torch.stack([dict(model.named_parameters())[name].detach() for model in models])
        torch.testing.assert_close(weight, stacked.double().mean(0).float(), rtol=0, atol=1e-7)
        assert weight.dtype == torch.float32
    assert mean.state == {} and mean.vocab_digests == ("s" * 64, "t" * 64)
    save(mean, tmp_path / "average_model_3.pt")
    load(tmp_path / "average_model_3.pt")
    saved(paths[1], extract(super_model(), SPACE.smallest()))
    with pytest.raises(CheckpointError, match="checkpoint2.pt and .*checkpoint1.pt hold different models"):
        mean_of(paths)


def test_rotate_keeps_the_newest(tmp_path: Path) -> None:
    names = [
        *(f"checkpoint{epoch}.pt" for epoch in (1, 2, 9, 10, 11)),
        *(f"checkpoint_{epoch}_{update}.pt" for epoch, update in ((1, 50), (2, 100), (10, 900), (10, 1000))),
    ]
    others = ["checkpoint_best.pt", "checkpoint_last.pt", "average_model_3.pt", "checkpoint7.pt.bak"]
    for name in names + others:
        (tmp_path / name).write_bytes(b"x")
        digest_path(tmp_path / name).write_text("y")
    newest = [path.name for path in numbered(tmp_path)]
    assert newest[:4] == [
        "checkpoint11.pt",
        "checkpoint10.pt",
        "checkpoint_10_1000.pt",
        "checkpoint_10_900.pt",
    ]
    assert newest[-2:] == ["checkpoint1.pt", "checkpoint_1_50.pt"]
    rotate(tmp_path, -1, -1)
    assert len(numbered(tmp_path)) == len(names)
    rotate(tmp_path, 2, 3)
    left = {"checkpoint11.pt", "checkpoint10.pt", *names[-3:]}
    assert {path.name for path in numbered(tmp_path)} == left
    assert set(silent_files(tmp_path)) == left | set(others)
    assert len(list(tmp_path.glob("*.sha256"))) == len(left) + len(others)
    rotate(tmp_path, 0, 0)
    assert silent_files(tmp_path) == sorted(others)


def test_load_newest_falls_back_and_says_so(tmp_path: Path) -> None:
    def state(update: int) -> dict:
        return {"trainer": {"num_updates": update}, "progress": {}}

    said: list[str] = []
    assert load_newest(tmp_path, said.append) is None
    for name, update in (("checkpoint1.pt", 1), ("checkpoint_2_15.pt", 2), ("checkpoint_last.pt", 3)):
        saved(tmp_path / name, state=state(update))

    def newest() -> Checkpoint:
        found = load_newest(tmp_path, said.append)
        assert found is not None
        return found

    assert newest().state == state(3) and said == []
    (tmp_path / "checkpoint_last.pt").write_bytes(b"cut")
    assert newest().state == state(2)
    assert (
        len(said) == 1 and "checkpoint_last.pt is damaged" in said[0] and "trying the one before" in said[0]
    )
    (tmp_path / "checkpoint_2_15.pt").write_bytes(b"")
    said.clear()
    assert newest().state == state(1)
    assert len(said) == 2 and "checkpoint_2_15.pt" in said[1]
    saved(tmp_path / "checkpoint1.pt", state={})
    with pytest.raises(CheckpointError, match=r"checkpoint1.pt holds weights.* would overwrite it; move it"):
        newest()
    (tmp_path / "checkpoint1.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 3 checkpoints .* can be read"):
        load_newest(tmp_path, said.append)
