"""The plain peer computes what ours computes, and the figure holds what it says."""

import torch
import torch.nn.functional as F

from hat.bench.corpus import random_batch
from hat.bench.figure import Figure
from hat.bench.plain import PlainSuper, PlainTrainer
from hat.bench.spaces import MULTI30K
from hat.bench.train_step import TrainStepConfig, time_steps
from hat.cli.settings import parse_settings
from hat.model.layers import EOS, ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import draw_arch, space_of
from hat.train.trainer import batch_loss


def test_plain_step_has_our_loss_and_our_gradients(tiny_space) -> None:
    model = SuperTransformer(tiny_space, 13, ModelConfig(dropout=0.0, share_all_embeddings=True))
    plain = PlainSuper(model)
    batch = random_batch(4, 6, 13, seed=3)
    for update in range(8):
        arch = draw_arch(tiny_space, 1, update)
        model.zero_grad()
        plain.zero_grad()
        ours, _ = batch_loss(model, batch, arch, 0.1)
        theirs = F.cross_entropy(
            plain(batch, arch).flatten(0, 1), batch.target.flatten(), label_smoothing=0.1, reduction="sum"
        )
        torch.testing.assert_close(theirs, ours)
        ours.backward()
        theirs.backward()
        other = dict(plain.named_parameters())
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                torch.testing.assert_close(other[name].grad, weight.grad, rtol=1e-4, atol=1e-5)


def test_plain_trainer_lowers_the_loss(tiny_space) -> None:
    model = SuperTransformer(tiny_space, 13, ModelConfig(dropout=0.0, share_all_embeddings=True))
    trainer = PlainTrainer(PlainSuper(model), 0.1)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1e-2
    batch = random_batch(4, 6, 13, seed=3)
    losses = [trainer.train_step(batch, tiny_space.largest()) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def test_random_batch_is_unpadded_and_shifted() -> None:
    batch = random_batch(3, 5, 13, seed=1)
    assert (batch.source[:, -1] == EOS).all() and (batch.source[:, :-1] > EOS + 1).all()
    assert (batch.decoder_input[:, 0] == EOS).all()
    assert torch.equal(batch.decoder_input[:, 1:], batch.target[:, :-1])
    assert batch.num_tokens == 15


def test_space_is_that_of_multi30k() -> None:
    (settings,) = parse_settings(
        ["--configs", "configs/multi30k.en-de/supertransformer/space0.yml"],
        prog="test",
        description="",
        config_flags=("--configs",),
    )
    assert space_of(settings.space) == MULTI30K


def test_figure_has_every_number_and_survives_json(tiny_space) -> None:
    cfg = TrainStepConfig(
        space=tiny_space, vocab_size=13, sentences=4, length=5, random_archs=2, rounds=2, random_rounds=2
    )
    figure = time_steps(cfg)
    names = {row.name for row in figure.rows if row.unit == "tokens/s"}
    assert names == {
        f"{which}: {name}"
        for which in ("largest", "mean of 2 random")
        for name in ("bf16", "fp32", "plain fp32")
    }
    assert [target.limit for target in figure.targets] == [1.9, 3.0]
    assert Figure.of_values(figure.values()) == figure
    by_name = {(row.name, row.unit): row.value for row in figure.rows}
    assert by_name["largest: bf16", "tokens/s"] == 1e3 * 20 / by_name["largest: bf16", "ms"]
