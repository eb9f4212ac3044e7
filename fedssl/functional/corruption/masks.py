"""What all operations share: the mask type, sizes in pixels, overlap, components, sampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = [
    "FloatMap",
    "Mask",
    "as_mask",
    "centroid",
    "components",
    "dice",
    "largest_component",
    "odd",
    "pixels",
    "sample",
    "scale_of",
]

Mask = NDArray[np.uint8]
"""[H, W], 1 on the object and 0 elsewhere."""

FloatMap = NDArray[np.float64]

_REFERENCE_SIZE = 224
"""Side of the square images for which sizes in pixels were chosen."""

_EIGHT_CONNECTED = np.ones((3, 3), dtype=np.uint8)


def as_mask(values: NDArray[Any]) -> Mask:
    """Return 1 where an array is not zero or false, else 0; a copy."""
    mask: Mask = (values != 0).astype(np.uint8)
    return mask


def dice(a: Mask, b: Mask) -> float:
    """Return the Dice overlap of two masks in [0, 1]; two empty masks overlap fully."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 1.0 if total == 0 else 2.0 * int(np.count_nonzero((a != 0) & (b != 0))) / total


def scale_of(mask: Mask) -> float:
    """Return the side of the mask (geometric mean) relative to 224 pixels."""
    height, width = mask.shape
    return math.sqrt(height * width) / _REFERENCE_SIZE


def pixels(mask: Mask, size: float) -> int:
    """Return a length given for 224 x 224 images in pixels of this mask, at least 1."""
    return max(1, round(size * scale_of(mask)))


def odd(mask: Mask, size: int) -> int:
    """Return an odd kernel size given for 224 x 224 images in pixels of this mask, at least 3."""
    return 2 * pixels(mask, size // 2) + 1


def centroid(mask: Mask) -> tuple[float, float]:
    """Return the mean row and column of a mask that is not empty."""
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


def components(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """Return the map of 8-connected components (1..n, 0 outside) and their number n."""
    labels, count = ndimage.label(mask, structure=_EIGHT_CONNECTED)
    return labels, int(count)


def largest_component(mask: Mask) -> Mask:
    """Return the largest 8-connected component alone (the first one of equal size)."""
    labels, count = components(mask)
    if count <= 1:
        return mask.copy()
    sizes = np.bincount(labels.ravel())[1:]
    return as_mask(labels == 1 + int(sizes.argmax()))


def sample(mask: Mask, rows: FloatMap, columns: FloatMap) -> Mask:
    """Return the mask at real-valued positions: nearest pixel, 0 outside.

    Nearest, because linear interpolation followed by truncation would erode by half a pixel.

    Args:
        mask: [H, W].
        rows: positions along H; broadcast against `columns`.
        columns: positions along W.
    """
    height, width = mask.shape
    padded = np.pad(mask, 1)
    row = np.clip(np.rint(rows), -1, height).astype(np.intp) + 1
    column = np.clip(np.rint(columns), -1, width).astype(np.intp) + 1
    out: Mask = padded[row, column]
    return out
