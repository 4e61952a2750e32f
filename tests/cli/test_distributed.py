"""Several processes of train.py, started by themselves and by torchrun, whole and broken."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training import ROOT, argv_of, log_of, updates

from hat.cli.interrupt import Interrupt
from hat.cli.settings import DeviceOptions, processes, rank_device
from hat.cli.train import main
from hat.cli.translate import generate
from hat.errors import ConfigError
from hat.train.distributed import LOST, ProcessGroup, _exit_code

DOCS = (ROOT / "docs" / "distributed.md").read_text("utf-8")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def documented(start: str) -> list[str]:
    """Return the words of the one command in the docs that starts so, without its --configs."""
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)).split("\n")
    (line,) = [line for line in lines if line.startswith(start)]
    return [word for word in shlex.split(line) if not word.startswith(("--configs", "--evo-configs"))]


def start(words: list[str], **env: str) -> subprocess.Popen:
    """Start a command of the docs; VAR=value words in front of it go to its environment."""
    words = list(words)
    while "=" in words[0]:
        name, _, env[name] = words.pop(0).partition("=")
    program = {"python": [sys.executable], "torchrun": TORCHRUN}[words[0]]
    settled = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"} | env
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*program, *words[1:]], cwd=ROOT, env=settled, stdout=pipe, stderr=pipe, text=True
    )


def finish(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    """Wait for a command; returns what it printed and said."""
    out, error = process.communicate(timeout=300)
    assert process.returncode == code, (out[-1000:], error[-3000:])
    return out, error


def small(words: list[str], processes: int = 2) -> list[str]:
    """Return a command of the docs with fewer processes per machine, on CPUs."""
    return [re.sub(r"^(--nproc-per-node)=.*", rf"\1={processes}", word) for word in words]


def losses(folder: Path) -> list[float]:
    return [record["loss_base2"] for record in log_of(folder, "train")]


def test_two_processes_equal_one_and_each_goes_on_from_the_other(files: Path) -> None:
    """In one run folder: two processes until a signal ends them, then one, then two of torchrun.

    tests/faults/test_many_processes.py looks for processes that are left.
    """
    more = ["--log-interval=1", "--save-interval=1000", "--validate-interval=1000"]
    argv = argv_of(files, "run", *more)
    endless = ["--max-update=1000000", "--save-interval-updates=5", "--cpu"]
    process = start([*documented("python train.py --configs=configs/toy"), *argv, *endless])
    deadline = time.monotonic() + 300
    while not (files / "run" / "checkpoint_last.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = finish(process, code=143)
    assert error.count("stopped by signal 15 and saved") == 1
    assert "Error" not in error and "Traceback" not in error
    assert "in 2 processes" in error and error.count("update 5/") == 1, "one of them speaks"
    done = updates(files, "run")
    assert done >= 5
    assert main([*argv, "--update-freq=2", f"--max-update={done + 6}"]) == 0
    torchrun = small(documented("torchrun --nproc-per-node"))
    out, error = finish(start([*torchrun, *argv, f"--max-update={done + 9}", "--json"]))
    assert "resumed" in error and f"at update {done + 6}" in error
    assert out.count("parameters") <= 2 and out.count(f"trained {done + 9} updates") == 1
    assert json.loads(out.splitlines()[-1])["training"]["updates"] == done + 9
    assert main(argv_of(files, "whole", *more, "--update-freq=2", f"--max-update={done + 9}")) == 0
    one, other = losses(files / "whole"), losses(files / "run")
    assert len(one) == len(other) == done + 9
    assert other == pytest.approx(one, abs=1e-5) and one[-1] < one[0]
    whole, theirs = (log_of(files / name, "valid")[-1]["mean_loss_base2"] for name in ("whole", "run"))
    assert theirs == pytest.approx(whole, abs=1e-5)


@pytest.mark.slow
def test_two_machines(files: Path) -> None:
    """Two launchers of torchrun on this one; only the first machine has the run's folder."""
    words = small(documented("torchrun --nnodes"), processes=1)
    words = [word.replace("first-machine:29500", f"127.0.0.1:{_free_port()}") for word in words]
    more = ["--max-update=4", "--update-freq=1", "--log-interval=1", "--cpu"]
    assert main(argv_of(files, "one", *more, "--update-freq=2")) == 0
    machines = [start([*words, *argv_of(files, name, *more)]) for name in ("first", "second")]
    for machine in machines:
        finish(machine)
    written = [name for name in ("first", "second") if (files / name).exists()]
    assert len(written) == 1
    assert losses(files / written[0]) == pytest.approx(losses(files / "one"), abs=1e-5)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_an_error_of_the_input_is_said_once(files: Path) -> None:
    words = documented("python train.py --configs=configs/toy")
    _, error = finish(start([*words, *argv_of(files, "run", "--restore-file=/no/such.pt")]), code=2)
    assert error.count("Error: ") == 1 and "/no/such.pt does not exist" in error
    assert not (files / "run").exists()


