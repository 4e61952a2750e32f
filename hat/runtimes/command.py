"""A program of the user's as a runtime: it is given a bundle and prints milliseconds, so any device is one.

docs/deploy.md says what the program is told.
"""

import math
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from hat.decode.beam import BeamConfig, Hypothesis
from hat.decode.translator import Model
from hat.errors import ConfigError, HatError, brief
from hat.runtimes import Precision
from hat.runtimes.bundle import save_bundle
from hat.runtimes.engines import Mark, Runtime


class Command(Runtime):
    """Starts `command` with the path of a bundle behind its words; each start may take `limit_s` seconds.

    Raises ConfigError if the words of the command cannot be told apart, or there are none.
    """

    precisions = ("auto", "fp32", "fp16", "bf16", "int8")

    def __init__(self, command: str = "", limit_s: float = 60.0) -> None:
        self._limit_s = limit_s
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"--lat-command {command!r} is no command line: {error}") from error
        if not self._words:
            what = "the program that is given a bundle and prints milliseconds"
            raise ConfigError(f"--runtime command needs --lat-command: {what}; see docs/deploy.md")

    def prepare(self, model: Model, precision: Precision, threads: int) -> "Engine":
        return Engine(model, self._words, {"precision": precision, "threads": threads}, self._limit_s)


class Engine:
    """Measures by the program; its bundle is written for the first search and goes with the engine."""

    device = torch.device("cpu")

    def __init__(self, model: Model, words: Sequence[str], facts: dict[str, object], limit_s: float) -> None:
        self.cfg, self._model = model.network.cfg, model
        self._words, self._facts, self._limit_s = words, facts, limit_s
        self._place = tempfile.TemporaryDirectory(prefix="hat-")

    def __call__(self, source_BS: Tensor, cfg: BeamConfig) -> list[list[Hypothesis]]:
        """Raise ConfigError: a program that measures gives no translation."""
        raise ConfigError("the runtime command only measures; translate with another --runtime")

    def timed(self, source_BS: Tensor, cfg: BeamConfig, mark: Mark) -> list[float]:
        """Return the milliseconds that the program prints: one or more numbers, each a repeat.

        Raises HatError if it cannot be started, fails, does not end, or prints anything else.
        """
        bundle = Path(self._place.name) / "bundle"
        told = {"beam": cfg.beam, "source_len": source_BS.size(1), "target_len": cfg.max_len_b + 1}
        told |= self._facts
        if not bundle.exists():
            save_bundle(self._model, bundle, {"measure": told})
        shown = f"the program of --lat-command, {shlex.join(self._words)!r},"
        out, code = self._run([*self._words, str(bundle)], told, shown)
        try:
            found = [float(word) for word in out.split()]
        except ValueError:
            found = []
        if code or not found or not all(0 < ms < math.inf for ms in found):
            why = f"failed with exit code {code}" if code else f"printed {brief(out.strip()) or 'nothing'}"
            how = "it must print the milliseconds of one or more searches, and nothing else"
            raise HatError(f"{shown} {why}; {how}; try it by hand with the folder of a bundle")
        return found

    def _run(self, words: Sequence[str], told: dict[str, object], shown: str) -> tuple[str, int]:
        """Return what the program prints, and its exit code; whatever happens, it has ended by then."""
        env = os.environ | {f"HAT_{name.upper()}": str(value) for name, value in told.items()}
        none, pipe = subprocess.DEVNULL, subprocess.PIPE
        try:  # a session of its own, so that what it starts ends with it; its standard error is ours
            process = subprocess.Popen(
                words, env=env, stdin=none, stdout=pipe, text=True, errors="replace", start_new_session=True
            )
        except OSError as error:
            raise HatError(f"{shown} cannot be started: {error.strerror}; check the path") from error
        try:
            return process.communicate(timeout=self._limit_s)[0], process.returncode
        except BaseException as error:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                late = f"did not end within {self._limit_s:g} s; raise --lat-row-budget if it takes so long"
                raise HatError(f"{shown} {late}") from error
            raise
