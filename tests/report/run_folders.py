"""What tests of the report share: folders as runs leave them, and what a page holds."""

import base64
import hashlib
import json
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hat.files.journal import Journal
from hat.report.collect import collect
from hat.report.page import charts, page
from hat.rng import rng_for
from hat.run import Run, record_path
from hat.search.record import evaluations_csv
from hat.space import SearchSpace, sample

HOSTILE = '</script><script src="https://example.org/x.js">alert(1)</script>$\\frac$ & "quoted" {{ 7 * 7 }}'
SIDE = {"embed-dim": "32", "layers": "2", "ffn-embed-dim": "64"}
CHOICES = {"embed-choice": ["32", "16"], "ffn-embed-dim-choice": ["64", "32"]}
BOTH = {f"{side}-{key}": size for side in ("encoder", "decoder") for key, size in {**SIDE, **CHOICES}.items()}
SPACE = SearchSpace.from_yaml(BOTH | {"decoder-layer-num-choice": ["2", "1"]})
ARCH = sample(SPACE, rng_for(1, "report"))
LOADING = {"src", "srcset", "poster", "action", "background", "ping", "cite", "manifest"}


class Page(HTMLParser):
    """Elements, texts and embedded data of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside in ("script", "style") else self.texts).append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    @property
    def sections(self) -> list[str]:
        return [str(a["id"]) for tag, a in self.elements if tag == "section"]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(next(text for text in self.scripts if text.startswith("{")))
        return found

    def charts(self, section: str) -> list[dict[str, Any]]:
        return [chart for chart in self.data["charts"] if chart["section"] == section]

    def series(self, section: str) -> dict[str, Any]:
        return {each["name"]: each for chart in self.charts(section) for each in chart["series"]}


def lines(path: Path, *records: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def record(path: Path, kind: str, settings: dict[str, Any] | None = None, **results: Any) -> Path:
    """Write the record of a folder, or of a product if the path is that of a file, which it vouches for."""
    with Run(record_path(path), kind, settings=settings or {}, device={"device": "a CPU"}) as run:
        run.results |= results
        if path.is_file():
            run.vouch(path)
    return path


def spent(path: Path, wall_s: float, cpu_s: float, sittings: int = 1) -> None:
    """Set what a record says of the cost."""
    file = record_path(path)
    held = json.loads(file.read_text())
    one = {"wall_s": wall_s / sittings, "cpu_s": cpu_s / sittings, "threads": 2, "processes": 1, "gpus": 0}
    file.write_text(json.dumps(held | {"cost": {"sittings": [one] * sittings}}))


def search_folder(path: Path, *, name: str = "small", **more: Any) -> Path:
    """Write what evo_search.py leaves."""
    lines(
        path / "log.jsonl",
        {"kind": "search", "update": 1, "best_loss": 5.5, "evaluations": 3},
        {"kind": "search", "update": 2, "best_loss": 5.25, "evaluations": 5},
    )
    with Journal(path / "journal.jsonl") as journal:
        journal.append({"kind": "hat search", "space": asdict(SPACE)})
    rows = [{"loss": 5.25, "predicted_ms": 12.0, "bound_ms": 12.25, "measured_ms": 12.75}]
    rows += [{**rows[0], "loss": 5.25 + n / 8, "predicted_ms": 12.0 - n} for n in range(1, 5)]
    archs = [ARCH, *(sample(SPACE, rng_for(n, "scored")) for n in range(1, 5))]
    (path / "evaluations.csv").write_text(evaluations_csv(rows, archs))
    found = {"arch": ARCH.to_yaml(), "loss": 5.25, "constraint_ms": 12.5, "predicted_ms": 12.0}
    found |= {"bound_ms": 12.25, "measured_ms": 12.75, "params": 98765, "write_config_path": f"{name}.yml"}
    summary = more or {"winners": [found]}
    (path / "summary.json").write_text(json.dumps(summary))
    spent(record(path, "search"), 90.0, 180.0)
    return path


def task_folder(path: Path, *, name: str = "found@12.5ms") -> Path:
    """Write what run_task.sh leaves, with one model of the given name."""
    search_folder(path / "search")
    keys = ("name", "params", "flops", "predicted_ms", "measured_ms")
    large = dict(zip(keys, ("largest", 1_234_567, 34_500_000, 24.5, 25.0), strict=True))
    small = dict(zip(keys, ("smallest", 123_000, 3_450_000, 8.5, 8.25), strict=True))
    found: dict[str, Any] = dict(zip(keys, (name, 456_000, 9_870_000, 12.0, 12.75), strict=True))
    found |= {"constraint_ms": 12.5, "bleu": 37.87, "weights": "trained", "size_bytes": 3 << 20}
    found |= {"signature": "nrefs:1|tok:13a"}
    rows = [large, small, found]
    for row, arch in zip(rows, (SPACE.largest(), SPACE.smallest(), ARCH), strict=True):
        row["arch"] = arch.to_yaml()
    summary: dict[str, Any] = {"task": "toy", "hardware": "cpu", "models": rows, "machine": {"device": name}}
    if name == HOSTILE:
        summary["task"] = HOSTILE
    lines(path / "super/log.jsonl", {"kind": "train", "update": 10, "loss_base2": 7.0, "train_s": 5.0})
    places = ["super", "search", "predictor.pt", "predictor.pt.run.json"]
    spent_s = {"wall_s": 75.0, "cpu_s": 120.0, "sittings": 2}
    for name in ("super", "old"):
        record(path / name, "train")
    stages = {"train": {"seconds": 60.0, "spent": spent_s, "places": places}}
    stages["train old"] = {"seconds": 987.0, "spent": {"wall_s": 987.0}, "places": ["old"]}  # of other limits
    record(path, "task", **summary, stages=stages, plan=["train"])
    return path


def written(folder: Path) -> Page:
    """Return the page of a folder, without drawing PNG files."""
    found = collect(folder)
    return Page(page(found, charts(found)))


def check_alone(page: Page) -> None:
    """Nothing is loaded, one script runs, and every reference leads to an element of the page."""
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [a.get("type") for tag, a in page.elements if tag == "script"] == ["application/json", None]
    policies = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1].encode()).digest()).decode()
    assert len(policies) == 1 and f"script-src 'sha256-{digest}'" in str(policies[0])
    for tag, attributes in page.elements:
        assert tag not in {"iframe", "object", "embed", "img", "image", "foreignobject", "base"}
        assert not LOADING & attributes.keys()
        assert not [key for key in attributes if key.startswith("on")]
        if "href" in attributes:
            assert attributes["href"] == "data:,"
    assert "@import" not in "".join(page.scripts) and "url(" not in "".join(page.scripts)
