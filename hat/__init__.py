"""HAT: Hardware-Aware Transformers for machine translation.

The names below load on first use, so a command that only lists things never imports torch.
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {  # name: module, or module:name there
    "Anchor": "hat.latency.anchor",
    "Arch": "hat.space",
    "Batch": "hat.data.pairs",
    "BeamConfig": "hat.decode.beam",
    "Checkpoint": "hat.train.checkpoint",
    "CheckpointError": "hat.errors",
    "ConfigError": "hat.errors",
    "DIMS": "hat.space",
    "DataError": "hat.errors",
    "DecoderArch": "hat.space",
    "EOS": "hat.model.config",
    "EncoderArch": "hat.space",
    "EpochBatches": "hat.data.batching",
    "HatError": "hat.errors",
    "InferenceModel": "hat.model.inference",
    "Int8Matrix": "hat.model.matrix",
    "Journal": "hat.files.journal",
    "LatencyPredictor": "hat.latency.predictor",
    "MeasureConfig": "hat.latency.work",
    "ModelConfig": "hat.model.config",
    "OptimConfig": "hat.train.trainer",
    "Options": "hat.config",
    "PAD": "hat.model.config",
    "PairDataset": "hat.data.pairs",
    "PredictorConfig": "hat.latency.predictor_config",
    "PreprocessConfig": "hat.data.preprocess",
    "ScheduleConfig": "hat.train.schedule",
    "SearchSpace": "hat.space",
    "SpaceOptions": "hat.space",
    "SubTransformer": "hat.model.transformer",
    "SuperTransformer": "hat.model.transformer",
    "Timing": "hat.latency.measure",
    "Trainer": "hat.train.trainer",
    "ValidationFitness": "hat.search.fitness",
    "Vocab": "hat.data.vocab",
    "anchor_run": "hat.latency.anchor",
    "beam_search": "hat.decode.beam",
    "bleu": "hat.decode.score",
    "can_int8": "hat.model.matrix",
    "command": "hat.cli.options",
    "count_macs": "hat.model.count",
    "count_params": "hat.model.count",
    "device_name": "hat.model.precision",
    "dtype_name": "hat.model.precision",
    "extract": "hat.model.extract",
    "fast_dtype": "hat.model.precision",
    "joiner": "hat.decode.generate",
    "keep_pages": "hat.train.memory",
    "load_checkpoint": "hat.train.checkpoint:load",
    "measure_in_turn": "hat.latency.measure",
    "only": "hat.cli.options",
    "option": "hat.config",
    "pace": "hat.latency.measure",
    "parse": "hat.cli.options",
    "preprocess": "hat.data.preprocess",
    "read_journal": "hat.files.journal",
    "read_table": "hat.latency.table",
    "rng_for": "hat.rng",
    "sample": "hat.space",
    "space_of": "hat.space",
    "translate": "hat.decode.generate",
    "work_of": "hat.latency.work",
    "write_indexed": "hat.data.indexed",
    "write_text_atomic": "hat.files.atomic",
}
__all__ = [*_LAZY, "__version__"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        module, _, there = _LAZY[name].partition(":")
        return getattr(import_module(module), there or name)
    raise AttributeError(f"module 'hat' has no attribute {name!r}")
