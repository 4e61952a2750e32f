"""The commands that write files, a tiny task for them to work in, and what holds of each at any time."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from archives import entry, tar
from forks import Result
from tiny_task import SPACE as TINY
from tiny_task import SUB, flat

from hat.cli.main import load as command
from hat.data.pairs import PairDataset
from hat.data.toy import write_toy
from hat.files.atomic import digest_matches
from hat.files.journal import Journal
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import TableWriter, read_table, row_of
from hat.log import info
from hat.space import SearchSpace, sample
from hat.train.checkpoint import Checkpoint, load, load_newest

SAVE_EVERY = 3
SPACE = TINY | {"data": "bin", "max-update": 10, "log-interval": 1, "save-interval-updates": SAVE_EVERY}
EVO = {"evo-iter": 4, "population-size": 8, "parent-size": 4, "mutation-size": 2, "crossover-size": 2}
EVO |= {
    "latency-constraint": 60,
    "restore-file": "start.pt",
    "ckpt-path": "predictor.pt",
    "search-dir": "run",
}
EVO |= {"write-config-path": "found.yml", "valid-cnt-max": 10}
Held = list[Any]  # one entry for each unit of work that is done


def records(run: Path) -> Held:
    with Journal(run / "journal.jsonl") as journal:
        return journal.records


def rows(run: Path) -> Held:
    with TableWriter(run / "rows.csv"):  # as the command does, it drops an unfinished row
        return read_table(run / "rows.csv") if (run / "rows.csv").stat().st_size else []


def updates(run: Path) -> Held:
    """Return the newest state, behind a place for each update before it."""
    newest = load_newest(run, info)
    return [None] * (newest.state["trainer"]["num_updates"] - 1) + [state_of(newest)] if newest else []


def state_of(checkpoint: Checkpoint) -> dict[str, object]:
    return leaves({"weights": checkpoint.weights, "trainer": checkpoint.state["trainer"]})


def predictions(run: Path) -> Held:
    space = SearchSpace.from_yaml(run.parent / "space.yml")
    return [LatencyPredictor.load(run / "predictor.pt").predict_many([space.largest(), space.smallest()])]


def pairs(run: Path) -> Held:
    data = PairDataset.load(run / "bin", "train", "en", "de")
    batch, vocabs = data.batch(range(len(data))), (data.source_vocab, data.target_vocab)
    symbols = [list(vocab) for vocab in vocabs]
    return [(batch.source.tolist(), batch.target.tolist(), symbols)]


def mean(run: Path) -> Held:
    return [{name: weight.tolist() for name, weight in load(run / "mean.pt").weights.items()}]


def content(run: Path) -> Held:
    return [
        path.read_bytes() for path in (run / "out.txt", run / "fetched.pt", run / "a" / "x") if path.exists()
    ]


@dataclass(frozen=True)
class Command:
    """What a user would type; the run folder is `run`, and `product` the file in it that counts."""

    line: str
    product: str
    read: Callable[[Path], Held]  # raises HatError if what is in the run folder is damaged
    first: str = ""  # an option of a run before, so that the next one has work to do
    inputs: tuple[str, ...] = ()

    def held(self, run: Path) -> Held:
        """Return what the run folder holds; whatever is there must be whole."""
        for path in run.rglob("*.sha256"):
            whole = path.with_suffix("")
            assert not whole.exists() or digest_matches(whole, whole.read_bytes()), f"{whole} is damaged"
        return self.read(run) if (run / self.product).exists() else []


LAST = "checkpoint_last.pt"
SUB_LINE = "train --configs=sub.yml --sub-configs=space.yml --save-dir=run --train-subtransformer"
COLLECT = "latency-dataset --configs=space.yml --lat-dataset-path=run/rows.csv --lat-dataset-size=6 --latcpu"
SEARCH = "evo-search --configs=space.yml --evo-configs=evo.yml --no-measure"
FRONT = f"{SEARCH} --pareto --pareto-evaluations=10 --pareto-population=5 --pareto-children=3"
PREDICT = "latency-predictor --lat-dataset-path=rows.csv --ckpt-path=run/predictor.pt --hidden-dim=10"
TEXTS = "preprocess --source-lang=en --target-lang=de --joined-dictionary --trainpref=train --validpref=valid"
GENERATE = (
    "generate --configs=space.yml --path=start.pt --gen-subset=valid --results-path=run/out.txt --beam=1"
)
COMMANDS = {
    "super": Command(
        "train --configs=space.yml --save-dir=run",
        *(LAST, updates, "--max-update=4", ("space.yml", "train.en-de.en.idx", LAST)),
    ),
    "sub": Command(SUB_LINE, LAST, updates, "--max-update=4", ("sub.yml", f"{LAST}.sha256")),
    "collect": Command(
        f"{COLLECT} --profile-length=4 --lat-beam=2",
        *("rows.csv", rows, "--lat-dataset-size=3", ("rows.csv", "dict.de.txt")),
    ),
    "search": Command(SEARCH, "journal.jsonl", records, "--evo-iter=2", ("start.pt", "journal.jsonl")),
    "front": Command(
        f"{FRONT} --latency-constraints 45 60", *("journal.jsonl", records, "", ("evo.yml", "predictor.pt"))
    ),
    "predict": Command(
        f"{PREDICT} --hidden-layer-num=0 --train-steps=20", "predictor.pt", predictions, "", ("rows.csv",)
    ),
    "preprocess": Command(f"{TEXTS} --destdir=run/bin", "bin", pairs, "", ("train.en", "valid.de")),
    "average": Command(
        "average --output=run/mean.pt --inputs start.pt start.pt", "mean.pt", mean, "", ("start.pt",)
    ),
    "generate": Command(
        f"{GENERATE} --results-path=run/out.txt",
        "out.txt",
        content,
        "",
        ("dict.en.txt", "valid.en-de.en.idx"),
    ),
    "fetch": Command("fetch --url=SITE --to=run/fetched.pt", "fetched.pt", content),
    "unpack": Command("fetch --to=texts.tar --unpack=run --members a/x", "a/x", content, "", ("texts.tar",)),
}


class Whole(NamedTuple):
    """A command that nothing interrupted: its working folder before and after, and its calls."""

    start: Path
    end: Path
    calls: list[str]


Run = Callable[..., Result]  # of a command of the table in a folder, with a fault if any
Made = Callable[..., Whole]
LONG = ("super", "sub", "collect", "search", "front")  # go on where they ended
TRAINING = ("super", "sub")


def make(folder: Path) -> Path:
    """Write data, configurations, a predictor and its table into `folder`."""
    write_toy(folder, 1, 120, 20, 0)
    texts = TEXTS.replace("pref=", f"pref={folder}/").split()[1:]
    assert command("preprocess")([*texts, "--thresholdsrc=2", f"--destdir={folder / 'bin'}"]) == 0
    for name, values in (("space", SPACE), ("sub", SUB), ("evo", EVO)):
        (folder / f"{name}.yml").write_text(yaml.safe_dump(values))
    (folder / "texts.tar").write_bytes(tar(entry("a/x", bytes(200_000))))
    space, rng = SearchSpace.from_yaml(folder / "space.yml"), random.Random(1)
    with TableWriter(folder / "rows.csv") as table:
        for arch in dict.fromkeys(sample(space, rng) for _ in range(60)):
            ms = 10 + 20 * arch.decoder.num_layers + sum(arch.encoder.ffn_dims) / 8
            table.append(row_of(arch, (5.0, 0.1), (ms - 5, 0.1), {"device": "invented"}))
    LatencyPredictor.fit(read_table(folder / "rows.csv")).save(folder / "predictor.pt")
    return folder


def copy_of(place: Path, folder: Path) -> Path:
    """Return a fresh copy of a working folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place, folder, ignore=shutil.ignore_patterns("*.lock"))
    return folder


