"""What the tests of evo_search.py share: a tiny search, a predictor of an invented device, the table."""

import csv
import functools
import random
from pathlib import Path

from hat.cli.settings import Settings, dataset_of, parse_settings, space_and_arch
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import row_of
from hat.space import SearchSpace, sample

TINY = ["--evo-iter=2", "--population-size=8", "--parent-size=4", "--mutation-size=2", "--crossover-size=2"]
FRONT = ["--pareto", "--pareto-population=6", "--pareto-children=4", "--pareto-screen=3"]


def settings_of(files: Path) -> Settings:
    argv = [f"--configs={files}/space.yml"]
    return parse_settings(argv, prog="x", description="", config_flags=("--configs",))[0]


def space_of(files: Path) -> SearchSpace:
    settings = settings_of(files)
    return space_and_arch(settings.space, settings.arch)[0]


def write_predictor(files: Path, device: str) -> Path:
    """Write a predictor of an invented device of that name, where decoder layers take 10 ms."""
    path = files / "latency.pt"
    vocab_size = dataset_of(settings_of(files).task).vocab_sizes[1]
    predictor_of(space_of(files), device, vocab_size).save(path)
    return path


@functools.cache
def predictor_of(space: SearchSpace, device: str, vocab_size: int) -> LatencyPredictor:
    rng = random.Random(0)
    conditions = {"device": device, "threads": "1", "dtype": "fp32", "beam": "2", "source_len": "4"}
    rows = []
    for _ in range(60):
        arch = sample(space, rng)
        ms = (5 + 10 * arch.decoder.num_layers + sum(arch.decoder.ffn_dims) / 16) * rng.uniform(0.97, 1.03)
        rows.append(
            row_of(arch, (2.0, 0.1), (ms, 0.1), conditions | {"vocab_size": vocab_size, "qkv_dim": "8"})
        )
    return LatencyPredictor.fit(rows)


def table_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "evaluations.csv", newline="") as file:
        return list(csv.DictReader(file))
