"""The processes of one run as a value: rank r of k on its own device, and the little they tell each other.

Gradients are summed here and not by DistributedDataParallel. DDP would sum in the compute type, where the
master weights collect in float32, so two bfloat16 processes would not equal one with twice the update-freq;
it needs a backward pass on every rank, which a rank without a batch at the end of an epoch has not; and it
sends zeros for every layer the sampled SubTransformer does not use. One flat reduction for each update
does none of that and needs no hooks.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hat.errors import CheckpointError, ConfigError, HatError, RankError, TrainingError
from hat.train.heartbeat import SILENCE_S, Heartbeat

T = TypeVar("T")
LOST = 75  # exit code of a process that only lost the others; its launcher names the one that failed
LAUNCHER = "HAT_LAUNCHER"  # process id of hat.cli.launch, which prints errors for its processes
# patience with a rank that is alive, as its heartbeat shows, but busy, for example writing a checkpoint
_PATIENCE = timedelta(minutes=30)
_LOST = (
    "rank {rank} of {size} lost another process ({why}); it was killed, or its machine does not answer. Run "
    "the same command again: it goes on from the last checkpoint"
)


@dataclass(frozen=True)
class Place:
    """Where a launcher put this process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine
    local_size: int = 1
    launcher: int | None = None  # process to end with
    ours: bool = False  # started by hat.cli.launch


def place_of(env: Mapping[str, str]) -> Place | None:
    """Return what torchrun or hat.cli.launch say in the environment, or None for a process started alone.

    Raises ConfigError where the environment says only half of it.
    """
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return None
    try:
        rank, size = int(env["RANK"]), int(env["WORLD_SIZE"])
        local_rank = int(env.get("LOCAL_RANK", rank))
        local_size = int(env.get("LOCAL_WORLD_SIZE", 1))
        whole = 0 <= rank < size and local_rank >= 0 and (size == 1 or "MASTER_ADDR" in env)
        ours = int(env[LAUNCHER]) if LAUNCHER in env else None
    except ValueError:
        whole = False
    if not whole:
        raise ConfigError(
            f"RANK {env['RANK']} of WORLD_SIZE {env['WORLD_SIZE']} in the environment is no rank of a run, "
            "or MASTER_ADDR is missing; start with torchrun, or remove these variables to run alone"
        )
    launcher = ours or (os.getppid() if "TORCHELASTIC_RUN_ID" in env else None)
    return Place(rank, size, local_rank, local_size, launcher, ours is not None)


def _short(error: RuntimeError) -> str:
    """Return the first sentence of a backend's error without its place in the source."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[[^ ]*\] ", "", text).split(". ")[0][:160]


def _told(method: Callable[..., T]) -> Callable[..., T]:
    """Turn the backend's errors into RankError: the only thing that fails between ranks is another rank."""

    @wraps(method)
    def call(self: "Ranks", *args: Any) -> T:
        try:
            return method(self, *args)
        except RuntimeError as error:
            raise RankError(_LOST.format(rank=self.rank, size=self.size, why=_short(error))) from error

    return call


@dataclass(frozen=True)
class Ranks:
    """This process among the others. Every method must be called by all of them, in the same order.

    Alone (size 1) they cost nothing. Raises RankError where another process is gone.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Return whether this process writes files and messages."""
        return self.rank == 0

    @_told
    def sum_(self, x: Tensor) -> Tensor:
        """Replace `x` by its sum over ranks and return it."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    @_told
    def most(self, value: int) -> int:
        """Return the largest `value` of any rank."""
        if self.size == 1:
            return value
        box = torch.tensor(value)
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return int(box)

    @_told
    def gather(self, x: Tensor) -> Tensor:
        """Return [size, *x.shape]: the CPU tensor `x`, alike in shape, of each rank."""
        parts = [torch.empty_like(x) for _ in range(self.size)] if self.size > 1 else [x]
        if self.size > 1:
            dist.all_gather(parts, x)
        return torch.stack(parts)

    @_told
    def gather_objects(self, item: T) -> list[T]:
        """Return the `item` of each rank."""
        items: list[Any] = [item] * self.size
        if self.size > 1:
            dist.all_gather_object(items, item)
        return items

    @_told
    def of_first(self, item: T) -> T:
        """Return the `item` of rank 0; those of other ranks are ignored."""
        box = [item]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    @_told
    def copy_first_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors of this rank's device by those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def on_first(self, work: Callable[[], T]) -> T:
        """Let rank 0 alone do `work` and return its result on every rank.

        Where it raises a HatError or OSError there, the other ranks leave silently with exit code 2.
        """
        result: Any = None
        failed = False
        if self.first:
            try:
                result = work()
            except (HatError, OSError):
                self.of_first((True, None))
                raise
        failed, result = self.of_first((failed, result))
        if failed:
            raise SystemExit(2)
        return result  # type: ignore[no-any-return]


ALONE = Ranks()


@contextmanager
def joined(place: Place | None, device: torch.device) -> Iterator[Ranks]:
    """Connect the processes of a run (NCCL between GPUs, gloo between CPUs); inside the block they are up.

    Leaving it in order waits for all ranks. Where one dies or stops answering, the others raise RankError,
    or are ended, within a minute. Errors that all ranks raise alike (of a loss, or of a checkpoint that
    rank 0 read) are said by rank 0 alone.
    """
    if place is None or place.size == 1:
        yield Ranks(device=device)
        return
    if place.ours and place.launcher != os.getppid():
        raise SystemExit(143)  # the launcher died before this process was up
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    ranks = Ranks(place.rank, place.size, device)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            rank=place.rank,
            world_size=place.size,
            timeout=_PATIENCE,
        )
        pulse = dist.new_group(backend="gloo", timeout=timedelta(seconds=SILENCE_S))
    except RuntimeError as error:
        raise RankError(
            f"rank {place.rank} of {place.size} cannot connect to the others ({_short(error)}); check that "
            "all were started alike and reach MASTER_ADDR and MASTER_PORT, and run again"
        ) from error
    lost = "RankError: " + _LOST.format(rank=place.rank, size=place.size, why="no heartbeat")
    heartbeat = Heartbeat(pulse, place, "" if place.ours else lost, LOST if place.ours else 2)
    heartbeat.start()
    try:
        yield ranks
    except BaseException as error:
        heartbeat.end(failed=True)
        if isinstance(error, RankError) and place.ours:
            raise SystemExit(LOST) from error
        if isinstance(error, TrainingError | CheckpointError) and not ranks.first:
            raise SystemExit(2) from error
        raise
    heartbeat.end(failed=False)
    dist.destroy_process_group()
