"""What an update trains: its architectures, its gradient, and that resumes and ranks agree on both."""

from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import spaces
from test_ranks import BATCHES, run
from test_trainer import BOTH, CPU, ONE, SPACE, TWO, gradients, trainer_of, weights

from hat.data.batching import groups, shard
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import SearchSpace, draw_arch, draw_fair_arch
from hat.train.distributed import ALONE, ProcessGroup
from hat.train.policy import PolicyConfig, ScheduleConfig, StepPlan
from hat.train.trainer import OptimConfig, Trainer, batch_loss

SANDWICH = PolicyConfig("sandwich", sandwich_random=2)
DISTILL = PolicyConfig("sandwich-distill", sandwich_random=1, fair_sampling=True, distill_share=0.7)


def test_single_is_the_draw_of_2020() -> None:
    for update in range(50):
        assert PolicyConfig().plan(SPACE, 3, update) == StepPlan((draw_arch(SPACE, 3, update),))


@given(spaces(), st.integers(0, 1000), st.integers(0, 1000))
def test_a_sandwich_holds_both_ends_and_fresh_draws(space: SearchSpace, seed: int, update: int) -> None:
    first, second = (SANDWICH.plan(space, seed, number) for number in (update, update + 1))
    assert first == SANDWICH.plan(space, seed, update) and first.distill == 0
    assert first.archs[:2] == second.archs[:2] == (space.largest(), space.smallest())
    drawn = [draw_arch(space, seed, number) for number in range(2 * update, 2 * update + 4)]
    assert [*first.archs[2:], *second.archs[2:]] == drawn
    for arch in DISTILL.plan(space, seed, update).archs:
        space.check(arch)


def test_fair_draws_give_each_choice_its_share_exactly() -> None:
    space = SPACE
    enc, dec = space.encoder, space.decoder
    depths = len(enc.layers_choice) * len(dec.layers_choice)
    draws = [draw_fair_arch(space, 5, number) for number in range(depths * 6)]
    for values in (
        Counter(arch.encoder.embed_dim for arch in draws),
        Counter(arch.decoder.embed_dim for arch in draws),
        Counter((arch.encoder.num_layers, arch.decoder.num_layers) for arch in draws),
        Counter(arch.encoder.ffn_dims[0] for arch in draws),
        Counter(arch.decoder.ffn_dims[1] for arch in draws if arch.decoder.num_layers == 2),
        Counter(arch.decoder.cross_span[0] for arch in draws if arch.encoder.num_layers == 2),
    ):
        assert len(values) > 1 and len(set(values.values())) == 1, values
    for start in range(0, len(draws), 2):  # and already in any two
        assert len({arch.encoder.embed_dim for arch in draws[start : start + 2]}) == 2
    assert len(set(draws)) > 20, "they are not one cycle"
    assert [draw_fair_arch(space, 5, number) for number in (7, 3)] == [draws[7], draws[3]]
    assert [draw_fair_arch(space, 6, number) for number in range(12)] != draws[:12]


@given(spaces(), st.integers(0, 1000), st.integers(0, 100_000))
def test_fair_draws_pass_the_check(space: SearchSpace, seed: int, number: int) -> None:
    space.check(draw_fair_arch(space, seed, number))


def test_the_gradient_of_a_lesson_is_the_mean_of_its_architectures() -> None:
    archs = SANDWICH.plan(SPACE, 1, 0).archs
    together, norm = gradients(trainer_of(), [ONE, TWO], StepPlan(archs))  # type: ignore[arg-type]
    apart = [gradients(trainer_of(), [ONE, TWO], arch)[0] for arch in archs]
    torch.testing.assert_close(together, torch.stack(apart).mean(0), rtol=1e-3, atol=1e-6)
    assert norm == pytest.approx(together.norm().item(), rel=1e-3)
    alone = [trainer_of().train_step([BOTH], arch) for arch in archs]
    step = trainer_of().train_step([BOTH], StepPlan(archs))
    assert step.loss == pytest.approx(sum(one.loss for one in alone) / 4, rel=1e-5)
    assert step.nll_loss == pytest.approx(sum(one.nll_loss for one in alone) / 4, rel=1e-5)
    assert step.num_tokens == BOTH.num_tokens


def test_the_largest_teaches_the_others() -> None:
    """The gradient is that of plain autograd with the teacher's probabilities as fixed targets."""
    archs, share = (SPACE.largest(), SPACE.smallest()), 0.7
    ours, _ = gradients(trainer_of(), [BOTH], StepPlan(archs, share))  # type: ignore[arg-type]
    model = trainer_of().model
    real = BOTH.target != 1
    logits = [model(BOTH.source, BOTH.decoder_input, arch)[real] for arch in archs]
    soft = logits[0].detach().softmax(-1)
    taught, _ = batch_loss(model, BOTH, archs[0], 0.1)
    smoothed, _ = batch_loss(model, BOTH, archs[1], 0.1)
    loss = taught + (1 - share) * smoothed - share * (soft * logits[1].log_softmax(-1)).sum()
    (loss / (2 * BOTH.num_tokens)).backward()
    by_hand = [torch.zeros(w.numel()) if w.grad is None else w.grad.flatten() for w in model.parameters()]
    torch.testing.assert_close(ours, torch.cat(by_hand), rtol=1e-3, atol=1e-6)
    plain, _ = gradients(trainer_of(), [BOTH], StepPlan(archs))  # type: ignore[arg-type]
    assert (ours - plain).norm() > 0.02 * plain.norm()


