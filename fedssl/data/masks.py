"""Masks as files, beside the images that they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fedssl.data.formats import format_of, stem_of
from fedssl.data.geometry import Geometry
from fedssl.data.readers import write_label

__all__ = ["mask_name", "write_onto"]


def mask_name(image: Path) -> str:
    """Return the file name of an image's mask; JPEG would change its values, so it becomes PNG."""
    lossy = (file_format := format_of(image)) is not None and file_format.name == "JPEG"
    return f"{stem_of(image.name)}.png" if lossy else image.name


def write_onto(path: Path, label: np.ndarray, geometry: Geometry) -> None:
    """Write a map of integers [*S] onto a file's grid; another size is filled by nearest value.

    Raises:
        DataError: the file cannot be written.
    """
    size = tuple(geometry.size[axis] for axis in reversed(geometry.axes))
    # A picture stored as a volume of one slice.
    plane = label[np.newaxis] if label.ndim == len(size) - 1 else label
    if plane.shape != size:
        grown = torch.from_numpy(plane[np.newaxis, np.newaxis].astype(np.float32))
        plane = F.interpolate(grown, size, mode="nearest-exact")[0, 0].numpy().astype(label.dtype)
    write_label(path, plane, geometry)
