"""HAT: Hardware-Aware Transformers for machine translation.

The names below load on first use, so a command that only lists things never imports torch.
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {
    "Arch": "hat.space",
    "DIMS": "hat.space",
    "Dataset": "hat.data.dataset",
    "Model": "hat.decode.translator",
    "SearchSpace": "hat.space",
    "SuperTransformer": "hat.model.transformer",
    "LatencyPredictor": "hat.latency.predictor",
    "LatencyTable": "hat.latency.table",
    "MeasureConfig": "hat.latency.measure",
    "collect": "hat.latency.collect",
    "measure_fresh": "hat.latency.collect",
    "profile": "hat.latency.collect",
    "read_table": "hat.latency.table",
}
__all__ = [*_LAZY, "__version__"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hat' has no attribute {name!r}")
