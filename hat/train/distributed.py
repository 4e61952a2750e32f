"""The processes of a run, what they tell each other, and their launcher (docs/distributed.md)."""

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
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

import hat
from hat.errors import CheckpointError, ConfigError, HatError, RankError, TrainingError
from hat.log import info

T = TypeVar("T")
LOST = 75  # exit code of a process that only lost the others; the launcher names the one that failed
PATIENCE = timedelta(minutes=5)  # how long a process waits for another that is alive but does not answer
_OURS = "HAT_LAUNCHER"  # environment: set by `launch`, which reports errors for its processes
_CLOSING_S = 8  # between a signal to the launcher and SIGKILL: time for its processes to save
_AGAIN = "run the same command again: it goes on from the last checkpoint"


@dataclass(frozen=True)
class ProcessGroup:
    """This process among the others of its run. All of them must call the same methods in the same order. In
    a group of one the methods return at once. They raise RankError if another process is gone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine
    local_size: int = 1
    ours: bool = False  # started by `launch`, not by torchrun

    @property
    def first(self) -> bool:
        """Return whether this is rank 0, which writes files and messages."""
        return self.rank == 0

    def sum_(self, x: Tensor) -> Tensor:
        """Replace `x` by its sum over all processes and return it."""
        self._together("all_reduce", x)
        return x

    def gather_objects(self, item: T) -> list[T]:
        """Return the `item` of each process."""
        items = [item] * self.size
        self._together("all_gather_object", items, item)
        return items

    def broadcast(self, item: T) -> T:
        """Return the `item` of rank 0."""
        box = [item]
        self._together("broadcast_object_list", box, src=0)
        return box[0]

    def broadcast_tensors_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors`, on the device of this process, by those of rank 0."""
        for tensor in tensors:
            self._together("broadcast", tensor, src=0)

    def on_rank0(self, work: Callable[[], T], meanwhile: Callable[[Any], object] | None = None) -> T:
        """Let rank 0 do `work` and return its result in all; the others call `meanwhile` with each list that
        `work` broadcasts. If it raises HatError or OSError, rank 0 raises that, the others leave with code 2.
        """
        found: Any = (False, None)
        try:
            found = (True, work()) if self.first else found
        except (HatError, OSError) as error:
            if not isinstance(error, RankError):  # the others find out by themselves
                self.broadcast(found)
            raise
        while isinstance(told := self.broadcast(found), list) and meanwhile:
            meanwhile(told)
        done, result = told
        if not done:
            raise SystemExit(2)
        return result  # type: ignore[no-any-return]

    def _together(self, operation: str, *args: Any, **options: Any) -> None:
        if self.size == 1:
            return
        try:
            getattr(dist, operation)(*args, **options)
        except RuntimeError as error:
            what = f"rank {self.rank} of {self.size} lost another process ({_first_sentence(error)})"
            why = "it was killed, or its machine does not answer"
            raise RankError(f"{what}; {why}. {_AGAIN.capitalize()}") from error


ALONE = ProcessGroup()


