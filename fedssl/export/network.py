"""The network of a run in forms that need no fedssl: TorchScript and ONNX.

Both take prepared windows [B, C, *P] of any batch and of any size that is a multiple of the
network's stride, and return foreground probabilities [B, F, *P].
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from fedssl.errors import ExportError
from fedssl.functional.labels import foreground_probabilities
from fedssl.models import SegmentationModel
from fedssl.predict import Trained
from fedssl.types import Output

__all__ = ["INPUT", "OUTPUT", "ForegroundNetwork", "example", "to_onnx", "to_torchscript"]

INPUT: Final = "image"
OUTPUT: Final = "probability"
_OPSET: Final = 17


class ForegroundNetwork(nn.Module):
    """A segmentation network that returns what inference blends: foreground probabilities.

    Args:
        model: any network of fedssl, in eval mode.
        output: channel encoding that it was trained for.
    """

    def __init__(self, model: SegmentationModel, output: Output) -> None:
        super().__init__()
        self.model, self.output = model, output

    @override
    def forward(self, image: Tensor) -> Tensor:
        logits = self.model.decode(self.model.encode(image)).logits
        return foreground_probabilities(logits, self.output)


def example(trained: Trained, batch: int = 1, extra: int = 0, seed: int = 0) -> Tensor:
    """Return a random input [batch, C, *P] that the network accepts.

    Args:
        trained: decides channels and dimensions.
        batch: windows.
        extra: strides that the last side is longer than the others.
        seed: of the values.
    """
    stride, dims = trained.model.stride, trained.seen.spatial_dims
    sides = [2 * stride] * (dims - 1) + [(2 + extra) * stride]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, trained.seen.channels, *sides, generator=generator)


def to_torchscript(trained: Trained, path: Path, metadata: Mapping[str, Any]) -> None:
    """Trace the network into a TorchScript file, with `metadata.json` inside it."""
    with _exporting():
        traced = torch.jit.trace(_network(trained), example(trained), check_trace=False)
        extra = {"metadata.json": json.dumps(metadata, indent=2)}
        cast("torch.jit.ScriptModule", traced).save(str(path), _extra_files=extra)
    _drop_stack_traces(path)


def to_onnx(trained: Trained, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write the network as ONNX with free batch and spatial sizes; metadata are its properties.

    Raises:
        ExportError: the packages for ONNX are not installed.
    """
    try:
        import onnx
    except ImportError:
        raise ExportError(
            "ONNX needs the packages onnx and onnxruntime; install them with "
            "`pip install 'fedssl[export]'`."
        ) from None
    sample = example(trained)
    free = {0: "batch"} | {axis: f"side_{axis - 2}" for axis in range(2, sample.ndim)}
    with _exporting():
        torch.onnx.export(
            _network(trained),
            (sample,),
            str(path),
            dynamo=False,  # the other exporter needs one more package and gives the same graph
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: free, OUTPUT: free},
            opset_version=_OPSET,
        )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {k: json.dumps(v) for k, v in metadata.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _drop_stack_traces(path: Path) -> None:
    """Leave out what names the local folders that the exporting program's files lie in."""
    shorter = path.with_suffix(".tmp")
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(shorter, "w") as kept:
        for record in whole.infolist():
            if not record.filename.endswith(".debug_pkl"):
                kept.writestr(record, whole.read(record))
    shorter.replace(path)


def _network(trained: Trained) -> ForegroundNetwork:
    return ForegroundNetwork(trained.model, trained.seen.output).eval()


@contextmanager
def _exporting() -> Iterator[None]:
    """No gradient, and no warnings of the tracer: the check on another size replaces them."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
