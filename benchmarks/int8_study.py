"""Does a search for an engine in 8 bits find a better front by scoring in 8 bits?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import hat
from benchmarks.data import scoring_batches
from benchmarks.process import info

CPU = torch.device("cpu")


@dataclass(frozen=True)
class StudyOptions(hat.Options):
    """Study"""

    restore_file: str | None = None
    """checkpoint of the SuperTransformer"""
    data: str | None = None
    """binary data, whose validation pairs are scored"""
    int8_predictor: str | None = None
    """latency predictor of a table in 8 bits"""
    float_predictor: str | None = None
    """latency predictor of a table in floats, of the same device"""
    evaluations: int = hat.option(50, low=2)
    """architectures that each search scores"""
    seeds: tuple[int, ...] = (1, 2)
    """searches of each kind"""
    valid_cnt_max: int = hat.option(1014, low=1)
    """validation pairs that a loss is computed on"""
    out_dir: str = "runs/int8_study"
    """folder of the searches; an interrupted study goes on from it"""
    budget: bool = False
    """print how long it takes on this machine, and stop"""


@hat.command
def study(argv: Sequence[str] | None = None) -> int:
    """Print the hypervolumes of both kinds of search as the engine in 8 bits sees them."""
    (options,) = hat.parse(
        argv,
        StudyOptions,
        prog="python -m benchmarks int8-study",
        description="Compare the front of a search in 8 bits with that of one in floats that is rounded.",
    )
    needed = ("restore_file", "data", "int8_predictor", "float_predictor")
    if missing := [f"--{name.replace('_', '-')}" for name in needed if not getattr(options, name)]:
        raise hat.ConfigError(f"{', '.join(missing)} needed; see --help")
    files = {"int8": str(options.int8_predictor), "float": str(options.float_predictor)}
    predictors = {kind: hat.LatencyPredictor.load(file) for kind, file in files.items()}
    runtime = predictors["int8"].conditions["runtime"]
    model, dataset = hat.load(str(options.restore_file)), hat.Dataset.load(str(options.data))
    model.network.to(hat.fast_dtype(CPU))
    sizes = {"pareto_population": max(2, options.evaluations // 5)}
    sizes |= {"pareto_children": max(1, options.evaluations // 10), "pareto_evaluations": options.evaluations}
    config = hat.SearchConfig(pareto=True, valid_cnt_max=options.valid_cnt_max, **sizes)
    batches = scoring_batches(dataset.split("valid"), options.valid_cnt_max)
    fitness = hat.ValidationFitness(model.network, batches, config.label_smoothing, CPU, int8_of=runtime)
    start = time.perf_counter()
    fitness([hat.sample(model.space, hat.rng_for(1, "int8 study"))])
    each_s = time.perf_counter() - start
    total = 2 * len(options.seeds) * options.evaluations
    info(f"{total} evaluations, at most {total * each_s / 60:.1f} min, less what --out-dir holds")
    if options.budget:
        return 0

    fronts: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for seed in options.seeds:
        for kind, predictor in predictors.items():
            how = {"config": config, "seed": seed, "measure": False}
            how["out"] = Path(options.out_dir) / f"{kind}_{seed}"
            result = hat.search(model, dataset, predictor, **how)  # in the format of its predictor
            front = [each.arch for each in result.front]
            losses = [each.loss for each in result.front] if kind == "int8" else fitness(front)
            milliseconds = predictors["int8"].predict_many(front)
            fronts[kind, seed] = list(zip(losses, milliseconds, strict=True))
    reference = tuple(map(max, zip(*(point for front in fronts.values() for point in front), strict=True)))
    rows = {key: hat.growth(front, reference)[-1] for key, front in fronts.items()}
    print(f"{'seed':>4}{'search in':>11}{'front':>7}{'hypervolume':>13}{'best loss':>11}{'fastest':>9}")
    for (kind, seed), volume in rows.items():
        losses, times = zip(*fronts[kind, seed], strict=True)
        print(f"{seed:>4}{kind:>11}{len(losses):>7}{volume:>13.5f}{min(losses):>11.4f}{min(times):>9.2f}")
    print(f"reference: loss {reference[0]:.4f}, {reference[1]:.2f} ms of {runtime} in 8 bits")
    return 0