def place_of(env: Mapping[str, str]) -> ProcessGroup | None:
    """Return what `launch` or torchrun say, None if alone; raises ConfigError if they say only half."""
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return None
    given = [env.get(name, "1") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
    given[2] = env.get("LOCAL_RANK", given[0])
    whole = all(map(str.isdecimal, given)) and int(given[0]) < int(given[1])
    if whole and (given[1] == "1" or "MASTER_ADDR" in env):
        return ProcessGroup(*map(int, given), _OURS in env)
    what = f"RANK {env['RANK']} of WORLD_SIZE {env['WORLD_SIZE']} in the environment is no rank of a run"
    how = "start with torchrun, or remove these variables to run alone"
    raise ConfigError(f"{what}, or MASTER_ADDR is missing; {how}")


def _first_sentence(error: RuntimeError) -> str:
    # without its place in the source
    return re.sub(r"^\[[^ ]*\] ", "", " ".join(str(error).split())).split(". ")[0][:160]


@contextmanager
def joined(place: ProcessGroup | None, device: torch.device) -> Iterator[ProcessGroup]:
    """Connect the processes of a run: NCCL between GPUs, gloo between CPUs; at the end all wait for all. If
    one dies, the others raise RankError. An error that all raise alike (of a loss, or of a checkpoint) is
    raised by rank 0 alone; the others leave with exit code 2. If the launcher dies, they get SIGTERM.
    """
    if place is None or place.size == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(backend, rank=place.rank, world_size=place.size, timeout=PATIENCE)
    except RuntimeError as error:
        how = "check that all were started alike and reach MASTER_ADDR and MASTER_PORT, and run again"
        what = f"rank {place.rank} of {place.size} cannot connect to the others ({_first_sentence(error)})"
        raise RankError(f"{what}; {how}") from error
    left = threading.Event()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_end_with, args=(os.getppid(), left), daemon=True).start()
    try:
        yield place
        place.gather_objects(0)  # all have finished
    except (RankError, TrainingError, CheckpointError) as error:
        lost = isinstance(error, RankError)
        if place.first if not lost else not place.ours:
            raise
        raise SystemExit(LOST if lost else 2) from error
    finally:
        left.set()
    dist.destroy_process_group()


def _end_with(launcher: int, left: threading.Event) -> None:
    """Send this process SIGTERM once its launcher has died: torch's launcher leaves its processes behind."""
    while not left.wait(1.0):
        if os.getppid() != launcher:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def launch(module: str, argv: Sequence[str] | None, size: int, port: int | None) -> int:
    """Run `main` of `module` in `size` processes, which all end if one fails; return their exit code."""
    # late: only the launching process needs them
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    root, env = str(Path(hat.__file__).resolve().parents[1]), os.environ
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    env |= {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_CLOSING_S), _OURS: "1"}
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // size)))
    if sys.platform == "linux":
        env.setdefault("GLOO_SOCKET_IFNAME", "lo")  # works without a host name that resolves
    logging.disable(logging.CRITICAL)  # torch's launcher logs what `_exit_code` says in one line
    try:
        with tempfile.TemporaryDirectory() as logs:
            how = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": size, "max_restarts": 0}
            how |= {"rdzv_backend": "c10d", "rdzv_endpoint": f"localhost:{port or 0}"}
            how |= {"run_id": f"hat-{os.getpid()}", "local_addr": "127.0.0.1", "monitor_interval": 0.1}
            how |= {"logs_specs": DefaultLogsSpecs(log_dir=logs)}
            config = LaunchConfig(**how, signals_to_handle="SIGTERM,SIGINT,SIGHUP")
            code = f"from {module} import main; raise SystemExit(main())"
            elastic_launch(config, sys.executable)("-c", code, *(sys.argv[1:] if argv is None else argv))
    except ChildFailedError as error:
        return _exit_code({rank: failure.exitcode for rank, failure in error.failures.items()}, size)
    except SignalException as error:
        return 128 + int(error.sigval)
    finally:
        logging.disable(logging.NOTSET)
    return 0


def _exit_code(codes: Mapping[int, int], size: int) -> int:
    """Return the exit code of a run, and say which rank failed, unless that said why itself."""
    rank, code = next(((rank, code) for rank, code in codes.items() if code != LOST), (0, LOST))
    what = f"rank {rank} of {size} failed, see above"
    if code == LOST:
        what, code = f"the {size} ranks lost each other", 2
    elif code < 0:
        what, code = f"rank {rank} of {size} was killed by {signal.Signals(-code).name}", 128 - code
    elif code in (2, 128 + signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGHUP):
        return code
    info(f"RankError: {what}; all were stopped; {_AGAIN}")
    return code


def one_of_many(main: Callable[..., int]) -> Callable[..., int]:
    """Make a `main` leave at once after a failure: threads of the backend may abort the interpreter's end."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            code: Any = main(argv)
        except BaseException as error:
            if not dist.is_initialized():
                raise
            code = error.code if isinstance(error, SystemExit) else 1
            if not isinstance(error, SystemExit):
                traceback.print_exc()
        if dist.is_initialized():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code  # type: ignore[no-any-return]

    return run
