"""A tiny task with everything the writing commands need, made once; commands run in copies of it."""

import json
import random
import shutil
from pathlib import Path

import yaml
from tiny_task import SPACE as TINY
from tiny_task import SUB

from hat.cli.main import load as command
from hat.data.toy import write_toy
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import TableWriter, row_of
from hat.space import SearchSpace, sample
from hat.train.checkpoint import Checkpoint, load

SAVE_EVERY = 3
SPACE = TINY | {"data": "bin", "max-update": 10, "log-interval": 1, "save-interval-updates": SAVE_EVERY}
EVO = {
    "evo-iter": 4,
    "population-size": 8,
    "parent-size": 4,
    "mutation-size": 2,
    "crossover-size": 2,
    "latency-constraint": 60,
    "restore-file": "start.pt",
    "ckpt-path": "predictor.pt",
    "write-config-path": "found.yml",
    "search-dir": "run",
    "valid-cnt-max": 10,
}
ARGV = {  # what a user would type; the run folder is `run`
    "super": ("train", ["--configs=space.yml", "--save-dir=run"]),
    "sub": (
        "train",
        ["--configs=sub.yml", "--sub-configs=space.yml", "--save-dir=run", "--train-subtransformer"],
    ),
    "collect": (
        "latency-dataset",
        ["--configs=space.yml", "--lat-dataset-path=run/rows.csv", "--lat-dataset-size=6", "--latcpu"]
        + ["--latiter=7", "--profile-length=4", "--lat-beam=2"],
    ),
    "predict": (
        "latency-predictor",
        ["--lat-dataset-path=rows.csv", "--ckpt-path=run/predictor.pt", "--hidden-dim=10"]
        + ["--hidden-layer-num=0", "--train-steps=20"],
    ),
    "search": ("evo-search", ["--configs=space.yml", "--evo-configs=evo.yml", "--no-measure"]),
    "preprocess": (
        "preprocess",
        ["--source-lang=en", "--target-lang=de", "--joined-dictionary", "--trainpref=train"]
        + ["--validpref=valid", "--destdir=run/bin"],
    ),
    "generate": (
        "generate",
        ["--configs=space.yml", "--path=start.pt", "--gen-subset=valid", "--results-path=run/out.txt"],
    ),
    "average": ("average", ["--inputs", "start.pt", "start.pt", "--output=run/mean.pt"]),
}


def make(folder: Path) -> Path:
    """Write data, configurations, a trained start, a predictor and its table into `folder`."""
    write_toy(folder, 1, 120, 20, 0)
    pairs = ["--source-lang", "en", "--target-lang", "de", "--joined-dictionary", "--thresholdsrc", "2"]
    pairs += ["--trainpref", str(folder / "train"), "--validpref", str(folder / "valid")]
    assert command("preprocess")([*pairs, "--destdir", str(folder / "bin")]) == 0
    for name, values in (("space", SPACE), ("sub", SUB), ("evo", EVO)):
        (folder / f"{name}.yml").write_text(yaml.safe_dump(values))
    space = space_of(folder)
    rng = random.Random(1)
    with TableWriter(folder / "rows.csv") as table:
        for arch in dict.fromkeys(sample(space, rng) for _ in range(60)):
            ms = 10 + 20 * arch.decoder.num_layers + sum(arch.encoder.ffn_dims) / 8
            table.append(row_of(arch, (5.0, 0.1), (ms - 5, 0.1), {"device": "invented"}))
        LatencyPredictor.fit(table.records).save(folder / "predictor.pt")
    return folder


def space_of(folder: Path) -> SearchSpace:
    """Return the search space of the task."""
    return SearchSpace.from_yaml(folder / "space.yml")


def copy_of(place: Path, folder: Path) -> Path:
    """Return a fresh copy of the task, without its run folder and text."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place, folder, ignore=shutil.ignore_patterns("run", "*.lock"))
    return folder


def last_update(run: Path) -> int:
    """Return the last update that the log of a run tells of; the line a kill cut off does not count."""
    log = run / "log.jsonl"
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    updates = [entry["update"] for entry in map(json.loads, lines) if entry["kind"] == "train"]
    return max(updates, default=0)


def losses(run: Path) -> dict[int, float]:
    """Return the loss of each update; an update that was made again must have had the same."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().split("\n")[:-1]]
    found: dict[int, float] = {}
    for entry in entries:
        if entry["kind"] == "train":
            assert found.setdefault(entry["update"], entry["loss_base2"]) == entry["loss_base2"]
    return found


def checkpoints(run: Path) -> list[Checkpoint]:
    """Return all checkpoints of a run; each must be readable."""
    return [load(path) for path in sorted(run.glob("*.pt"))]
