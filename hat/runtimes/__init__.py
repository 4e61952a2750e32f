"""Engines that translate with a model, and files for them: PyTorch, CTranslate2, ONNX Runtime, your own."""

from typing import Literal

RuntimeName = Literal["torch", "onnxruntime", "ctranslate2", "command"]
Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]
