"""A tiny search space on a tiny joint dictionary, one of its SubTransformers, and equality of two runs."""

from pathlib import Path

import torch
import yaml

from hat.data.dataset import Dataset
from hat.data.toy import toy_pairs
from hat.model.layers import ModelConfig
from hat.space import SearchSpace
from hat.train.checkpoint import Checkpoint
from hat.train.loop import BatchConfig, TrainConfig, fit
from hat.train.trainer import OptimConfig

SPACE = {
    "arch": "transformersuper_toy",
    "share-all-embeddings": True,
    "qkv-dim": 8,
    "encoder-layer-num-choice": [2],
    "decoder-layer-num-choice": [2, 1],
    "decoder-ende-attention-heads-choice": [2, 1],
    "decoder-arbitrary-ende-attn-choice": [-1, 1],
    "max-tokens": 256,
    "lr": "5e-3",
    "warmup-updates": 4,
    "dropout": 0.2,
    "amp": "fp32",
    "threads": 1,
} | dict.fromkeys(("cpu", "no-tensorboard", "no-progress-bar"), True)
for side in ("encoder", "decoder"):
    SPACE |= {f"{side}-embed-dim": 16, f"{side}-ffn-embed-dim": 32, f"{side}-layers": 2}
    SPACE |= {f"{side}-embed-choice": [16, 8], f"{side}-ffn-embed-dim-choice": [32, 16]}
    SPACE[f"{side}-self-attention-heads-choice"] = [2, 1]
SUB = {
    "encoder-embed-dim-subtransformer": 16,
    "decoder-embed-dim-subtransformer": 8,
    "encoder-ffn-embed-dim-all-subtransformer": [32, 16],
    "decoder-ffn-embed-dim-all-subtransformer": [16],
    "encoder-layer-num-subtransformer": 2,
    "decoder-layer-num-subtransformer": 1,
    "encoder-self-attention-heads-all-subtransformer": [2, 1],
    "decoder-self-attention-heads-all-subtransformer": [1],
    "decoder-ende-attention-heads-all-subtransformer": [2],
    "decoder-arbitrary-ende-attn-all-subtransformer": [1],
}


def flat(value: object, path: str = "") -> dict[str, object]:
    """Return the leaves of nested state."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(part, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {k: v for n, part in enumerate(value) for k, v in flat(part, f"{path}/{n}").items()}
    return {path: value}


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    """Weights, optimiser, progress in the data and the update that dropout depends on are bit-equal."""
    leaves = [flat({"weights": c.weights, "state": c.state}) for c in (one, other)]
    assert leaves[0].keys() == leaves[1].keys()
    assert sum(isinstance(value, torch.Tensor) for value in leaves[0].values()) > 20
    for name, value in leaves[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, leaves[1][name]), name
        elif not name.endswith("train_s"):
            assert value == leaves[1][name], name


def train_super(folder: Path, updates: int) -> list[tuple[str, str]]:
    """Train in folder/super on toy pairs, which are returned; data in folder/bin, the space in space.yml."""
    pairs = toy_pairs(1, 120)
    if not (folder / "bin").exists():
        Dataset.from_text(*zip(*pairs, strict=True), pieces=60, valid=10, folder=folder / "bin")
    (folder / "space.yml").write_text(yaml.safe_dump(SPACE | {"data": str(folder / "bin")}))
    model, batches = ModelConfig(share_all_embeddings=True), BatchConfig(max_tokens=512)
    config = TrainConfig(model, OptimConfig(max_update=updates), batches=batches)
    space, dataset = SearchSpace.from_yaml(folder / "space.yml"), Dataset.load(folder / "bin")
    fit(space, dataset, config, out=folder / "super", device="cpu")
    return pairs
