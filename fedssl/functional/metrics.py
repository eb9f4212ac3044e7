"""Segmentation metrics of one class in one image, in numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from monai.metrics.utils import get_mask_edges, get_surface_distance

__all__ = ["SurfaceDistances", "dice", "surface_distances"]


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """Distances between two surfaces, in the unit of the spacing.

    Args:
        hd95: symmetric 95th percentile Hausdorff distance.
        assd: average symmetric surface distance.
    """

    hd95: float
    assd: float


def dice(pred: Bool[np.ndarray, "*S"], truth: Bool[np.ndarray, "*R"]) -> float:
    """Return `2 |A and B| / (|A| + |B|)` in [0, 1]; 1.0 where both are empty.

    Raises:
        ValueError: the shapes differ.
    """
    pred, truth = _masks(pred, truth)
    size = int(np.count_nonzero(pred)) + int(np.count_nonzero(truth))
    if size == 0:
        return 1.0
    return 2.0 * int(np.count_nonzero(pred & truth)) / size


def surface_distances(
    pred: Bool[np.ndarray, "*S"], truth: Bool[np.ndarray, "*R"], spacing: Sequence[float]
) -> SurfaceDistances:
    """Return HD95 and ASSD of two masks, in 2D or 3D.

    A surface is the set of foreground pixels with a background neighbour across a side (pixels
    at the border of the image count). HD95 is the larger of the two directed 95th percentiles
    (linear interpolation); ASSD averages the distances of both directions together. Both follow
    MONAI, computed on the box around both masks, which changes nothing.

    Empty masks: both empty gives 0.0; exactly one empty gives the diagonal of the whole image.

    Args:
        pred: predicted mask.
        truth: reference mask of the same shape.
        spacing: size of a pixel along each axis, in the unit of the result.

    Raises:
        ValueError: shapes differ, or `spacing` is not one positive number per axis.
    """
    pred, truth = _masks(pred, truth)
    if len(spacing) != pred.ndim or not all(0 < s < math.inf for s in spacing):
        raise ValueError(f"Expected {pred.ndim} positive spacings, got {tuple(spacing)}.")
    any_pred, any_truth = bool(pred.any()), bool(truth.any())
    if not any_pred and not any_truth:
        return SurfaceDistances(0.0, 0.0)
    if not any_pred or not any_truth:
        diagonal = math.hypot(*(n * s for n, s in zip(pred.shape, spacing, strict=True)))
        return SurfaceDistances(diagonal, diagonal)
    box = _box(pred | truth)
    edges = get_mask_edges(pred[box], truth[box], crop=False)
    there, back = _directed(edges[0], edges[1], spacing), _directed(edges[1], edges[0], spacing)
    return SurfaceDistances(
        hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        assd=float(np.concatenate((there, back)).mean()),
    )


def _masks(
    pred: Bool[np.ndarray, "*S"], truth: Bool[np.ndarray, "*R"]
) -> tuple[Bool[np.ndarray, "*S"], Bool[np.ndarray, "*S"]]:
    if pred.shape != truth.shape:
        raise ValueError(f"Prediction {pred.shape} and reference {truth.shape} differ in shape.")
    return pred.astype(bool, copy=False), truth.astype(bool, copy=False)


def _box(mask: Bool[np.ndarray, "*S"]) -> tuple[slice, ...]:
    """Return the bounding box plus one pixel, so that surfaces stay surfaces after the cut."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        box.append(slice(max(int(hits[0]) - 1, 0), int(hits[-1]) + 2))
    return tuple(box)


def _directed(
    source: Bool[np.ndarray, "*S"], target: Bool[np.ndarray, "*S"], spacing: Sequence[float]
) -> Float[np.ndarray, " N"]:
    return np.asarray(get_surface_distance(source, target, spacing=list(spacing)), dtype=np.float64)
