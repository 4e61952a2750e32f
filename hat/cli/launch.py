"""Start one process of a command for each GPU of this machine and end with them, as one."""

import functools
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch

import hat
from hat.cli.settings import RankOptions
from hat.cli.task import DeviceOptions, device_of
from hat.errors import ConfigError
from hat.log import say
from hat.model.cpu import dtype_name
from hat.train.ranks import LAUNCHER, LOST, Place, Ranks

_POLL_S = 0.1
_GRACE_S = 5.0  # for the other processes, once one has failed


def processes(options: RankOptions, device: DeviceOptions) -> int:
    """Return how many processes to start on this machine.

    One for each GPU where nothing else is asked for. Raises ConfigError where there are not so many GPUs.
    """
    asked = options.distributed_world_size
    if not torch.distributed.is_available():  # some builds for small boards
        if asked is not None and asked > 1:
            raise ConfigError(
                f"--distributed-world-size {asked}: this build of PyTorch has no torch.distributed; leave it "
                "out, or install another build"
            )
        return 1
    if device.cpu or not torch.cuda.is_available():
        return asked or 1
    if device.gpu is not None:
        if asked is not None and asked > 1:
            raise ConfigError(
                f"--gpu {device.gpu} names one GPU, --distributed-world-size {asked} asks for more; give one "
                "of the two, or choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        return 1
    count = torch.cuda.device_count()
    if asked is not None and asked > count:
        raise ConfigError(
            f"--distributed-world-size {asked}: this machine has {count} GPUs; give at most {count} (and a "
            "larger --update-freq), or start processes on several machines with torchrun"
        )
    return asked or count


def one_of_many(main: Callable[..., int]) -> Callable[..., int]:
    """Make a `main` leave at once with its exit code where the processes are still connected.

    That is after a failure. Finalising the interpreter then may abort: the backend's threads outlive it.
    """

    def connected() -> bool:
        return torch.distributed.is_available() and torch.distributed.is_initialized()

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            code = main(argv)
        except BaseException as error:
            if not connected():
                raise
            code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
            if not isinstance(error, SystemExit):
                traceback.print_exc()
        if connected():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code

    return run


def rank_device(device: DeviceOptions, place: Place | None, options: RankOptions) -> torch.device:
    """Return the device of one process: the GPU of its number on this machine, or the CPU.

    Raises ConfigError where processes of one machine would share a GPU.
    """
    if place is None or place.size == 1:
        return device_of(device)
    if device.gpu is not None:
        raise ConfigError(
            f"--gpu {device.gpu} names one GPU for {place.size} processes; leave it out, or choose GPUs with "
            "CUDA_VISIBLE_DEVICES"
        )
    if options.distributed_world_size not in (None, place.size):
        say(f"--distributed-world-size {options.distributed_world_size}: the launcher started {place.size}")
    count = 0 if device.cpu or not torch.cuda.is_available() else torch.cuda.device_count()
    if count > 1 and place.local_size > count:
        raise ConfigError(
            f"{place.local_size} processes on a machine with {count} GPUs; start at most {count} there, or "
            "use --cpu"
        )
    # a launcher may have left each process the sight of its own GPU only
    return device_of(replace(device, gpu=place.local_rank % count if count else None))


def agreed(dtype: torch.dtype, ranks: Ranks) -> torch.dtype:
    """Return the compute type of all ranks; raises ConfigError where their GPUs differ in what is fast."""
    names = ranks.gather_objects(dtype_name(dtype))
    if len(set(names)) > 1:
        raise ConfigError(
            f"the processes would compute in different types ({', '.join(names)}); choose one with --amp"
        )
    return dtype


def launch(module: str, argv: Sequence[str] | None, size: int, port: int | None) -> int:
    """Run `main` of `module` in `size` processes and return their common exit code.

    Signals are passed on. Where one process fails, the others are ended, and the failure is said unless the
    process said it itself. Where this process dies, the others notice and save.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = [sys.executable, "-c", f"from {module} import main; raise SystemExit(main())", *words]
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    running: dict[int, subprocess.Popen] = {}
    try:
        # the processes meet at a store of this one; its port is free because it is open
        store = torch.distributed.TCPStore("127.0.0.1", port or 0, is_master=True, wait_for_workers=False)
        base = _environment(size, store.port)
        for rank in range(size):
            env = base | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # a session of its own: Ctrl-C reaches each process once, through this one
            running[rank] = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, start_new_session=True
            )
        return _code(_watch(running, asked), size, asked)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(running: dict[int, subprocess.Popen], asked: list[int]) -> dict[int, int | None]:
    """Wait for all processes, passing signals on; returns their exit codes, the first to end first.

    None stands for one that had to be killed because it outlived another's failure.
    """
    codes: dict[int, int | None] = {}
    passed_on = 0
    deadline = float("inf")
    while running:
        time.sleep(_POLL_S)
        for number in asked[passed_on:]:
            for process in running.values():
                process.send_signal(number)
            passed_on += 1
        for rank, process in list(running.items()):
            code = process.poll()
            if code is None and time.monotonic() > deadline:
                process.kill()
                process.wait()
            elif code is None:
                continue
            codes[rank] = code
            del running[rank]
            if code:
                deadline = min(deadline, time.monotonic() + _GRACE_S)
    return codes


def _code(codes: dict[int, int | None], size: int, asked: Sequence[int]) -> int:
    """Return the exit code of the run; says which process failed unless that process said why."""
    if not any(code != 0 for code in codes.values()):
        return 0
    own = {rank: code for rank, code in codes.items() if code not in (0, LOST, None)}
    silent = [rank for rank, code in codes.items() if code is None]
    again = "run the same command again: it goes on from the last checkpoint"
    if not own:
        who = f"rank {silent[0]} of {size} does not answer" if silent else f"the {size} ranks lost each other"
        say(f"RankError: {who}; all were stopped; {again}")
        return 2
    rank, code = next(iter(own.items()))
    assert code is not None
    if code >= 0:
        if code not in (2, 128 + signal.SIGTERM, 128 + signal.SIGINT):
            say(f"RankError: rank {rank} of {size} failed, see above; all were stopped; {again}")
        return code
    if -code in asked:
        say(f"stopped by signal {-code}; the same command goes on from here")
    else:
        name = signal.Signals(-code).name
        say(f"RankError: rank {rank} of {size} was killed by {name}; all were stopped; {again}")
    return 128 - code


def _environment(size: int, port: int) -> dict[str, str]:
    root = str(Path(hat.__file__).resolve().parents[1])
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join([root, env["PYTHONPATH"]] if env.get("PYTHONPATH") else [root])
    if sys.platform == "linux":
        env.setdefault("GLOO_SOCKET_IFNAME", "lo")  # host names need not resolve
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // size)))
    count = str(size)
    env |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, LAUNCHER: str(os.getpid())}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # as torchrun tells its processes that it holds the store
    return env | {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
