"""The layout of `hat/`: imports point down, no module imports a script."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYER = {
    "errors": 0,
    "log": 1,
    "rng": 1,
    "config": 1,
    "space": 2,
    "files": 2,
    "run": 3,
    "model": 3,
    "data": 3,
    "decode": 4,
    "runtimes": 5,
    "train": 6,
    "latency": 6,
    "search": 7,
    "report": 8,
    "cli": 9,
    "__main__": 10,
}
FILES = sorted((ROOT / "hat").rglob("*.py"))
SCRIPTS = {path.stem for path in [*ROOT.glob("*.py"), *ROOT.glob("scripts/*.py")]}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import, also inside functions; `from hat import x` is `hat.x`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module == "hat":
                yield from ((node.lineno, f"hat.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def wrong_imports(source: str, here: str) -> list[str]:
    """Return the imports of a module of package `here` that do not point down."""
    found = []
    for line, name in imports(ast.parse(source)):
        parts = name.split(".")
        relative, upwards = name.startswith("."), False
        if parts[0] == "hat" and len(parts) > 1:
            own = parts[1] == here or parts[1].startswith("_")  # what hat/__init__.py itself offers
            upwards = not own and LAYER.get(parts[1], 99) >= LAYER[here]
        if relative or upwards or parts[0] in SCRIPTS | {"tests", "scripts"}:
            found.append(f"{line}: {here} imports {name}")
    return found


def package(path: Path) -> str:
    return path.relative_to(ROOT / "hat").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.isascii()
    if path != ROOT / "hat" / "__init__.py":  # it names modules for lazy loading, as text
        assert wrong_imports(source, package(path)) == []


def test_every_package_has_a_layer() -> None:
    assert {package(path) for path in FILES} - {"__init__"} <= set(LAYER)


@pytest.mark.parametrize(
    ("source", "here"),
    [
        ("from hat.train.loss import x", "model"),
        ("import hat.cli.train", "train"),
        ("import os, hat.cli.train as t", "train"),
        ("from hat import decode", "data"),
        ("def f():\n    import hat.search.evolution", "latency"),
        ("from hat.data.vocab import Vocab", "model"),  # one layer, another package
        ("from .loss import x", "train"),
        ("import train", "cli"),
        ("from latency_dataset import main", "latency"),
        ("from hat.utils import x", "cli"),
    ],
)
def test_the_check_finds_what_it_forbids(source: str, here: str) -> None:
    assert len(wrong_imports(source, here)) == 1


def test_the_check_allows_what_is_allowed() -> None:
    source = "import hat\nimport torch\nfrom hat.errors import x\nfrom hat.train import y\nimport hat.model"
    assert wrong_imports(source, "train") == []


def test_listing_names_does_not_import_torch() -> None:
    code = (
        "import sys, hat, hat.errors, hat.rng, hat.space; dir(hat); hat.__version__; hat.Arch; "
        "hat.SearchSpace; assert 'torch' not in sys.modules; hat.SuperTransformer; "
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        import hat

        hat.Nothing  # noqa: B018
