"""Engines that translate with a model, and files for them: PyTorch, CTranslate2, ONNX Runtime."""
