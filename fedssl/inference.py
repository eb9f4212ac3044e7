"""Dense prediction for one prepared case: whole pictures, slice by slice, or sliding windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional as F

from fedssl.functional.labels import decode
from fedssl.types import Output, Task

__all__ = ["label_map", "pad_to_multiple", "predict_case"]

Predictor = Callable[[Tensor], Sequence[Tensor]]


def pad_to_multiple(
    image: Tensor, multiple: int, dims: int, smallest: Sequence[int] | None = None
) -> Tensor:
    """Pad the last `dims` axes of [B, C, *S] at their ends (edge values).

    Sizes become multiples of `multiple`, and at least `smallest`, as training pads its crops.
    """
    pads: list[int] = []
    for size, least in zip(image.shape[-dims:], smallest or (0,) * dims, strict=True):
        pads = [0, max(-size % multiple, least - size), *pads]
    return F.pad(image, pads, mode="replicate") if any(pads) else image


def predict_case(
    predictor: Predictor,
    image: Tensor,
    task: Task,
    *,
    patch: Sequence[int] | None,
    stride: int,
    overlap: float = 0.5,
    batch_size: int = 8,
) -> list[Tensor]:
    """Apply `predictor` to a whole case.

    Args:
        predictor: [B, C, *P] -> tensors [B, M, *P / r], each at its own integer reduction r; called
            without gradient.
        image: [C, *S] prepared image; a volume [C, D, H, W] in the slice modes.
        task: decides how a case is cut.
        patch: training patch; windows of this size slide over larger images.
        stride: input sizes are padded to multiples of it.
        overlap: of neighbouring windows, in [0, 1).
        batch_size: slices or windows per call.

    Returns:
        One tensor [M, *ceil(S / r)] per output; slice modes stack slices as [M, D, ...].
    """
    with torch.no_grad():
        if task.mode in ("slices", "2.5d"):
            return _by_slices(predictor, image, task, patch, stride, overlap, batch_size)
        outputs = _windows(predictor, image[None], patch, stride, overlap, batch_size)
        return [out[0] for out in outputs]


def _by_slices(
    predictor: Predictor,
    image: Tensor,
    task: Task,
    patch: Sequence[int] | None,
    stride: int,
    overlap: float,
    batch_size: int,
) -> list[Tensor]:
    slices = neighbours_as_channels(image) if task.mode == "2.5d" else image.transpose(0, 1)
    chunks = [
        _windows(predictor, chunk, patch, stride, overlap, batch_size)
        for chunk in torch.split(slices, batch_size)
    ]
    return [torch.cat(parts).transpose(0, 1) for parts in zip(*chunks, strict=True)]


def neighbours_as_channels(image: Tensor) -> Tensor:
    """Turn a volume [C, D, H, W] into [D, 3C, H, W]: each slice with its two neighbours.

    The ends are clamped, so no slice ever meets another volume's.
    """
    depth = image.shape[1]
    index = torch.arange(depth, device=image.device)
    stacked = [image[:, (index + shift).clamp(0, depth - 1)] for shift in (-1, 0, 1)]
    return torch.cat(stacked).transpose(0, 1)


def _windows(
    predictor: Predictor,
    batch: Tensor,
    patch: Sequence[int] | None,
    stride: int,
    overlap: float,
    batch_size: int,
) -> list[Tensor]:
    dims = batch.ndim - 2
    sizes = batch.shape[2:]
    padded = pad_to_multiple(batch, stride, dims, patch)
    if patch is None or tuple(patch) == tuple(padded.shape[2:]):
        outputs = list(predictor(padded))
        reductions = [padded.shape[-1] // out.shape[-1] for out in outputs]
    else:
        reductions = []

        def call(window: Tensor) -> tuple[Tensor, ...]:
            result = tuple(predictor(window))
            reductions[:] = [window.shape[-1] // out.shape[-1] for out in result]
            return result

        merged = sliding_window_inference(
            padded, tuple(patch), batch_size, call, overlap=overlap, mode="gaussian"
        )
        outputs = list(merged) if isinstance(merged, tuple) else [cast("Tensor", merged)]
    return [_crop(out, sizes, r) for out, r in zip(outputs, reductions, strict=True)]


def _crop(output: Tensor, sizes: Sequence[int], reduction: int) -> Tensor:
    for axis, size in enumerate(sizes):
        output = output.narrow(axis + 2, 0, min(-(-size // reduction), output.shape[axis + 2]))
    return output


def label_map(prob: Tensor, output: Output, size: Sequence[int]) -> Tensor:
    """Return the label map [*size] uint8 of foreground probabilities [F, *S] of one case."""
    if tuple(prob.shape[1:]) != tuple(size):
        # Probabilities, not labels, are resized: borders stay smooth.
        mode = "trilinear" if len(size) == 3 else "bilinear"
        prob = F.interpolate(prob[None], tuple(size), mode=mode, align_corners=False)[0]
    return decode(prob[None], output)[0].to(torch.uint8)
