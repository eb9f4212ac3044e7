"""Cropping images to their foreground, and putting masks back where they were cut out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from fedssl.data.intensity import foreground

__all__ = ["Box", "cut", "foreground_box", "lengths", "paste", "whole"]

Box = tuple[tuple[int, int], ...]
"""Per axis of *S the first index and the one after the last."""


def foreground_box(image: np.ndarray) -> Box:
    """Return the smallest box that holds every voxel which is not dark (see `foreground`).

    Args:
        image: [C, *S] raw intensities.
    """
    (found,) = ndimage.find_objects(foreground(image).astype(np.uint8))
    return tuple((int(part.start), int(part.stop)) for part in found)


def whole(shape: Sequence[int]) -> Box:
    """Return the box that leaves nothing of *S out."""
    return tuple((0, int(n)) for n in shape)


def lengths(box: Box) -> tuple[int, ...]:
    """Return the size of a box."""
    return tuple(end - start for start, end in box)


def cut(array: np.ndarray, box: Box) -> np.ndarray:
    """Return the part of [..., *S] that lies in a box, as a view."""
    inside: Any = (..., *(slice(start, end) for start, end in box))
    part: np.ndarray = array[inside]
    return part


def paste(part: np.ndarray, box: Box, shape: Sequence[int]) -> np.ndarray:
    """Return [*S] that holds `part` in a box and 0 outside it."""
    if box == whole(shape):
        return part
    array = np.zeros(tuple(shape), dtype=part.dtype)
    cut(array, box)[...] = part
    return array
