"""What an update trains and at which rate; resumes and ranks agree on both."""

import math
from collections import Counter
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import spaces
from test_ranks import compare, run, train
from test_trainer import BOTH, ONE, SPACE, TWO, by_autograd, gradients, trainer_of

from hat.space import SearchSpace, draw_arch, draw_fair_arch
from hat.train.distributed import ALONE
from hat.train.loss import smoothed_loss
from hat.train.trainer import PolicyConfig, ScheduleConfig, StepPlan, learning_rate, target_rows

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
    space, depths = SPACE, len(SPACE.sizes_by_depth())
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


def test_the_gradient_of_a_plan_is_the_mean_of_its_architectures() -> None:
    archs = SANDWICH.plan(SPACE, 1, 0).archs
    together, norm = gradients(trainer_of(), [ONE, TWO], StepPlan(archs))
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
    ours, _ = gradients(trainer_of(), [BOTH], StepPlan(archs, share))
    model = trainer_of().model
    real = BOTH.target != 1
    logits = [model(BOTH.source, BOTH.decoder_input, arch)[real] for arch in archs]
    soft = logits[0].detach().softmax(-1)
    taught, smoothed = (smoothed_loss(*target_rows(model, BOTH, arch), 0.1)[0] for arch in archs)
    loss = taught + (1 - share) * smoothed - share * (soft * logits[1].log_softmax(-1)).sum()
    by_hand = by_autograd(model, loss / (2 * BOTH.num_tokens))
    torch.testing.assert_close(ours, by_hand, rtol=1e-3, atol=1e-6)
    plain, _ = gradients(trainer_of(), [BOTH], StepPlan(archs))
    assert (ours - plain).norm() > 0.02 * plain.norm()


# The moving average.


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
    plain.refresh()
    assert plain.evaluate([BOTH], SPACE.largest()).loss == averaged


@pytest.mark.parametrize(("config", "update_freq"), [(SANDWICH, 1), (DISTILL, 2)])
def test_two_ranks_equal_one_with_twice_the_batches(config: PolicyConfig, update_freq: int) -> None:
    of_policy = partial(train, dtype=torch.float32, updates=12, policy=config, ema_decay=0.9)
    answers, codes = run(partial(of_policy, update_freq=update_freq))
    assert codes == [0, 0], answers
    compare(answers, of_policy(ALONE, update_freq=2 * update_freq), 1e-4)


# The learning rate, computed by hand.

SPAN, QUARTER = 1e-3 - 1e-7, 0.5 * (1 + math.cos(math.pi * 22 / 90))
HALF = 1e-7 + SPAN / 2
COSINE = ScheduleConfig("cosine", lr=1e-7, max_lr=1e-3, warmup_updates=10)


@pytest.mark.parametrize(
    ("cfg", "rates"),
    [
        (ScheduleConfig(lr=8e-4, warmup_updates=4), {0: 1e-7, 4: 8e-4, 16: 4e-4, 64: 2e-4, 400: 8e-5}),
        (ScheduleConfig(lr=1e-3), {0: 1e-3, 1: 1e-3, 4: 5e-4, 100: 1e-4}),
        (COSINE, {0: 1e-7, 5: HALF, 10: 1e-3, 32: 1e-7 + SPAN * QUARTER, 55: HALF, 150: 1e-7}),
        (ScheduleConfig("fixed", 3e-4, 1.0, 2, warmup_init_lr=1e-4), {0: 1e-4, 1: 2e-4, 2: 3e-4, 99: 3e-4}),
        (ScheduleConfig(lr=5e-4, max_lr=1.0), {1: 5e-4}),  # max-lr belongs to cosine only
    ],
)
def test_learning_rates(cfg: ScheduleConfig, rates: dict[int, float]) -> None:
    found = {update: learning_rate(cfg, update, 100) for update in rates}
    assert found == pytest.approx(rates, rel=1e-9)
    for most in (1, 5, 10):  # no updates after the warm-up
        assert all(1e-7 <= learning_rate(COSINE, update, most) <= 1e-3 for update in range(20))
