"""HAT: Hardware-Aware Transformers for machine translation. The names below load on first use, so a command
that only lists things never imports torch. docs/library.md shows the main ones.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.2.0"

_NAMES = {  # module: its public names, name=other if it is called otherwise there
    "cli.interrupt": "Interrupt",
    "cli.options": "command only parse",
    "cli.settings": "device_of parse_settings",
    "config": "Options option read_config",
    "data.dataset": "Dataset",
    "data.indexed": "write_indexed",
    "data.pairs": "Batch EpochBatches PairDataset",
    "data.preprocess": "PreprocessConfig preprocess",
    "data.toy": "toy_pairs",
    "data.vocab": "EOS PAD Vocab",
    "decode.beam": "BeamConfig beam_search",
    "decode.distill": "distill",
    "decode.score": "bleu",
    "decode.translator": "Model translate",
    "errors": "ArchError CheckpointError ConfigError DataError HatError Infeasible TrainingError",
    "files.atomic": "write_text_atomic",
    "files.journal": "Journal read_journal",
    "latency.costs": "depth_only",
    "latency.measure": "MeasureConfig Subject Timing collect measure_fresh measure_in_turn profile "
    "stand_in sync_of time_in_turn workload",
    "latency.predictor": "LatencyPredictor kendall_tau prediction_scores=score",
    "latency.table": "LatencyTable read_table",
    "model.cpu": "device_name dtype_name fast_dtype keep_pages",
    "model.inference": "InferenceModel",
    "model.layers": "ModelConfig count_macs count_params",
    "model.transformer": "SubTransformer SuperTransformer extract",
    "report.page": "report",
    "rng": "rng_for",
    "run": "Run read_record",
    "runtimes.bundle": "save_bundle",
    "runtimes.engines": "engine export",
    "search.constraints": "Pool",
    "search.record": "SearchResult",
    "search.run": "ValidationFitness guess_trained halving rounds_of search short_training",
    "search.strategies": "NSGA2 Evolution SearchConfig Strategy growth",
    "space": "DIMS Arch DecoderArch EncoderArch SearchSpace sample space_from_plain space_of",
    "train.checkpoint": "average load=load_model load_checkpoint=load save=save_model",
    "train.loop": "BatchConfig FitResult LoopConfig TrainConfig Training fit validate",
    "train.trainer": "OptimConfig PolicyConfig ScheduleConfig Trainer",
}
_WHERE = {
    name.partition("=")[0]: (module, name.rpartition("=")[2])
    for module, names in _NAMES.items()
    for name in names.split()
}
__all__ = [*_WHERE, "__version__"]  # noqa: PLE0604 - names of _WHERE


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hat' has no attribute {name!r}")
    module, there = _WHERE[name]
    return getattr(import_module(f"hat.{module}"), there)


class _PackageOfFunction(ModuleType):
    """`hat.search` and `hat.report` are packages, and functions of the same name inside them."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return __getattr__(self.__name__.rpartition(".")[2])(*arguments, **options)


def _callable_package(name: str) -> None:
    """Let the package `name` be called as the function that its name stands for."""
    sys.modules[name].__class__ = _PackageOfFunction
