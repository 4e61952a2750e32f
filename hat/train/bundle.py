"""Bundles: one folder that holds all that a SubTransformer needs to translate, wherever it is moved.

`model.safetensors`, `config.json` (architecture, space, options, digests of the other files), both
dictionaries, the subword model, and `README.md`, a model card.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from safetensors import SafetensorError

from hat.data.folder import CODES_FILE, MODEL_FILE
from hat.errors import CheckpointError, ConfigError, DataError, brief
from hat.files.atomic import file_digest, write_text_atomic
from hat.files.tensors import write_safetensors
from hat.runtimes.engines import save_text, stand_alone

if TYPE_CHECKING:
    from hat.decode.translator import Model

FORMAT = 1
_DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    SafetensorError,
    DataError,
)
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def save_bundle(model: "Model", folder: Path | str, facts: Mapping[str, Any] | None = None) -> Path:
    """Write a model of one architecture with all that it needs; returns the folder.

    `facts` are for the model card: task, bleu, signature, latency_ms and conditions, as far as they are
    known. A bundle that is there is replaced; `config.json` is written last and vouches for the other files.

    Raises CheckpointError for a SuperTransformer, ConfigError if the dictionaries are not known or the folder
    holds other files.
    """
    from hat.train.checkpoint import describe, pack

    folder, network, codec = Path(folder), stand_alone(model), model.codec
    if codec is None:
        raise ConfigError(
            "the dictionaries of this model are not known; give the folder of its data (--data)"
        )
    if codec.kind and codec.model is None:
        what = "the subword model of this model's dictionaries is missing"
        raise ConfigError(f"{what}; put it beside them in the folder of the data")
    if folder.is_file() or (folder.is_dir() and not (folder / CONFIG).exists() and any(folder.iterdir())):
        raise ConfigError(f"{folder} holds other files than a bundle; give another --output")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    write_safetensors(folder / WEIGHTS, dict(network.named_parameters()), {"format": "hat bundle"})
    names = [WEIGHTS, *save_text(codec, folder)]
    config = {"hat_bundle": FORMAT, "languages": list(codec.languages), "subwords": codec.kind}
    config |= describe(pack(network, model.digests)) | {"facts": dict(facts or {})}
    config["sha256"] = {name: file_digest(folder / name) for name in names}
    write_text_atomic(
        folder / CARD, _card(config, sum(each.numel() for each in network.parameters()), folder)
    )
    write_text_atomic(folder / CONFIG, json.dumps(config, indent=1) + "\n")
    return folder


def read_bundle(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint file would hold of the bundle in `folder`.

    Raises CheckpointError if a file is missing or has another content than was written.
    """
    from hat.data.subwords import TextCodec
    from hat.data.vocab import Vocab

    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        if config["hat_bundle"] != FORMAT:
            raise ValueError(f"format {brief(config['hat_bundle'])}, this version reads {FORMAT}; upgrade")
        for name, digest in config["sha256"].items():
            if Path(name).name != name or file_digest(folder / name) != digest:
                raise ValueError(f"{name} has another content than was written")
        languages = tuple(config["languages"])
        vocabs = [Vocab.load(folder / f"dict.{language}.txt") for language in languages]
        subwords = next(
            (folder / name for name in (MODEL_FILE, CODES_FILE) if name in config["sha256"]), None
        )
        shared = vocabs[0] if vocabs[0] == vocabs[1] else vocabs[1]
        codec = TextCodec(languages, (vocabs[0], shared), subwords.read_bytes() if subwords else None)
        config |= {
            "weights": safetensors.torch.load((folder / WEIGHTS).read_bytes()),
            "state": {},
            "hat_format": 1,
        }
        return config | {"codec": codec.to_plain()}
    except _DAMAGED as error:
        raise CheckpointError(
            f"{folder} is no whole bundle ({brief(error)}); copy it again, or make it with hat export"
        ) from error


def _card(config: Mapping[str, Any], params: int, folder: Path) -> str:
    """Return the model card."""
    facts, (source, target) = config["facts"], config["languages"]
    size_mb = (folder / WEIGHTS).stat().st_size / 1e6
    quality = f"{facts['bleu']:.2f} BLEU ({facts['signature']})" if "bleu" in facts else "not recorded"
    quality = quality.replace("|", "\\|")  # of the signature; it would end the cell
    latency = facts.get("latency", "not recorded")
    arch = "\n".join(f"    {key}: {value}" for key, value in config["arch"].items())
    return f"""# Translation from {source} to {target}

A SubTransformer of HAT (Hardware-Aware Transformers), complete in this folder: move it anywhere.

| | |
|---|---|
| task | {facts.get("task", "not recorded")} |
| parameters | {params / 1e6:.2f} M |
| weights on disk | {size_mb:.2f} MB |
| subwords | {config["subwords"] or "none: words between spaces"} |
| quality | {quality} |
| latency | {latency} |

Architecture:

{arch}

How to run:

    hat translate --model={folder.name} --input=text.{source} --output=text.{target}
    hat export --model={folder.name} --to=ctranslate2 --output=ctranslate2_model

In Python: `hat.load("{folder.name}").translate(["..."])`.
"""
