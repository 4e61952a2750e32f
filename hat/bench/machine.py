"""The machine and the versions a figure was taken with."""

import datetime
import importlib.metadata
import os
from dataclasses import dataclass

import torch

from hat.bench.device import CPU
from hat.model.cpu import device_name


@dataclass(frozen=True)
class Machine:
    """What must stand beside a figure for anyone to compare with it."""

    cpu: str
    cores: int  # this process may run on
    threads: int
    load: float  # mean number of busy processes over the last minute, at the start
    torch: str
    ctranslate2: str  # "" where it is not installed
    date: str  # ISO, UTC
    gpu: str = ""  # "" where the figure is of the CPU, as the two below
    cuda: str = ""  # of this build of PyTorch
    driver: str = ""  # the newest CUDA it serves

    def text(self) -> str:
        """Return one line."""
        peer = f", ctranslate2 {self.ctranslate2}" if self.ctranslate2 else ""
        device = f"{self.gpu}, CUDA {self.cuda}, driver for CUDA {self.driver}, " if self.gpu else ""
        return (
            f"{device}{self.cpu}, {self.cores} cores, {self.threads} threads, load {self.load:.1f}, torch "
            f"{self.torch}{peer}, {self.date}"
        )


def describe_machine(device: torch.device = CPU) -> Machine:
    """Return this machine as it is now; its GPU where the figure is taken on that."""
    try:
        peer = importlib.metadata.version("ctranslate2")
    except importlib.metadata.PackageNotFoundError:
        peer = ""
    return Machine(
        cpu=device_name(torch.device("cpu")),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2),
        torch=torch.__version__,
        ctranslate2=peer,
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ"),
        **({} if device.type == "cpu" else _gpu_facts(device)),
    )


def _gpu_facts(device: torch.device) -> dict[str, str]:
    """Return GPU, CUDA version and the newest one the driver serves; PyTorch does not know its own number."""
    asked = getattr(torch._C, "_cuda_getDriverVersion", None)  # not documented, so it may go
    served = asked() if asked else 0  # 12040 is 12.4
    return {
        "gpu": device_name(device),
        "cuda": torch.version.cuda or "unknown",
        "driver": f"{served // 1000}.{served % 1000 // 10}" if served else "unknown",
    }
