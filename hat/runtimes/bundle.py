"""Bundles: one folder that holds all that a SubTransformer needs to translate, wherever it is moved:
`model.safetensors`, `config.json` (architecture, space, options, languages, how text is normalised, what is
known of it, digests of the other files), both dictionaries, the subword model, and `README.md`, its card.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from hat.data.pairs import load_vocabs
from hat.data.subwords import TextCodec, moses_rules
from hat.decode.translator import Model
from hat.errors import CheckpointError, ConfigError, DataError, brief
from hat.files.atomic import file_digest, write_text_atomic
from hat.files.tensors import write_safetensors
from hat.log import info
from hat.run import digest_of, read_record, training_settings
from hat.runtimes.engines import codec_of, save_text, stand_alone

FORMAT = 1
_WRONG = OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError
_DAMAGED = (*_WRONG, SafetensorError, DataError)
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def save_bundle(model: Model, folder: Path | str, facts: Mapping[str, Any] | None = None) -> Path:
    """Write a model of one architecture with all that it needs; returns the folder. `facts` are for the model
    card: task, checkpoint, bleu, chrf, their signatures and latency, as far as they are known. A bundle that
    is there is replaced; `config.json` is written last and vouches for the other files. Raises
    CheckpointError for a SuperTransformer, DataError if the dictionaries are not known, ConfigError if the
    subword model is missing or the folder holds other files.
    """
    folder, network, codec = Path(folder), stand_alone(model), codec_of(model)
    if codec.kind and codec.model is None:
        what = "the subword model of this model's dictionaries is missing"
        raise ConfigError(f"{what}; put it beside them in the folder of the data, or give it as --subwords")
    if folder.is_file() or (folder.is_dir() and not (folder / CONFIG).exists() and any(folder.iterdir())):
        raise ConfigError(f"{folder} holds other files than a bundle; give another --output")
    write_text_atomic(folder / CONFIG, "{}\n")  # until the rest is there it is no bundle, but known as ours
    write_safetensors(folder / WEIGHTS, dict(network.named_parameters()), {"format": "hat bundle"})
    names = [WEIGHTS, *save_text(codec, folder)]
    config = {"hat_bundle": FORMAT, "languages": list(codec.languages), "subwords": codec.kind}
    config |= {"normalisation": None, "params": sum(each.numel() for each in network.parameters())}
    if codec.kind == "subword_nmt":  # the others take text as it is
        mark, is_lower = moses_rules(codec.vocabs[0])
        config["normalisation"] = {"moses": codec.languages[0], "hyphens": mark, "lowercase": is_lower}
    config |= {"space": asdict(network.space), "arch": network.arch.to_yaml()}
    config |= {"model_config": asdict(network.cfg), "vocab_sizes": list(network.vocab_sizes)}
    config |= {"vocab_digests": list(model.digests), "facts": dict(facts or {})}
    config["sha256"] = {name: file_digest(folder / name) for name in names}
    _write_card(folder, config)
    return folder


def bundle_of(checkpoint: Path) -> Path:
    """Return where the bundle of a checkpoint is left."""
    in_run = read_record(checkpoint.parent, folder=True, note=info).kind == "train"
    return checkpoint.parent / "bundle" if in_run else checkpoint.with_suffix(".bundle")


def known_facts(checkpoint: Path) -> dict[str, Any]:
    """Return what is known of a checkpoint: what its bundle tells, if it has one, and its record."""
    if checkpoint.is_dir():
        return dict(_read_config(checkpoint).get("facts", {}))
    data = training_settings(checkpoint).get("data")
    own = {"checkpoint": checkpoint.name, "sha256": digest_of(checkpoint)}
    own |= {"task": Path(data).name} if data else {}
    told = _read_config(bundle_of(checkpoint)).get("facts", {})
    return own | (told if told.get("sha256") == own["sha256"] else {})


def add_facts(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Write facts into the card of the bundle of a checkpoint, if there is one of just this checkpoint."""
    folder = checkpoint if checkpoint.is_dir() else bundle_of(checkpoint)
    config = _read_config(folder)
    told = config.get("facts", {})
    if config and (checkpoint.is_dir() or told.get("sha256") == digest_of(checkpoint)):
        _write_card(folder, config | {"facts": told | facts})


def read_bundle(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint file would hold of the bundle in `folder`; CheckpointError if not whole."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        if config["hat_bundle"] != FORMAT:
            raise ValueError(f"format {brief(config['hat_bundle'])}, this version reads {FORMAT}; upgrade")
        for name, digest in config["sha256"].items():
            if Path(name).name != name or file_digest(folder / name) != digest:
                raise ValueError(f"{name} has another content than was written")
        source, target = config["languages"]
        codec = TextCodec.load(folder, (source, target), load_vocabs(folder, source, target))
        weights = safetensors.torch.load((folder / WEIGHTS).read_bytes())
        return config | {"weights": weights, "state": {}, "hat_format": 1, "codec": codec.to_plain()}
    except _DAMAGED as error:
        advice = "copy it again, or make it with hat export"
        raise CheckpointError(f"{folder} is no whole bundle ({brief(error)}); {advice}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    with suppress(*_DAMAGED):
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        return config if isinstance(config["facts"], dict) else {}
    return {}


def _write_card(folder: Path, config: Mapping[str, Any]) -> None:
    facts, (source, target), name = config["facts"], config["languages"], quote(folder.resolve().name)
    size_mb = (folder / WEIGHTS).stat().st_size / 1e6
    scores = [
        f"{facts[key]:.2f} {what} ({facts[signature]})".replace("|", "\\|")  # it would end the cell
        for key, what, signature in (("bleu", "BLEU", "signature"), ("chrf", "chrF", "chrf_signature"))
        if facts.keys() >= {key, signature}
    ]
    if "search" in facts:
        scores.append(f"on {facts['split']} by {facts['search'] or 'the default search'}")
    how = f"--model={name} {facts.get('search', '')}".rstrip()
    arch = "\n".join(f"    {key}: {value}" for key, value in config["arch"].items())
    card = f"""# Translation from {source} to {target}

A SubTransformer of HAT (Hardware-Aware Transformers), complete in this folder: move it anywhere.

| | |
|---|---|
| task | {facts.get("task", "not recorded")} |
| made from | {facts.get("checkpoint", "not recorded")} |
| parameters | {config["params"] / 1e6:.2f} M |
| weights on disk | {size_mb:.2f} MB |
| subwords | {config["subwords"] or "none: words between spaces"} |
| quality | {", ".join(scores) or "not recorded"} |
| latency | {facts.get("latency", "not recorded")} |

Architecture:

{arch}

How to run:

    hat translate {how} --input=text.{source} --output=text.{target}
    hat export --model={name} --to=ctranslate2 --output=ctranslate2_model

In Python: `hat.load("{folder.resolve().name}").translate(["..."])`.
"""
    write_text_atomic(folder / CARD, card)
    write_text_atomic(folder / CONFIG, json.dumps(config, indent=1) + "\n")
