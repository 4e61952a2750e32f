"""Written from configs/released_models.csv: an architecture for each model, the table of docs/models.md.

`PYTHONPATH=. python tests/release_tables.py` writes both anew; tests compare them.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from hat.files.download import ReleasedModel, released_models
from hat.space import Arch, ArchOptions, arch_of

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- models: python tests/release_tables.py writes this table -->\n"
END = "<!-- end of models -->"


def release_files(models: Sequence[ReleasedModel]) -> dict[Path, str]:
    """Return the content of every architecture file by its path below configs/."""
    return {
        Path(model.task_name, "subtransformer", f"{model.model_name}.yml"): _yaml(model)
        for model in models
        if model.hardware
    }


def markdown_table(models: Sequence[ReleasedModel]) -> str:
    """Return the table of all models: the SubTransformers with their figures, then the SuperTransformers."""
    lines = [
        "| task | device | latency | #Params | FLOPs | BLEU | SacreBLEU | model |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for m in sorted(models, key=lambda model: not model.hardware):
        figures = ["any (SuperTransformer)", *[""] * 5]
        if m.hardware:
            sizes = f"{m.params_m:.2f} M", f"{m.flops_g:.2f} G"
            figures = [m.hardware, m.latency, *sizes, f"{m.bleu:.1f}", f"{m.sacrebleu:.1f}"]
        lines.append(f"| {' | '.join([m.task_name, *figures, f'[`{m.model_name}`]({m.url})'])} |")
    return "\n".join(lines) + "\n"


def released_arch(model: ReleasedModel) -> Arch:
    """Return the architecture of a released SubTransformer."""
    columns = {
        each.name: getattr(model, each.name.removesuffix("_subtransformer").removesuffix("_all"))
        for each in fields(ArchOptions)
    }
    arch = arch_of(ArchOptions(**columns))
    assert arch is not None
    return arch


def _yaml(model: ReleasedModel) -> str:
    lines = [
        f"# {model.latency} on {model.hardware}, {model.params_m:.2f} M parameters, {model.flops_g:.2f} G "
        f"FLOPs, BLEU {model.bleu:.1f}, SacreBLEU {model.sacrebleu:.1f}",
        "# from configs/released_models.csv",
        *(f"{key}: {value}" for key, value in released_arch(model).to_yaml().items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path, text in release_files(released_models()).items():
        (ROOT / "configs" / path).write_text(text, "utf-8")
    document = ROOT / "docs/models.md"
    before, _, rest = document.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    document.write_text(f"{before}{BEGIN}{markdown_table(released_models())}{END}{after}", "utf-8")
