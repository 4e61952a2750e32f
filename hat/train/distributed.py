"""The processes of one run: rank r of k on its own device, what they tell each other, and their launcher.

Gradients are summed here and not by DistributedDataParallel, for three reasons. DDP sums in the compute
type, so two bfloat16 processes would not equal one with twice the update-freq; here the sum is in float32. It
needs a backward pass in every process, but at the end of an epoch a process may have no batch. And it sends
zeros for every layer that the sampled SubTransformer does not use. One flat reduction per update avoids this.
"""

import functools
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

import hat
from hat.errors import CheckpointError, ConfigError, HatError, RankError, TrainingError
from hat.log import say

T = TypeVar("T")
LOST = 75  # exit code of a process that only lost the others; the launcher names the one that failed
LAUNCHER = "HAT_LAUNCHER"  # environment: process id of `launch`, which reports errors for its processes
CLOSING_S = 8  # between a signal to the launcher and SIGKILL: time for its processes to save
PATIENCE = timedelta(minutes=5)  # how long a process waits for another that is alive but does not answer
_AGAIN = "run the same command again: it goes on from the last checkpoint"


@dataclass(frozen=True)
class Place:
    """Where a launcher put this process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine
    local_size: int = 1
    launcher: int | None = None  # id of the launching process; this process ends when that one dies
    ours: bool = False  # started by `launch`, not by torchrun


def place_of(env: Mapping[str, str]) -> Place | None:
    """Return what `launch` or torchrun say in the environment, or None for a process started alone.

    Raises ConfigError if the environment says only half of it.
    """
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return None
    try:
        rank, size = int(env["RANK"]), int(env["WORLD_SIZE"])
        local_rank, local_size = int(env.get("LOCAL_RANK", rank)), int(env.get("LOCAL_WORLD_SIZE", 1))
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


def _tells_rank_error(method: Callable[..., T]) -> Callable[..., T]:
    """Turn errors of the backend into RankError: they come from the loss of another process."""

    @functools.wraps(method)
    def call(self: "ProcessGroup", *args: Any) -> T:
        try:
            return method(self, *args)
        except RuntimeError as error:
            raise RankError(
                f"rank {self.rank} of {self.size} lost another process ({_first_sentence(error)}); it was "
                f"killed, or its machine does not answer. {_AGAIN.capitalize()}"
            ) from error

    return call


def _first_sentence(error: RuntimeError) -> str:
    """Return the first sentence of an error of the backend, without the place in its source."""
    return re.sub(r"^\[[^ ]*\] ", "", " ".join(str(error).split())).split(". ")[0][:160]


@dataclass(frozen=True)
class ProcessGroup:
    """This process among the others of its run. All of them must call the same methods in the same order.

    In a group of one the methods cost nothing. They raise RankError if another process is gone.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Return whether this is rank 0, which writes files and messages."""
        return self.rank == 0

    @_tells_rank_error
    def sum_(self, x: Tensor) -> Tensor:
        """Replace `x` by its sum over all processes and return it."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    @_tells_rank_error
    def all_reduce_max(self, value: int) -> int:
        """Return the largest `value` of all processes."""
        if self.size == 1:
            return value
        box = torch.tensor(value)
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return int(box)

    @_tells_rank_error
    def gather(self, x: Tensor) -> Tensor:
        """Return [size, *x.shape]: the CPU tensor `x` of each process, all of one shape."""
        parts = [torch.empty_like(x) for _ in range(self.size)] if self.size > 1 else [x]
        if self.size > 1:
            dist.all_gather(parts, x)
        return torch.stack(parts)

    @_tells_rank_error
    def gather_objects(self, item: T) -> list[T]:
        """Return the `item` of each process."""
        items: list[Any] = [item] * self.size
        if self.size > 1:
            dist.all_gather_object(items, item)
        return items

    @_tells_rank_error
    def broadcast(self, item: T) -> T:
        """Return the `item` of rank 0."""
        box = [item]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    @_tells_rank_error
    def broadcast_tensors_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors`, on the device of this process, by those of rank 0."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, src=0)

    def on_rank0(self, work: Callable[[], T]) -> T:
        """Let rank 0 do `work` and return its result in every process.

        If `work` raises a HatError or OSError, rank 0 raises it and the others leave with exit code 2.
        """
        result: Any = None
        failed = False
        if self.first:
            try:
                result = work()
            except (HatError, OSError):
                self.broadcast((True, None))
                raise
        failed, result = self.broadcast((failed, result))
        if failed:
            raise SystemExit(2)
        return result  # type: ignore[no-any-return]


ALONE = ProcessGroup()


@contextmanager
def joined(place: Place | None, device: torch.device) -> Iterator[ProcessGroup]:
    """Connect the processes of a run: NCCL between GPUs, gloo between CPUs.

    Leaving the block without an error waits for all processes. If one dies, the others raise RankError. An
    error that all raise alike (of a loss, or of a checkpoint) is raised by rank 0 alone; the others leave
    with exit code 2. If the launcher dies, its processes get SIGTERM, so that they save and end.
    """
    if place is None or place.size == 1:
        yield ProcessGroup(device=device)
        return
    if place.ours and place.launcher != os.getppid():
        raise SystemExit(143)  # the launcher died before this process was up
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    group = ProcessGroup(place.rank, place.size, device)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            rank=place.rank,
            world_size=place.size,
            timeout=PATIENCE,
        )
    except RuntimeError as error:
        raise RankError(
            f"rank {place.rank} of {place.size} cannot connect to the others ({_first_sentence(error)}); "
            "check that all were started alike and reach MASTER_ADDR and MASTER_PORT, and run again"
        ) from error
    left = threading.Event()
    if place.launcher is not None:
        threading.Thread(target=_end_with, args=(place.launcher, left), daemon=True).start()
    try:
        yield group
        group.all_reduce_max(0)  # all have finished
    except BaseException as error:
        if isinstance(error, RankError) and place.ours:
            raise SystemExit(LOST) from error
        if isinstance(error, TrainingError | CheckpointError) and not group.first:
            raise SystemExit(2) from error
        raise
    finally:
        left.set()
    dist.destroy_process_group()


def _end_with(launcher: int, left: threading.Event, every_s: float = 1.0) -> None:
    """Send this process SIGTERM once its launcher has died: torch's launcher leaves its processes behind."""
    while not left.wait(every_s):
        if os.getppid() != launcher:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def launch(module: str, argv: Sequence[str] | None, size: int, port: int | None) -> int:
    """Run `main` of `module` in `size` processes of torch's elastic launcher; returns their exit code.

    Signals are passed on. If one process fails, the others are ended, and the failure is reported unless the
    process reported it itself.
    """
    # imported late: only the launching process needs them
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    root = str(Path(hat.__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(CLOSING_S)
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // size)))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # works without a host name that resolves
    logging.disable(logging.CRITICAL)  # torch's launcher logs what `_exit_code` says in one line
    words = sys.argv[1:] if argv is None else argv
    try:
        with tempfile.TemporaryDirectory() as logs:
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=size,
                run_id=f"hat-{os.getpid()}",
                rdzv_backend="c10d",
                rdzv_endpoint=f"localhost:{port or 0}",
                local_addr="127.0.0.1",
                max_restarts=0,
                monitor_interval=0.1,
                logs_specs=DefaultLogsSpecs(log_dir=logs),
                signals_to_handle="SIGTERM,SIGINT",
            )
            code = f"from {module} import main; raise SystemExit(main())"
            elastic_launch(config, sys.executable)("-c", code, *words)
    except ChildFailedError as error:
        return _exit_code({rank: failure.exitcode for rank, failure in error.failures.items()}, size)
    except SignalException as error:
        return 128 + int(error.sigval)
    finally:
        logging.disable(logging.NOTSET)
    return 0


def _exit_code(codes: Mapping[int, int], size: int) -> int:
    """Return the exit code of a run from those of the ranks that failed, the first to fail first.

    Says which rank failed, unless that rank said why itself.
    """
    own = {rank: code for rank, code in codes.items() if code != LOST}
    if not own:
        say(f"RankError: the {size} ranks lost each other; all were stopped; {_AGAIN}")
        return 2
    rank, code = next(iter(own.items()))
    if code < 0:
        name = signal.Signals(-code).name
        say(f"RankError: rank {rank} of {size} was killed by {name}; all were stopped; {_AGAIN}")
        return 128 - code
    if code not in (2, 128 + signal.SIGTERM, 128 + signal.SIGINT):
        say(f"RankError: rank {rank} of {size} failed, see above; all were stopped; {_AGAIN}")
    return code


def one_of_many(main: Callable[..., int]) -> Callable[..., int]:
    """Make a `main` leave at once if the processes are still connected, that is after a failure.

    Finalising the interpreter may abort then, because threads of the backend outlive it.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            code = main(argv)
        except BaseException as error:
            if not _connected():
                raise
            code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
            if not isinstance(error, SystemExit):
                traceback.print_exc()
        if _connected():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code

    return run


def _connected() -> bool:
    return dist.is_available() and dist.is_initialized()