def assert_refused(done: Result, *words: str) -> None:
    """One clear error and exit code 2."""
    lines = [line for line in done.err.splitlines() if "Error: " in line]
    assert done.code == 2 and len(lines) == 1 and "Traceback" not in done.err, (done.code, done.err)
    assert all(word in done.err for word in words), done.err


def log(run: Path) -> list[dict]:
    """Return what the log tells of each update; the line that a kill cut off does not count."""
    path = run / "log.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [entry for entry in map(json.loads, lines) if entry["kind"] == "train"]


def leaves(value: object) -> dict[str, object]:
    """Return the entries of nested state that two equal runs have in common."""
    found = {key: part for key, part in flat(value).items() if not key.endswith("train_s")}
    return {key: part.tolist() if isinstance(part, torch.Tensor) else part for key, part in found.items()}


# what tells of locks, clocks and versions, or is left of a kill
UNLIKE = (".sha256", ".lock", ".unfinished", ".part.from", "run.json", "log.jsonl")


def products(work: Path) -> dict[str, Any]:
    """Return all that a run has made, without what depends on the clock."""
    run = work / "run"
    found: dict[str, Any] = {f"loss {line['update']}": line["loss_base2"] for line in log(run)}
    for path in [*run.rglob("*"), *work.glob("found*.yml")]:
        name = str(path.relative_to(work))
        if path.suffix == ".pt" and "fetched" not in name:
            found[name] = leaves(torch.load(path, weights_only=True))
        elif path.name == "summary.json":
            found[name] = json.loads(path.read_text()) | {"seconds": None}
        elif path.name == "config.json":  # of a bundle; the checkpoint that it names holds seconds
            held = json.loads(path.read_text())
            found[name] = held | {"facts": held["facts"] | {"sha256": None}}
        elif path.is_file() and not name.endswith(UNLIKE):
            found[name] = path.read_bytes()
    return found
