"""HAT: Hardware-Aware Transformers for machine translation.

The names below load on first use, so a command that only lists things never imports torch.
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {  # name: module, or module:name there
    "Arch": "hat.space",
    "Batch": "hat.data.pairs",
    "BeamConfig": "hat.decode.beam",
    "CheckpointError": "hat.errors",
    "ConfigError": "hat.errors",
    "DIMS": "hat.space",
    "DataError": "hat.errors",
    "Dataset": "hat.data.dataset",
    "DecoderArch": "hat.space",
    "EOS": "hat.data.vocab",
    "EncoderArch": "hat.space",
    "EpochBatches": "hat.data.batching",
    "FitResult": "hat.train.loop",
    "HatError": "hat.errors",
    "InferenceModel": "hat.model.inference",
    "Int8Matrix": "hat.model.cpu",
    "Interrupt": "hat.cli.interrupt",
    "Journal": "hat.files.journal",
    "LatencyPredictor": "hat.latency.predictor",
    "LatencyTable": "hat.latency.table",
    "LoopConfig": "hat.train.loop",
    "MeasureConfig": "hat.latency.measure",
    "Model": "hat.decode.translator",
    "ModelConfig": "hat.model.layers",
    "OptimConfig": "hat.train.trainer",
    "Options": "hat.config",
    "PAD": "hat.data.vocab",
    "PairDataset": "hat.data.pairs",
    "PreprocessConfig": "hat.data.preprocess",
    "ScheduleConfig": "hat.train.policy",
    "SearchConfig": "hat.search.strategies",
    "SearchResult": "hat.search.record",
    "SearchSpace": "hat.space",
    "Strategy": "hat.search.strategies",
    "SubTransformer": "hat.model.transformer",
    "SuperTransformer": "hat.model.transformer",
    "Timing": "hat.latency.measure",
    "TrainConfig": "hat.train.loop",
    "Trainer": "hat.train.trainer",
    "ValidationFitness": "hat.search.run",
    "Vocab": "hat.data.vocab",
    "anchor_of": "hat.latency.measure",
    "beam_search": "hat.decode.beam",
    "bleu": "hat.decode.score",
    "can_int8": "hat.model.cpu",
    "collect": "hat.latency.collect",
    "command": "hat.cli.options",
    "compare_fronts": "hat.search.front:compare",
    "comparison_table": "hat.search.front",
    "count_macs": "hat.model.count",
    "count_params": "hat.model.count",
    "depth_only": "hat.latency.costs",
    "device_name": "hat.model.cpu",
    "device_of": "hat.cli.task",
    "dtype_name": "hat.model.cpu",
    "extract": "hat.model.extract",
    "fast_dtype": "hat.model.cpu",
    "fit": "hat.train.loop",
    "keep_pages": "hat.model.cpu",
    "kendall_tau": "hat.latency.predictor",
    "least_squares": "hat.latency.costs",
    "load_checkpoint": "hat.train.checkpoint:load",
    "measure_fresh": "hat.latency.collect",
    "measure_in_turn": "hat.latency.measure",
    "only": "hat.cli.options",
    "option": "hat.config",
    "parse": "hat.cli.options",
    "parse_settings": "hat.cli.settings",
    "preprocess": "hat.data.preprocess",
    "profile": "hat.latency.collect",
    "read_config": "hat.config",
    "read_journal": "hat.files.journal",
    "read_table": "hat.latency.table",
    "rng_for": "hat.rng",
    "sample": "hat.space",
    "space_from_plain": "hat.space",
    "space_of": "hat.space",
    "sync_of": "hat.latency.measure",
    "translate": "hat.decode.generate",
    "validate": "hat.train.loop",
    "workload": "hat.latency.measure",
    "write_indexed": "hat.data.indexed",
    "write_text_atomic": "hat.files.atomic",
}
_CALLABLE = ("report", "search")  # packages that are functions, too
__all__ = [*_LAZY, *_CALLABLE, "__version__"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        module, _, there = _LAZY[name].partition(":")
        return getattr(import_module(module), there or name)
    if name in _CALLABLE:
        return import_module(f"hat.{name}")
    raise AttributeError(f"module 'hat' has no attribute {name!r}")
