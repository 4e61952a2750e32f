"""One update: what it changes, what it refuses, and how it goes on from saved state."""

import math

import numpy as np
import pytest
import torch

from hat.data.pairs import Batch, collate, flat
from hat.errors import TrainingError
from hat.model.layers import EOS, ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import Arch, DecoderSpace, EncoderSpace, SearchSpace, draw_arch
from hat.train.loss import smoothed_loss
from hat.train.trainer import OptimConfig, ScheduleConfig, StepPlan, Trainer, target_rows

SPACE = SearchSpace(
    EncoderSpace(8, 16, 2, (8, 6), (16, 8), (2, 1), (2,)),
    DecoderSpace(8, 16, 2, (8, 4), (16, 8), (2, 1), (2,), (2,), (1, 2)),
    8,
)
LARGEST, SMALLEST, CPU = SPACE.largest(), SPACE.smallest(), torch.device("cpu")


def batch_of(*sizes: tuple[int, int], seed: int = 0) -> Batch:
    """Return sentence pairs with so many source and target tokens, EOS included."""
    rng = np.random.default_rng(seed)
    sides = [[np.append(rng.integers(4, 11, size[side] - 1), EOS) for size in sizes] for side in (0, 1)]
    return collate(range(len(sizes)), *map(flat, sides))


ONE, TWO = batch_of((3, 5), (6, 2)), batch_of((9, 4), (2, 7), (4, 4), seed=1)
BOTH = collate(
    range(5),
    flat([row[row != 1].numpy() for batch in (ONE, TWO) for row in batch.source]),
    flat([row[row != 1].numpy() for batch in (ONE, TWO) for row in batch.target]),
)


CONSTANT = ScheduleConfig("fixed", lr=1e-2)


def trainer_of(dtype=torch.float32, schedule=CONSTANT, dropout: float = 0.0, **options) -> Trainer:
    model = SuperTransformer(SPACE, 11, ModelConfig(dropout=dropout))
    optim = OptimConfig(**({"clip_norm": 0.0} | options))
    return Trainer(model, optim, schedule, dtype=dtype, device=CPU, seed=1)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name].nan_to_num(7.5), other[name].nan_to_num(7.5)) for name in one)


def gradients(trainer: Trainer, batches: list[Batch], arch: Arch | StepPlan) -> tuple[torch.Tensor, float]:
    """Return the gradient of one update, flat, read off a step of plain descent, and its reported norm."""
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.0)
    trainer.schedule = ScheduleConfig("fixed", lr=1.0)
    before = weights(trainer)
    result = trainer.train_step(batches, arch)
    flat = [(before[name] - after).flatten() for name, after in weights(trainer).items()]
    return torch.cat(flat), result.grad_norm


def by_autograd(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """Return the gradient of a loss, flat."""
    loss.backward()
    grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in model.parameters()]
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("sentence_avg", [False, True])
def test_two_half_batches_make_the_gradient_of_the_whole(sentence_avg: bool) -> None:
    halves, norm = gradients(trainer_of(sentence_avg=sentence_avg), [ONE, TWO], SMALLEST)
    whole, whole_norm = gradients(trainer_of(sentence_avg=sentence_avg), [BOTH], SMALLEST)
    torch.testing.assert_close(halves, whole, rtol=1e-4, atol=2e-7)
    assert norm == pytest.approx(whole_norm, rel=1e-5) and norm > 0.01
    # and it is that of the summed loss by tokens or sentences
    model = trainer_of().model
    loss, _ = smoothed_loss(*target_rows(model, BOTH, SMALLEST), 0.1)
    by_hand = by_autograd(model, loss / (5 if sentence_avg else BOTH.num_tokens))
    torch.testing.assert_close(whole, by_hand, rtol=1e-4, atol=2e-7)


def test_losses_are_per_token_in_base_two() -> None:
    trainer = trainer_of()
    logp = trainer.model(BOTH.source, BOTH.decoder_input, LARGEST).log_softmax(-1)
    real = BOTH.target != 1
    nll = -logp.gather(2, BOTH.target[:, :, None])[:, :, 0][real].mean().item() / math.log(2)
    spread = -logp.mean(-1)[real].mean().item() / math.log(2)
    result = trainer.evaluate([ONE, TWO], LARGEST)
    assert result.nll_loss == pytest.approx(nll, rel=1e-5)
    assert result.loss == pytest.approx(0.9 * nll + 0.1 * spread, rel=1e-5)
    assert result.num_tokens == int(real.sum()) == ONE.num_tokens + TWO.num_tokens
    step = trainer.train_step([BOTH], LARGEST)
    assert (step.loss, step.nll_loss) == pytest.approx((result.loss, result.nll_loss), rel=1e-5)
    assert (step.num_tokens, step.lr, trainer.num_updates) == (result.num_tokens, 1e-2, 1)


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_clipping(clip: float) -> None:
    free, norm = gradients(trainer_of(), [ONE], LARGEST)
    clipped, shown = gradients(trainer_of(clip_norm=clip), [ONE], LARGEST)
    assert shown == pytest.approx(norm) == pytest.approx(free.norm().item(), rel=1e-4)
    assert clipped.norm().item() == pytest.approx(min(clip, norm), rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), rtol=1e-2, atol=1e-4)


