"""Several processes of one run: what they tell each other, and that k equal one with k times the batches.

They are forked from a server that has imported torch already, so each costs a fraction of a second.
"""

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from test_trainer import BOTH, CPU, ONE, SPACE, TWO, batch_of, weights
from torch.distributed import TCPStore

import hat.train.trainer
from hat.data.pairs import groups
from hat.errors import ConfigError, DataError, TrainingError
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.search.run import ValidationFitness
from hat.space import Arch, draw_arch
from hat.train.distributed import ALONE, ProcessGroup, joined, place_of
from hat.train.trainer import OptimConfig, PolicyConfig, ScheduleConfig, Trainer, amp_dtype

BATCHES = [ONE, TWO, BOTH, *(batch_of((4, 6), (7, 3), (5, 5), seed=seed) for seed in range(2, 9))]
ARCHS = [draw_arch(SPACE, 1, number) for number in range(5)]
Work = Callable[[ProcessGroup], Any]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As in the children, since the order of a sum depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def child(work: Work, place: ProcessGroup, port: int, answer: Connection) -> None:
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= env | {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    torch.set_num_threads(1)
    try:
        with joined(place, CPU) as ranks:
            answer.send(work(ranks))
    except Exception as error:
        answer.send(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None


def run(work: Work, size: int = 2) -> tuple[list[Any], list[int]]:
    """Return what each of `size` processes sent, its error or None where it just left, and the exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hat.search.run", "test_ranks"])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    pipes, children = [], []
    for rank in range(size):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(
            target=child, args=(work, ProcessGroup(rank, size, rank, size), store.port, send)
        )
        process.start()
        send.close()
        pipes.append(receive)
        children.append(process)
    answers = []
    for pipe in pipes:
        try:
            answers.append(pipe.recv() if pipe.poll(60) else None)
        except EOFError:
            answers.append(None)
    for process in children:
        process.join(30)
        assert process.exitcode is not None, "a process hangs"
    return answers, [process.exitcode for process in children]


def trainer_of(ranks: ProcessGroup, dtype: torch.dtype, seed: int = 1, **options: float) -> Trainer:
    noise = torch.Generator().manual_seed(seed)
    model = SuperTransformer(SPACE, 11, ModelConfig(dropout=0.2, attention_dropout=0.1), noise)
    optim, schedule = OptimConfig(clip_norm=1.0, **options), ScheduleConfig("fixed", lr=1e-2)
    return Trainer(model, optim, schedule, dtype=dtype, device=CPU, seed=1, group=ranks)


def slots(batches: list, ranks: ProcessGroup) -> list:
    return [*batches, *[None] * (-len(batches) % ranks.size)][ranks.rank :: ranks.size]


def train(
    ranks: ProcessGroup,
    dtype: torch.dtype,
    update_freq: int,
    updates: int = 20,
    policy: PolicyConfig = PolicyConfig(),  # noqa: B008 - frozen
    **options: float,
) -> tuple[list, dict, Any]:
    """Return losses and norms of some updates over short epochs, the weights and an evaluation."""
    trainer = trainer_of(ranks, dtype, ranks.rank + 1, **options)  # rank 0 decides on the first weights
    results: list = []
    while len(results) < updates:
        for group in groups(slots(BATCHES[:7], ranks), update_freq):
            results.append(trainer.train_step(group, policy.plan(SPACE, 1, trainer.num_updates)))
    valid = trainer.evaluate(slots(BATCHES, ranks), SPACE.largest())
    average = {f"average.{name}": weight for name, weight in trainer.eval_model.named_parameters()}
    after = {name: weight.detach().numpy() for name, weight in (weights(trainer) | average).items()}
    return results, after, valid


def compare(answers: list, alone: tuple[list, dict, Any], tolerance: float, exact: bool = False) -> None:
    """Check what processes sent against one process with as many batches."""
    results, one_weights, one_eval = alone
    for theirs, their_weights, their_eval in answers:
        for one, other in zip(results, theirs, strict=True):
            assert (one.num_tokens, one.lr) == (other.num_tokens, other.lr)
            assert (other.loss, other.nll_loss) == pytest.approx((one.loss, one.nll_loss), abs=tolerance)
            assert other.grad_norm == pytest.approx(one.grad_norm, rel=100 * tolerance)
        assert their_eval.num_tokens == one_eval.num_tokens
        assert their_eval.loss == pytest.approx(one_eval.loss, abs=tolerance)
        for name, weight in their_weights.items():
            assert (weight == answers[0][1][name]).all(), "the ranks have drifted apart"
            assert not exact or (weight == one_weights[name]).all(), name
    assert results[-1].loss < results[0].loss


@pytest.mark.parametrize(
    ("dtype", "size", "update_freq"), [(torch.float32, 2, 1), (torch.float32, 3, 2), (torch.bfloat16, 2, 2)]
)
def test_many_ranks_equal_one_with_more_batches(dtype: torch.dtype, size: int, update_freq: int) -> None:
    """Seven batches: the last update of an epoch has fewer, and some rank none."""
    answers, codes = run(partial(train, dtype=dtype, update_freq=update_freq), size)
    assert codes == [0] * size
    exact = dtype == torch.float32 and size * update_freq == 2  # a sum of two has no order
    tolerance = 1e-5 if dtype == torch.float32 else 1e-3
    compare(answers, train(ALONE, dtype, size * update_freq), tolerance, exact)


def types(ranks: ProcessGroup, first: str, others: str) -> str:
    return str(amp_dtype(first if ranks.first else others, torch.device("meta"), ranks))


def test_ranks_compute_in_one_type() -> None:
    assert run(partial(types, first="bf16", others="bf16")) == (["torch.bfloat16"] * 2, [0, 0])
    answers, codes = run(partial(types, first="bf16", others="fp32"))
    assert codes == [1, 1]
    assert "different types (bf16, fp32); choose one with --amp" in answers[0]


def talk(ranks: ProcessGroup) -> list:
    rank = ranks.rank
    flat = torch.full((3,), float(rank))
    ranks.broadcast_tensors_([flat])
    return [
        ranks.first,
        ranks.sum_(torch.tensor([1.0, rank])).tolist(),
        ranks.gather_objects(f"rank {rank}"),
        ranks.broadcast({"from": rank}),
        flat.tolist(),
        ranks.on_rank0(lambda: (rank, os.getpid() > 0)),
    ]


def test_what_ranks_tell_each_other() -> None:
    answers, codes = run(talk, 3)
    told = [[3.0, 3.0], ["rank 0", "rank 1", "rank 2"], {"from": 0}]
    told += [[0.0] * 3, (0, True)]
    assert answers == [[True, *told], [False, *told], [False, *told]] and codes == [0, 0, 0]
    alone = [True, [1.0, 0.0], ["rank 0"], {"from": 0}, [0.0] * 3, (0, True)]
    assert talk(ALONE) == alone


def full_disk(ranks: ProcessGroup) -> None:
    def write() -> None:
        raise OSError(28, "No space left on device")

    ranks.on_rank0(write)


def diverged(ranks: ProcessGroup) -> None:
    trainer = trainer_of(ranks, torch.float32)
    before = weights(trainer)
    if ranks.rank == 1:
        hat.train.trainer.smoothed_loss = lambda *_: (
            trainer.model.output.weight.sum() * math.nan,
            torch.zeros(()),
        )
    try:
        trainer.train_step([ONE], SPACE.largest())
    except TrainingError:
        assert all(torch.equal(before[name], after) for name, after in weights(trainer).items())
        assert all(weight.grad is None for weight in trainer.model.parameters())
        raise


def broken(ranks: ProcessGroup) -> None:
    if ranks.rank == 1:
        raise DataError("pair 17 is damaged")
    ranks.gather_objects(1)


def killed(ranks: ProcessGroup) -> None:
    if ranks.rank == 0:
        os.kill(os.getpid(), 9)
    ranks.gather_objects(1)


@pytest.mark.parametrize(
    ("work", "codes", "said"),
    [
        (full_disk, [1, 2], ["OSError: [Errno 28]", None]),
        (diverged, [1, 2], ["TrainingError: the loss is nan at update 1", None]),
        (broken, [1, 1], ["RankError: rank 0 of 2 lost another process (", "DataError: pair 17 is damaged"]),
        (killed, [-9, 1], [None, "RankError: rank 1 of 2 lost another process ("]),
    ],
)
def test_an_error_ends_all_ranks_and_is_said_once(
    work: Work, codes: list[int], said: list[str | None]
) -> None:
    answers, found = run(work)
    assert found == codes
    for answer, text in zip(answers, said, strict=True):
        assert answer is None if text is None else answer.startswith(text)


def search(ranks: ProcessGroup) -> Any:
    """Return the losses, and how many architectures this process scored."""
    model = SuperTransformer(SPACE, 11, ModelConfig(), torch.Generator().manual_seed(1))
    fitness, scored = ValidationFitness(model, BATCHES, 0.1, CPU, ranks), list[Arch]()
    real = fitness.loss
    fitness.loss = lambda arch, *more: scored.append(arch) or real(arch, *more)  # type: ignore[method-assign]
    return ranks.on_rank0(lambda: fitness(ARCHS), fitness.part), len(scored)


def test_candidates_are_divided_and_scored_bit_for_bit_as_by_one_process() -> None:
    losses, count = search(ALONE)
    assert count == 5 and run(search)[0] == [(losses, 3), (losses, 2)]


def test_where_a_launcher_put_this_process() -> None:
    assert place_of({"RANK": "3"}) is None and place_of({}) is None
    env = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a"}
    assert place_of(env) == ProcessGroup(3, 8, 1, 2)
    assert place_of(env | {"HAT_LAUNCHER": "1"}) == ProcessGroup(3, 8, 1, 2, True)
    assert place_of({"RANK": "0", "WORLD_SIZE": "1"}) == ProcessGroup()
    del env["MASTER_ADDR"]
    for wrong in (env, env | {"RANK": "8"}, env | {"RANK": "x"}, env | {"WORLD_SIZE": ""}):
        with pytest.raises(ConfigError, match="is no rank of a run.* start with torchrun"):
            place_of(wrong)