def test_dropout_differs_between_the_architectures_of_an_update() -> None:
    arch = SPACE.largest()
    twice = trainer_of(dropout=0.4).train_step([ONE], StepPlan((arch, arch))).loss
    assert twice != trainer_of(dropout=0.4).train_step([ONE], StepPlan((arch,))).loss
    assert twice == trainer_of(dropout=0.4).train_step([ONE], StepPlan((arch, arch))).loss


# The moving average.


def test_the_average_is_the_formula() -> None:
    trainer = trainer_of(ema_decay=0.5)
    model, average = trainer.model.output, trainer.average.module.output
    expected = model.weight.detach().clone()
    for update in range(1, 20):
        with torch.no_grad():
            model.weight.add_(update)
        trainer.num_updates = update
        trainer.average.update_parameters(trainer.model)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * model.weight.detach()
        torch.testing.assert_close(average.weight, expected)
    assert not average.weight.requires_grad and model.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_average_is_what_is_validated(dtype: torch.dtype) -> None:
    trainer, plain = trainer_of(dtype, ema_decay=0.9), trainer_of(dtype)
    for _ in range(12):
        steps = [t.train_step([BOTH], SPACE.largest()) for t in (trainer, plain)]
        assert steps[0] == steps[1], "the average takes no part in training"
    assert trainer.eval_model is trainer.average.module and plain.eval_model is plain.model
    assert all(w.dtype == torch.float32 for w in trainer.eval_model.parameters())
    averaged, last = (t.evaluate([BOTH], SPACE.largest()).loss for t in (trainer, plain))
    assert averaged > last, "while the loss falls, the average lags behind"
    with torch.no_grad():
        for weight, average in zip(plain.model.parameters(), trainer.eval_model.parameters(), strict=True):
            weight.copy_(average)
    plain.weights.refresh()
    assert plain.evaluate([BOTH], SPACE.largest()).loss == averaged


# Several ranks.


def train(ranks: ProcessGroup, config: PolicyConfig, update_freq: int) -> tuple[list, dict, Any]:
    """Return the results of 12 updates over short epochs, the averaged weights and an evaluation."""
    noise = torch.Generator().manual_seed(ranks.rank + 1)
    trainer = Trainer(
        SuperTransformer(SPACE, 11, ModelConfig(dropout=0.2), noise),
        OptimConfig(clip_norm=1.0, ema_decay=0.9),
        ScheduleConfig("fixed", lr=1e-2),
        dtype=torch.float32,
        device=CPU,
        seed=1,
        group=ranks,
    )
    results: list = []
    while len(results) < 12:
        for group in groups(shard(BATCHES[:7], ranks.rank, ranks.size), update_freq):
            results.append(trainer.train_step(group, config.plan(SPACE, 1, trainer.num_updates)))
    shown = {name: weight.numpy() for name, weight in trainer.eval_model.named_parameters()}
    after = {name: weight.numpy() for name, weight in weights(trainer).items()}
    valid = trainer.evaluate(shard(BATCHES, ranks.rank, ranks.size), SPACE.largest())
    return results, after | {f"average.{name}": weight for name, weight in shown.items()}, valid


@pytest.mark.parametrize(("config", "update_freq"), [(SANDWICH, 1), (DISTILL, 1), (DISTILL, 2)])
def test_two_ranks_equal_one_with_twice_the_batches(config: PolicyConfig, update_freq: int) -> None:
    answers, codes = run(partial(train, config=config, update_freq=update_freq))
    assert codes == [0, 0], answers
    results, one_weights, one_eval = train(ALONE, config, 2 * update_freq)
    for theirs, their_weights, their_eval in answers:
        for one, other in zip(results, theirs, strict=True):
            assert (one.num_tokens, one.lr) == (other.num_tokens, other.lr)
            assert (other.loss, other.nll_loss) == pytest.approx((one.loss, one.nll_loss), abs=1e-4)
        assert their_eval.loss == pytest.approx(one_eval.loss, abs=1e-4)
        for name, weight in their_weights.items():
            assert (weight == answers[0][1][name]).all(), "the ranks have drifted apart"
            if not name.endswith("bias"):  # a key's bias has no gradient but rounding, which Adam enlarges
                assert weight == pytest.approx(one_weights[name], abs=2e-3), name
