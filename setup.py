"""Packaging of HAT. The build of torch is picked by constraints.txt: pip install -c constraints.txt ."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
EXTRAS = {
    "text": ["sacremoses>=0.1", "subword-nmt"],
    "log": ["tensorboard"],
    "report": ["matplotlib"],
    "ctranslate2": ["ctranslate2"],
    "onnx": ["onnx", "onnxruntime"],
    "bench": ["ctranslate2", "onnx", "onnxruntime"],
    "studies": ["optuna>=4"],
    "shell": ["shtab"],
    "ja": ["sacrebleu[ja]"],  # these two, with dictionaries, are no part of "all"
    "ko": ["sacrebleu[ko]"],
    "dev": [
        "pytest",
        "pytest-xdist",
        "hypothesis",
        "ruff",
        "mypy",
        "types-PyYAML",
        "types-requests",
        "torchprofile>=0.1",
        "pre-commit",
        "setuptools>=70",
        "wheel",
    ],
}
SHIPPED = ("configs", "scripts")  # go into the package, so that an installed one has them too

setup(
    name="hardware-aware-transformers",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "hat/__init__.py").read_text("utf-8")).group(1),
    description="Hardware-Aware Transformers: the best translation Transformer for your device",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
        "Typing :: Typed",
    ],
    keywords="machine translation, transformer, neural architecture search, latency",
    python_requires=">=3.10",
    packages=[*find_packages(include=["hat", "hat.*"]), *(f"hat.{name}" for name in SHIPPED)],
    package_dir={f"hat.{name}": name for name in SHIPPED},
    package_data={
        "hat": ["py.typed"],
        "hat.data": ["toy.txt"],
        "hat.report": ["templates/*"],
        **{f"hat.{name}": ["*", "*/*", "*/*/*"] for name in SHIPPED},
    },
    entry_points={"console_scripts": ["hat = hat.cli.main:main"]},
    install_requires=[
        "torch>=2.10",
        "configargparse",
        "pyyaml",
        "numpy",
        "sacrebleu",
        "sentencepiece",
        "tqdm",
        "filelock>=4",
        "jinja2",
        "requests",
        "charset-normalizer",
        "safetensors",
        "urllib3>=2.6",
    ],
    extras_require=EXTRAS | {"all": sorted({name for key in EXTRAS if len(key) > 2 for name in EXTRAS[key]})},
)
