"""Masks as files, beside the images that they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fedssl.data.cropping import Box, lengths, paste, whole
from fedssl.data.formats import format_of, stem_of
from fedssl.data.geometry import Geometry
from fedssl.data.readers import write_label

__all__ = ["mask_name", "write_onto"]


def mask_name(image: Path, case: str = "") -> str:
    """Return the file name of an image's mask: the image's own, where its format keeps masks.

    JPEG would change their values, and it as well as GIF and .img become PNG; what may hold a
    volume and cannot be written becomes NIfTI.

    Args:
        image: the image file.
        case: the case's name, where many cases have image files of one name; empty: the file's.
    """
    file_format, stem = format_of(image), stem_of(image.name)
    suffix = image.name[len(stem) :]
    if file_format is not None and (not file_format.writable or file_format.name == "JPEG"):
        suffix = ".png" if file_format.picture else ".nii.gz"
    return (case.replace("/", "_") or stem) + suffix


def write_onto(path: Path, label: np.ndarray, geometry: Geometry, box: Box | None = None) -> None:
    """Write a map of integers [*S] onto a file's grid; another size is filled by nearest value.

    Args:
        path: file to write.
        label: of the whole image, or of a box of it.
        geometry: the image's grid.
        box: what of the grid `label` covers, 0 elsewhere; None: all.

    Raises:
        DataError: the file cannot be written.
    """
    size = tuple(geometry.size[axis] for axis in reversed(geometry.axes))
    # A picture stored as a volume of one slice.
    plane = label[np.newaxis] if label.ndim == len(size) - 1 else label
    place = whole(size) if box is None else (*whole(size[: len(size) - len(box)]), *box)
    if plane.shape != lengths(place):
        grown = torch.from_numpy(plane[np.newaxis, np.newaxis].astype(np.float32))
        resized = F.interpolate(grown, lengths(place), mode="nearest-exact")
        plane = resized[0, 0].numpy().astype(label.dtype)
    write_label(path, paste(plane, place, size), geometry)
