"""Packaging of HAT. The build of torch is picked by constraints.txt: pip install -c constraints.txt ."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
EXTRAS = {
    "text": ["sacremoses>=0.1", "subword-nmt"],
    "log": ["tensorboard"],
    "report": ["matplotlib"],
    "bench": ["ctranslate2"],
    "dev": ["pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "types-PyYAML", "types-requests"],
}

setup(
    name="hat",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "hat/__init__.py").read_text("utf-8")).group(1),
    description="Hardware-Aware Transformers: the best translation Transformer for your device",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["hat", "hat.*"]),
    install_requires=[
        "torch>=2.10",
        "filelock>=3.25",
        "requests",
        "safetensors",
        "urllib3>=2",
        "configargparse",
        "pyyaml",
        "numpy",
        "sacrebleu",
        "torchprofile>=0.1",
        "sentencepiece",
        "tqdm",
    ],
    extras_require=EXTRAS | {"all": sorted({name for names in EXTRAS.values() for name in names})},
)
