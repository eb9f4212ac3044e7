"""Does what was exported still do what the run's network does?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from fedssl.errors import ExportError
from fedssl.export.network import INPUT, ForegroundNetwork, example
from fedssl.predict import Trained

__all__ = ["TOLERANCE", "largest_difference", "load_onnx", "load_torchscript", "require_same"]

TOLERANCE: Final = {"torchscript": 1e-6, "onnx": 1e-4}
"""Largest difference in probability that is rounding; ONNX Runtime has its own convolutions."""

Runner = Callable[[Tensor], Tensor]


def load_torchscript(path: Path) -> Runner:
    """Return a function that runs a TorchScript file on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(path), map_location="cpu")

    def run(image: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = module(image)
        return result

    return run


def load_onnx(path: Path) -> Runner:
    """Return a function that runs an ONNX file on the CPU, through ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError:
        raise ExportError(
            "An ONNX file is checked with ONNX Runtime, which is not installed; "
            "`pip install 'fedssl[export]'` installs it."
        ) from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> Tensor:
        (result,) = session.run(None, {INPUT: image.numpy()})
        return torch.from_numpy(result)

    return run


def largest_difference(trained: Trained, exported: Runner, image: Tensor) -> float:
    """Return the largest absolute difference in probability on a prepared batch [B, C, *P]."""
    original = ForegroundNetwork(trained.model, trained.seen.output).eval()
    with torch.no_grad():
        expected = original(image.to(trained.device)).cpu()
    found = exported(image)
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found - expected).abs().max())


def require_same(trained: Trained, exported: Runner, form: str) -> float:
    """Compare on random inputs, of the traced size and of another one.

    Returns:
        The largest difference.

    Raises:
        ExportError: it is beyond rounding.
    """
    inputs = [example(trained, seed=1), example(trained, batch=2, extra=1, seed=2)]
    difference = max(largest_difference(trained, exported, image) for image in inputs)
    if not difference <= TOLERANCE[form]:
        raise ExportError(
            f"The {form} network differs from the run's by up to {difference:.2g} in probability "
            f"on a random input (allowed: {TOLERANCE[form]:g}); nothing was written. Try another "
            "form, or other versions of torch and its exporters."
        )
    return difference