def test_translations_are_made_by_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert generate(["--path=checkpoint_best.pt"]) == 2
    assert "made by one process, 2 were started; start it alone" in capsys.readouterr().err


def test_a_signal_passed_on_by_a_launcher_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("hat.cli.interrupt.time.monotonic", lambda: now)
    with Interrupt() as interrupt:
        assert interrupt.asked is None
        os.kill(os.getpid(), signal.SIGINT)
        now += 0.5
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.asked == signal.SIGINT
        now += 0.6
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_how_many_processes_a_machine_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert documented("CUDA_VISIBLE_DEVICES=0,1,2,3 python train.py")[3:] == ["--update-freq=32"]
    assert documented("python train.py --configs=configs/wmt14")[2:] == []
    gpus(monkeypatch, 4)
    assert processes(DeviceOptions()) == 4, "one for each GPU, as the release"
    assert processes(DeviceOptions(distributed_world_size=2)) == 2
    assert processes(DeviceOptions(gpu=0)) == processes(DeviceOptions(cpu=True)) == 1
    for asked, gpu, message in (
        (5, None, "5: this machine has 4 GPUs; give"),
        (2, 1, "2: --gpu 1 names one GPU"),
    ):
        with pytest.raises(ConfigError, match=f"--distributed-world-size {message}"):
            processes(DeviceOptions(gpu=gpu, distributed_world_size=asked))
    gpus(monkeypatch, 0)
    assert [processes(DeviceOptions(distributed_world_size=asked)) for asked in (None, 3)] == [1, 3]
    for wrong in ({"distributed_world_size": 0}, {"distributed_port": 70000}):
        with pytest.raises(ConfigError, match="must be at least 1 and"):
            DeviceOptions(**wrong)


def test_the_gpu_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    place, cuda = ProcessGroup(7, 8, 3, 4), torch.device("cuda", 3)
    gpus(monkeypatch, 4)
    assert rank_device(DeviceOptions(), None) == torch.device("cuda", 0)
    assert rank_device(DeviceOptions(gpu=3), None) == cuda
    assert rank_device(DeviceOptions(gpu=3), ProcessGroup()) == cuda
    assert rank_device(DeviceOptions(), place) == cuda
    assert rank_device(DeviceOptions(cpu=True), place) == torch.device("cpu")
    with pytest.raises(ConfigError, match="4 processes here, but --gpu 2 names one GPU"):
        rank_device(DeviceOptions(gpu=2), place)
    with pytest.raises(ConfigError, match="8 processes here, but this machine has 4 GPUs"):
        rank_device(DeviceOptions(), ProcessGroup(7, 8, 7, 8))
    gpus(monkeypatch, 1)  # each process sees its own GPU only
    assert rank_device(DeviceOptions(), place) == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("codes", "code", "said"),
    [
        ({1: LOST, 0: -9}, 137, "rank 0 of 2 was killed by SIGKILL"),
        ({1: 2, 0: LOST}, 2, ""),  # it said why
        ({1: 1, 0: LOST}, 1, "rank 1 of 2 failed, see above"),
        ({0: LOST, 1: LOST}, 2, "the 2 ranks lost each other"),
        ({0: 143, 1: 143}, 143, ""),
    ],
)
def test_the_exit_code_of_all(codes: dict, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(codes, 2) == code
    error = capsys.readouterr().err
    assert said in error and bool(error) == bool(said)
