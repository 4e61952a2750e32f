"""What tests of the report share: folders as runs leave them, and what a page holds."""

import json
from html.parser import HTMLParser
from pathlib import Path

from hat.cli.report import main
from hat.files.journal import Journal
from hat.rng import rng_for
from hat.space import SpaceOptions, sample, space_of, space_to_plain

HOSTILE = '<script src="https://example.org/x.js">alert(1)</script>$\\frac$ & "quoted"'
SECTIONS = ["models", "front", "latency", "search", "architecture", "training", "cost", "conditions"]
SPACE = space_of(
    SpaceOptions(
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=64,
        encoder_layers=2,
        decoder_embed_dim=32,
        decoder_ffn_embed_dim=64,
        decoder_layers=2,
        encoder_embed_choice=(32, 16),
        encoder_ffn_embed_dim_choice=(64, 32),
        encoder_layer_num_choice=(2,),
        decoder_embed_choice=(32, 16),
        decoder_ffn_embed_dim_choice=(64, 32),
        decoder_layer_num_choice=(2, 1),
    )
)
ARCH = sample(SPACE, rng_for(1, "report"))
LOADING = {"src", "srcset", "data", "poster", "action", "background", "ping", "cite", "manifest"}


class Page(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.texts.append(data)


def lines(path: Path, *records: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def search_folder(path: Path, name: str = "small") -> Path:
    """Write what evo_search.py leaves."""
    path.mkdir(parents=True)
    lines(
        path / "log.jsonl",
        {"kind": "search", "update": 1, "best_loss": 5.5, "mean_parent_loss": 6.0, "evaluations": 3},
        {"kind": "search", "update": 2, "best_loss": 5.25, "mean_parent_loss": 5.5, "evaluations": 5},
    )
    with Journal(path / "journal.jsonl") as journal:
        journal.append({"kind": "hat search", "space": space_to_plain(SPACE)})
        for n in range(5):
            arch = sample(SPACE, rng_for(n, "scored")).to_yaml()
            journal.append({"arch": arch, "loss": 5.25 + n / 8, "latency_ms": 12.0 - n})
    found = {"arch": ARCH.to_yaml(), "loss": 5.25, "constraint_ms": 12.5, "predicted_ms": 12.0}
    found |= {"measured_ms": 12.75, "params": 98765, "seconds": 90.0, "write_config_path": f"{name}.yml"}
    (path / "summary.json").write_text(json.dumps(found))
    return path


def task_folder(path: Path, name: str = "found@12.5ms") -> Path:
    """Write what run_task.py leaves, with one model of the given name."""
    search_folder(path / "search@12.5ms")
    rows = [
        {
            "name": "largest",
            "params": 1_234_567,
            "flops": 34_500_000,
            "predicted_ms": 24.5,
            "measured_ms": 25.0,
        },
        {"name": "smallest", "params": 123_000, "flops": 3_450_000, "predicted_ms": 8.5, "measured_ms": 8.25},
        {"name": name, "params": 456_000, "flops": 9_870_000, "predicted_ms": 12.0, "measured_ms": 12.75},
    ]
    rows[2] |= {"constraint_ms": 12.5, "bleu": 37.87, "weights": "trained", "size_bytes": 3 << 20}
    rows[2] |= {"signature": "nrefs:1|tok:13a", "within_limit": False}
    summary = {"task": HOSTILE if name == HOSTILE else "toy", "hardware": "cpu", "models": rows}
    (path / "summary.json").write_text(json.dumps(summary | {"machine": {"device": name}}))
    for row, arch in zip(rows, (SPACE.largest(), SPACE.smallest(), ARCH), strict=True):
        if "/" not in row["name"]:
            text = "".join(f"{key}: {value}\n" for key, value in arch.to_yaml().items())
            (path / f"{row['name']}.yml").write_text(text)
    lines(path / "super/log.jsonl", {"kind": "train", "update": 10, "loss_base2": 7.0, "train_s": 5.0})
    spent = {"wall_s": 75.0, "cpu_s": 120.0, "sittings": 2}
    stages = {"train": {"seconds": 60.0, "spent": spent, "command": f"python train.py {name}"}}
    (path / "stages.json").write_text(json.dumps(stages))
    return path


def written(folder: Path, *flags: str) -> Page:
    assert main([str(folder), *flags]) == 0
    return Page((folder / "report/index.html").read_text("utf-8"))


def check_alone(page: Page) -> None:
    """Nothing is loaded, nothing runs, and every reference leads to an element of the page."""
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in {"script", "iframe", "object", "embed", "img", "image", "foreignobject", "base"}
        assert not LOADING & attributes.keys()
        assert not [key for key in attributes if key.startswith("on")]
        for key in attributes.keys() & {"href", "xlink:href"}:
            assert attributes[key] == "data:," or attributes[key][1:] in ids, attributes[key]
    style = "".join(page.texts)
    assert "@import" not in style and "url(" not in style
