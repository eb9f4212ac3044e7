"""A finished run's network for other programs: MONAI bundle, TorchScript, ONNX."""