def test_only_the_active_block_moves() -> None:
    trainer = trainer_of(weight_decay=0.1)
    before = weights(trainer)
    trainer.train_step([BOTH], SMALLEST)
    after = weights(trainer)
    for name, weight in after.items():
        if name.startswith(("encoder_layers.1", "decoder_layers.1")):
            assert torch.equal(weight, before[name]), "an unused layer must not even decay"
    assert not torch.equal(after["encoder_layers.0.ffn.up.weight"], before["encoder_layers.0.ffn.up.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_loss_changes_nothing(dtype: torch.dtype, bad: float) -> None:
    trainer = trainer_of(dtype)
    trainer.train_step([BOTH], LARGEST)
    with torch.no_grad():
        trainer.model.output.weight[5] = bad
    trainer.refresh()
    before, state = weights(trainer), trainer.optimizer.state_dict()["state"]
    steps = [float(entry["step"]) for entry in state.values()]
    with pytest.raises(TrainingError, match="the loss is (nan|inf) at update 2; no weight was changed"):
        trainer.train_step([ONE, BOTH], LARGEST)
    assert same(before, weights(trainer)) and trainer.num_updates == 1
    assert [float(e["step"]) for e in trainer.optimizer.state_dict()["state"].values()] == steps
    for model in (trainer.model, trainer.compute):
        assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_non_finite_gradient_changes_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(dtype)
    weight = trainer.compute.output.weight
    steep = (weight * 0).sum().sqrt(), torch.zeros(())  # value 0, slope inf * 0
    monkeypatch.setattr("hat.train.trainer.smoothed_loss", lambda *_: steep)
    before = weights(trainer)
    with pytest.raises(TrainingError, match="the gradient norm is nan at update 1"):
        trainer.train_step([ONE], LARGEST)
    assert same(before, weights(trainer)) and weight.grad is None and trainer.num_updates == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_state_goes_on_as_if_never_stopped(dtype: torch.dtype) -> None:
    schedule = ScheduleConfig(lr=1e-2, warmup_updates=3)

    def steps(trainer: Trainer, count: int) -> Trainer:
        for _ in range(count):
            trainer.train_step([ONE, TWO], draw_arch(SPACE, 1, trainer.num_updates))
        return trainer

    whole = steps(trainer_of(dtype, schedule, dropout=0.3), 6)
    first = steps(trainer_of(dtype, schedule, dropout=0.3), 3)
    second = trainer_of(dtype, schedule, dropout=0.3)
    with torch.no_grad():
        for name, weight in second.model.named_parameters():
            weight.copy_(weights(first)[name])
    second.refresh()
    torch.manual_seed(99)  # the global generator must not matter
    second.load_state_dict(first.state_dict(), {})
    steps(second, 3)
    assert same(weights(whole), weights(second))
    assert second.num_updates == 6 and second.lr() == whole.lr()
    other = trainer_of(torch.float32 if dtype == torch.bfloat16 else torch.bfloat16)
    other.load_state_dict(first.state_dict(), {})  # a run goes on in any type
    assert math.isfinite(other.train_step([TWO], LARGEST).grad_norm) and other.num_updates == 4


def test_dropout_depends_on_update_position_and_place_in_the_plan() -> None:
    def loss(updates: int, batches: list[Batch], archs: int = 1) -> float:
        trainer = trainer_of(dropout=0.4)
        trainer.num_updates = updates
        return trainer.train_step(batches, StepPlan((LARGEST,) * archs)).loss

    assert loss(0, [ONE]) == loss(0, [ONE])
    assert len({loss(0, [ONE]), loss(1, [ONE]), loss(0, [ONE, ONE]), loss(0, [ONE], 2)}) == 4


def test_gradients_of_the_copy_are_added_up_in_float32() -> None:
    trainer = trainer_of(torch.bfloat16)
    pairs = list(zip(trainer.model.parameters(), trainer.compute.parameters(), strict=True))
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(torch.randn(weight.shape) / 7)
    assert any(not torch.equal(copied, weight.bfloat16()) for weight, copied in pairs)
    trainer.refresh()
    assert all(torch.equal(copied, weight.bfloat16()) for weight, copied in pairs)
    for grad in (256.0, 0.5, 0.5):
        pairs[0][1].grad = torch.full_like(pairs[0][1], grad)
        trainer._collect_gradients()
        assert pairs[0][1].grad is None
    assert bool((pairs[0][0].grad == 257).all()), "bfloat16 would give 256"
    assert pairs[0][0].grad.dtype == torch.float32 and pairs[1][0].grad is None
