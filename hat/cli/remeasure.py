"""Measure architectures again in a fresh process, under the conditions a predictor was trained for."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

import hat
from hat.cli.options import command
from hat.cli.settings import Settings, parse_settings
from hat.cli.task import device_of, space_and_arch, vocabulary
from hat.config import to_yaml_values
from hat.errors import ConfigError, HatError
from hat.latency.measure import measure
from hat.latency.work import MeasureConfig
from hat.model.extract import extract
from hat.model.precision import choose_dtype
from hat.model.transformer import SuperTransformer
from hat.space import Arch

_FLAGS = {
    "threads": "threads",
    "dtype": "lat-amp",
    "vocab_size": "vocab-size",
    "beam": "lat-beam",
    "source_len": "profile-length",
}
_RUN = "import sys; from hat.cli.remeasure import main; sys.exit(main())"


def condition_flags(conditions: Mapping[str, str]) -> list[str]:
    """Return the flags of train.py that measure under the conditions of a latency dataset."""
    return [f"--{flag}={conditions[name]}" for name, flag in _FLAGS.items() if name in conditions]


def remeasure(
    archs: Sequence[Arch], settings: Settings, conditions: Mapping[str, str], *, gpu: bool
) -> Iterator[dict[str, Any]]:
    """Yield {total, encoder, decoder, conditions} of each architecture, in ms, as soon as it is measured: one
    after the other in a process of their own.

    The process reads `settings` as they are resolved here. `conditions` are those of a latency dataset:
    threads, dtype, vocab_size, beam and source_len. Raises HatError where the process fails, with what it
    said.
    """
    values = to_yaml_values(*settings._replace(profile=replace(settings.profile, latcpu=False, latgpu=False)))
    values.pop("configs", None)  # all that stands in it is resolved
    root = str(Path(hat.__file__).resolve().parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    pipe = subprocess.PIPE
    with (
        tempfile.NamedTemporaryFile("w", suffix=".yml") as resolved,
        tempfile.TemporaryFile("w+") as errors,
    ):
        yaml.safe_dump(values, resolved)
        resolved.flush()
        line = [sys.executable, "-c", _RUN, f"--configs={resolved.name}", "--latgpu" if gpu else "--latcpu"]
        line += condition_flags(conditions)
        process = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=env)
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError), process.stdin as wanted:  # of a process that failed at once
                json.dump([arch.to_yaml() for arch in archs], wanted)
            for text in process.stdout:
                yield json.loads(text)
            code = process.wait()
        finally:
            process.kill()  # where the caller has left; one that has ended is not met
            process.stdout.close()
            process.wait()
        errors.seek(0)
        said = errors.read().strip().splitlines()[-1:]
    if code:
        raise HatError(
            f"measuring {len(archs)} architectures again failed: {said}; what was measured before is kept: "
            "run again to go on, or give --no-measure"
        )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure the architectures on standard input, a JSON list; print one JSON line for each."""
    (settings,) = parse_settings(
        argv,
        prog="remeasure",
        description="Measure architectures given on standard input.",
        config_flags=("--configs",),
    )
    prof = settings.profile
    if prof.latgpu and not torch.cuda.is_available():
        raise ConfigError("--latgpu: this machine has no GPU that PyTorch can use; give --latcpu")
    space, _ = space_and_arch(settings.space, settings.arch)
    archs = [space.check(Arch.from_yaml(values)) for values in json.load(sys.stdin)]
    host = device_of(settings.device)  # fixes the threads
    device = host if prof.latgpu else torch.device("cpu")
    sizes = vocabulary(settings.task, profiling=True).sizes
    noise = torch.Generator().manual_seed(settings.device.seed)
    full = SuperTransformer(space, sizes, settings.model, noise).to(choose_dtype(prof.lat_amp, device))
    length = settings.task.sentence_length()
    cfg = MeasureConfig(
        length, length, prof.lat_beam, prof.latiter, min_iterations=21, interval_percent=prof.lat_interval
    )
    for arch in archs:
        timing = measure(extract(full, arch).to(device).eval(), cfg)
        parts = {"encoder": timing.encoder.median_ms, "decoder": timing.decoder.median_ms}
        print(json.dumps({"total": timing.total_ms, **parts, "conditions": timing.conditions}), flush=True)
    return 0
