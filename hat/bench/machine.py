"""The machine and the versions a figure was taken with."""

import datetime
import importlib.metadata
import os
from dataclasses import dataclass

import torch

from hat.model.precision import device_name


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

    def text(self) -> str:
        """Return one line."""
        peer = f", ctranslate2 {self.ctranslate2}" if self.ctranslate2 else ""
        return (
            f"{self.cpu}, {self.cores} cores, {self.threads} threads, load {self.load:.1f}, torch "
            f"{self.torch}{peer}, {self.date}"
        )


def describe_machine() -> Machine:
    """Return this machine as it is now."""
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
    )
