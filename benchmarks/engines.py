"""Models in every engine and number format: equal sentences, BLEU, megabytes, milliseconds."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import hat
from benchmarks.process import info
from benchmarks.timing import describe_machine

CASES = (("torch", "fp32"), ("torch", "bf16"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"))
CASES += (("ctranslate2", "fp32"), ("ctranslate2", "bf16"), ("ctranslate2", "int8"))
FILES = (".safetensors", ".onnx", ".bin")  # of a model; dictionaries are left out
HEAD = ("model", "M parameters", "engine", "format", "equal sentences", "BLEU", "MB", "ms", "+- ms")


@dataclass(frozen=True)
class EnginesOptions(hat.Options):
    """Engines"""

    models: tuple[str, ...] = hat.option(role="free")
    """bundles, or checkpoints of one architecture whose dictionaries are known"""
    source: str = "../shared/data/multi30k/test_2016_flickr.en"
    """text to translate; empty: only take the time"""
    reference: str = "../shared/data/multi30k/test_2016_flickr.de"
    """its translation"""
    tokens: int = hat.option(17, low=1)
    """length of the timed sentence and of its translation"""
    threads: int = hat.option(1, low=1)
    """CPU threads"""
    budget: float = hat.option(60.0, low=0)
    """seconds of timing, all cases in turns; 0: only translate"""


def study(argv: Sequence[str]) -> int:
    """Print a table in Markdown."""
    about = {"prog": "python -m benchmarks engines", "description": __doc__}
    (options,) = hat.parse(argv, EnginesOptions, **about)
    torch.set_num_threads(options.threads)
    hat.keep_pages()
    rows = [row for path in options.models for row in cases_of(Path(path), options)]
    if options.budget:
        measured = [row for row in rows if "network" in row]
        cfg = hat.MeasureConfig(options.tokens, options.tokens, row_budget_s=options.budget / len(measured))
        each = [replace(cfg, runtime=row["engine"], dtype=row["format"]) for row in measured]
        works = [hat.workload(row["network"], one) for row, one in zip(measured, each, strict=True)]
        timings = hat.time_in_turn(works, cfg, {}, hat.sync_of(torch.device("cpu")))
        for row, timing in zip(measured, timings, strict=True):
            row |= {"ms": f"{timing.total_ms:.2f}", "+- ms": f"{timing.interval_ms:.2f}"}
    for cells in (HEAD, ["---"] * len(HEAD), *([str(row.get(key, "")) for key in HEAD] for row in rows)):
        print(f"| {' | '.join(cells)} |")
    print(f"\n{describe_machine(threads=options.threads)}")
    return 0


def cases_of(path: Path, options: EnginesOptions) -> list[dict[str, Any]]:
    """Return a row for each engine and format; one that cannot be says why."""
    model, rows, exact = hat.load(path), list[dict[str, Any]](), list[str]()
    files = (options.source, options.reference) if options.source else ()
    texts = [Path(name).read_text("utf-8").splitlines() for name in files]
    for runtime, precision in CASES:
        to = "onnx" if runtime == "onnxruntime" else runtime.replace("torch", "safetensors")
        size = f"{hat.count_params(model.arch, model.space) / 1e6:.2f}"
        rows.append(dict(zip(HEAD, (path.name, size, runtime, precision), strict=False)))
        try:
            search = hat.engine(model, runtime, precision, options.threads)
            with tempfile.TemporaryDirectory() as folder:
                made = hat.export(model, folder, to, precision).iterdir()
                rows[-1]["MB"] = f"{sum(f.stat().st_size for f in made if f.suffix in FILES) / 1e6:.2f}"
        except hat.ConfigError as error:
            rows[-1]["BLEU"] = str(error)
            continue
        rows[-1]["network"] = model.network
        if texts:
            info(f"{path.name} by {runtime} in {precision} ...")
            found = model.translate(texts[0], batch_size=128, engine=search)
            exact = exact or found
            rows[-1]["equal sentences"] = f"{100 * sum(map(str.__eq__, found, exact)) / len(found):.1f}%"
            rows[-1]["BLEU"] = f"{hat.bleu(found, texts[1], 'sacre', model.codec.languages[1]).bleu:.2f}"
    return rows
