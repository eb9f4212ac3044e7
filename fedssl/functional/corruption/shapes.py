"""Simple shapes in place of the object: ellipse, polygon, hull, box, blobs."""

from __future__ import annotations

import math

import numpy as np

from fedssl.functional.corruption.contour import fill_polygon, hull_corners, simplify, trace
from fedssl.functional.corruption.masks import FloatMap, Mask, as_mask, centroid, largest_component

__all__ = [
    "bounding_box",
    "circular_blob",
    "convex_hull",
    "ellipse_fit",
    "gaussian_blob",
    "polygon",
]

_PIXEL_VARIANCE = 1.0 / 12.0
"""Variance of a position within one pixel, so that a line of pixels has a width."""


def ellipse_fit(mask: Mask, rng: np.random.Generator) -> Mask:
    """Replace the object by the ellipse with the second moments of its largest component."""
    if not mask.any():
        return mask.copy()
    rows, columns = np.nonzero(largest_component(mask))
    points = np.stack([rows, columns]).astype(np.float64)
    centre = points.mean(axis=1)
    covariance = np.cov(points, bias=True).reshape(2, 2) + _PIXEL_VARIANCE * np.eye(2)
    offset = _offsets(mask, centre[0], centre[1])
    # A uniform ellipse with semi-axis a has variance a^2 / 4 along it.
    distance = np.einsum("ihw,ij,jhw->hw", offset, np.linalg.inv(covariance), offset)
    return as_mask(distance <= 4.0)


def polygon(mask: Mask, rng: np.random.Generator, *, sides: int) -> Mask:
    """Replace the object by a polygon through the contour of its largest component."""
    if not mask.any():
        return mask.copy()
    contour = trace(largest_component(mask))
    return fill_polygon(simplify(contour, sides, rng), (mask.shape[0], mask.shape[1]))


def convex_hull(mask: Mask, rng: np.random.Generator) -> Mask:
    """Replace the object by its convex hull over all components."""
    if not mask.any():
        return mask.copy()
    return fill_polygon(hull_corners(mask), (mask.shape[0], mask.shape[1]))


def bounding_box(mask: Mask, rng: np.random.Generator) -> Mask:
    """Replace the object by its upright bounding box over all components."""
    if not mask.any():
        return mask.copy()
    rows, columns = np.nonzero(mask)
    box = np.zeros_like(mask)
    box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
    return box


def gaussian_blob(mask: Mask, rng: np.random.Generator, *, factor: float) -> Mask:
    """Replace the object by a level set of an upright Gaussian with its centre and spreads.

    Args:
        mask: [H, W].
        rng: not used.
        factor: area of the blob relative to the object.
    """
    if not mask.any():
        return mask.copy()
    rows, columns = np.nonzero(mask)
    spread = np.sqrt([rows.var() + _PIXEL_VARIANCE, columns.var() + _PIXEL_VARIANCE])
    offset = _offsets(mask, rows.mean(), columns.mean()) / spread[:, None, None]
    distance = np.square(offset).sum(axis=0)
    area = min(round(len(rows) * factor), mask.size) or 1
    level = np.partition(distance, area - 1, axis=None)[area - 1]
    return as_mask(distance <= level)


def circular_blob(mask: Mask, rng: np.random.Generator) -> Mask:
    """Replace the object by the disc of equal area around its centre."""
    if not mask.any():
        return mask.copy()
    row, column = centroid(mask)
    radius = math.sqrt(int(np.count_nonzero(mask)) / math.pi)
    distance = np.square(_offsets(mask, row, column)).sum(axis=0)
    return as_mask(distance <= radius**2)


def _offsets(mask: Mask, row: float, column: float) -> FloatMap:
    """Row and column of every pixel relative to a point, [2, H, W]."""
    height, width = mask.shape
    grid = np.meshgrid(np.arange(height) - row, np.arange(width) - column, indexing="ij")
    offsets: FloatMap = np.stack(grid)
    return offsets
