"""The 48 models of the 2020 release: one table in configs/ feeds README, listing, downloader and tests."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hat.config import shipped
from hat.errors import DataError

TABLE = shipped("configs") / "released_models.csv"
# The last commit of the public repository that holds all tables and predictors; a commit never changes.
LATENCY_DATA_URL = (
    "https://raw.githubusercontent.com/mit-han-lab/hardware-aware-transformers/"
    "35d12828fb9e8e7a184adaa4caa187bef3a94be2/latency_dataset"
)


@dataclass(frozen=True)
class ReleasedModel:
    """One model; a field is a column of the table. Figures of a SuperTransformer are None or empty."""

    model_name: str
    task_name: str
    hardware: str  # empty for a SuperTransformer
    latency: str  # as printed, for example 3.5s or 137.9ms
    params_m: float | None  # millions, without embeddings
    flops_g: float | None
    bleu: float | None
    sacrebleu: float | None
    encoder_embed_dim: int | None
    decoder_embed_dim: int | None
    encoder_layer_num: int | None
    decoder_layer_num: int | None
    encoder_ffn_embed_dim: tuple[int, ...]  # one entry per layer, like all below
    decoder_ffn_embed_dim: tuple[int, ...]
    encoder_self_attention_heads: tuple[int, ...]
    decoder_self_attention_heads: tuple[int, ...]
    decoder_ende_attention_heads: tuple[int, ...]
    decoder_arbitrary_ende_attn: tuple[int, ...]  # -1, 1, 2: the last one, two, three encoder layers
    url: str

    @property
    def latency_data(self) -> str | None:
        """Return the name of the latency table and predictor of its task and device: wmt14ende_cpu_xeon."""
        found = re.fullmatch(r"HAT_(\w+)_(\w+)@.*", self.model_name)
        return f"{found[1]}_{self.hardware.split()[-1].lower()}_{found[2]}" if found else None


def released_models(path: Path = TABLE) -> tuple[ReleasedModel, ...]:
    """Return the 48 models of the 2020 release in the order of the table; DataError if it is damaged."""
    hints = get_type_hints(ReleasedModel)

    def value(cell: str, hint: Any) -> Any:
        if hint == tuple[int, ...]:
            return tuple(map(int, cell.split()))
        return cell if hint is str else (int if hint == int | None else float)(cell) if cell else None

    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [{name: value(row[name], hints[name]) for name in hints} for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot read {path}: {error}; restore it from the repository") from error
    return tuple(ReleasedModel(**row) for row in rows)


def latency_data_names(models: tuple[ReleasedModel, ...]) -> tuple[str, ...]:
    """Return the names of the released latency tables, each once, in the order of `models`."""
    return tuple(dict.fromkeys(name for model in models if (name := model.latency_data)))
