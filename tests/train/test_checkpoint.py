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
from hat.train.checkpoint import average, load, load_newest, numbered, pack, rotate, save, to_bytes

SPACE = SearchSpace(
    EncoderSpace(8, 16, 2, (8, 6), (16, 8), (2, 1), (2,)),
    DecoderSpace(6, 16, 2, (6, 4), (16, 8), (2, 1), (2,), (2,), (1, 2)),
    8,
)
SOURCE, TARGET = torch.tensor([[5, 6, EOS]]), torch.tensor([[EOS, 7]])
STATE = {"trainer": {"num_updates": 3, "betas": (0.9, 0.98)}, "progress": {"best": None, "loss": 1.5}}


def super_model(seed: int = 1) -> SuperTransformer:
    return SuperTransformer(SPACE, (9, 11), ModelConfig(dropout=0.2), torch.Generator().manual_seed(seed))


def saved(path: Path, model: Transformer | None = None, state: dict | None = None) -> Path:
    save(pack(model or super_model(), ("s" * 64, "t" * 64), STATE if state is None else state), path)
    return path


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


def test_what_is_refused_or_said(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.pt", tmp_path / "b.pt"
    save(pack(extract(super_model(), SPACE.smallest())), path, copy)
    assert path.read_bytes() == copy.read_bytes()
    for arch, message in (
        (SPACE.largest(), "another SubTransformer than the one asked"),
        (None, "a SubTrans"),
    ):
        with pytest.raises(CheckpointError, match=f"holds {message}"):
            load(copy).sub(arch)
    digest_path(path).unlink()
    said: list[str] = []
    load(path, said.append)
    assert len(said) == 1 and "no a.pt.sha256 beside it" in said[0]
    for wrong in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match="cannot read checkpoint"):
            load(wrong)


def rewritten(tmp_path: Path, **changes: object) -> Path:
    """Return a checkpoint whose plain content was changed, without digest."""
    values = torch.load(io.BytesIO(to_bytes(pack(super_model(), state=STATE))), weights_only=True) | changes
    torch.save({k: v for k, v in values.items() if v is not ...}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


@pytest.mark.parametrize(
    "changes",
    [
        *({"hat_format": value} for value in (0, 3, "1", None, ...)),
        *({name: ...} for name in ("space", "weights", "state")),
        *({"arch": value} for value in ({}, {"encoder-layer-num-subtransformer": "x"})),
        *({"model_config": value} for value in ({"colour": 1}, {"dropout": 2})),
        *({"vocab_sizes": value} for value in (3, [9, 12], [9, -11])),
        {"vocab_digests": None},
        {"weights": {name: "x" for name, _ in super_model().named_parameters()}},
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_content_that_describes_no_model(changes: dict, tmp_path: Path) -> None:
    message = "this version reads, nor" if "hat_format" in changes else "a.pt does not describe a model"
    with pytest.raises(CheckpointError, match=message):
        load(rewritten(tmp_path, **changes))


def test_weights_of_another_space_or_arch(tmp_path: Path) -> None:
    packed = pack(super_model())
    wider = replace(SPACE, encoder=replace(SPACE.encoder, super_ffn_dim=20))
    sub = pack(extract(super_model(), SPACE.smallest()))
    weights = dict(packed.weights)
    del weights["decoder_layers.1.self_norm.bias"]
    for wrong, name in (
        (replace(packed, space=wider), "encoder_layers.0.ffn.down.weight has shape .8, 16., .*needs .8, 20"),
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
    path, used = average(paths, tmp_path / "mean.pt")
    assert (path, used) == (tmp_path / "mean.pt", paths)
    mean = load(path)
    for name, weight in mean.weights.items():
        stacked = torch.stack([dict(model.named_parameters())[name].detach() for model in models])
        torch.testing.assert_close(weight, stacked.double().mean(0).float(), rtol=0, atol=1e-7)
    assert mean.state == {} and mean.vocab_digests == ("s" * 64, "t" * 64)
    saved(paths[1], extract(super_model(), SPACE.smallest()))
    with pytest.raises(CheckpointError, match="checkpoint2.pt and .*checkpoint1.pt hold different models"):
        average(paths, path)


def test_rotate_keeps_the_newest(tmp_path: Path) -> None:
    names = [
        *(f"checkpoint{epoch}.pt" for epoch in (11, 10)),
        *(f"checkpoint_{epoch}_{update}.pt" for epoch, update in ((10, 1000), (10, 900))),
        *("checkpoint9.pt", "checkpoint2.pt", "checkpoint_2_100.pt", "checkpoint1.pt", "checkpoint_1_50.pt"),
    ]
    others = ["checkpoint_best.pt", "checkpoint_last.pt", "average_model_3.pt", "checkpoint7.pt.bak"]
    for name in names + others:
        (tmp_path / name).write_bytes(b"x")
        digest_path(tmp_path / name).write_text("y")

    def left() -> list[str]:
        assert all(digest_path(path).exists() for path in numbered(tmp_path))
        assert all((tmp_path / name).exists() for name in others)
        return [path.name for path in numbered(tmp_path)]

    saved = names[::-1]
    rotate(tmp_path, saved, -1, -1)
    assert left() == names
    rotate(tmp_path, saved, 2, 3)
    assert left() == [*names[:4], "checkpoint_2_100.pt"]
    rotate(tmp_path, saved[:-2], 0, 0)
    assert left() == names[:2]
    rotate(tmp_path, saved, 0, 0)
    assert left() == [] and len(list(tmp_path.iterdir())) == 2 * len(others)


def test_load_newest_falls_back_and_says_so(tmp_path: Path) -> None:
    def state(update: int) -> dict:
        return {"trainer": {"num_updates": update}, "progress": {}}

    said: list[str] = []
    assert load_newest(tmp_path, said.append) is None
    for name, update in (("checkpoint1.pt", 1), ("checkpoint_2_15.pt", 2), ("checkpoint_last.pt", 3)):
        saved(tmp_path / name, state=state(update))

    def newest() -> dict:
        said.clear()
        return load_newest(tmp_path, said.append).state

    assert newest() == state(3) and said == []
    (tmp_path / "checkpoint_last.pt").write_bytes(b"cut")
    assert newest() == state(2) and len(said) == 1
    assert "checkpoint_last.pt is damaged" in said[0] and "trying the one before" in said[0]
    (tmp_path / "checkpoint_2_15.pt").write_bytes(b"")
    assert newest() == state(1) and len(said) == 2 and "checkpoint_2_15.pt" in said[1]
    saved(tmp_path / "checkpoint1.pt", state={})
    with pytest.raises(CheckpointError, match=r"checkpoint1.pt holds weights.* would overwrite it; give"):
        newest()
    (tmp_path / "checkpoint1.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="can be read; move all 3 away"):
        load_newest(tmp_path, said.append)
