"""Pictures stacked to a volume, and masks brought to the resolution of their image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedssl.data.decoded import plain_grid
from fedssl.data.geometry import Geometry
from fedssl.data.layouts.cases import CaseFile
from fedssl.data.readers import LabelPicture, Picture
from fedssl.errors import DataError

__all__ = ["as_slice", "fitted_mask", "stacked_grid", "stacked_mask", "stacked_picture"]


def stacked_picture(slices: Sequence[CaseFile], read: Callable[[CaseFile], Picture]) -> Picture:
    """Return one volume [C, D, H, W] of pictures [C, H, W]; its spacing is unknown.

    Raises:
        DataError: a picture cannot be read, or they differ in size or channels.
    """
    pictures = [read(part).array for part in slices]
    _check_alike(slices, pictures)
    array = np.stack(pictures, axis=1)
    return Picture(array, (1.0,) * 3, False, plain_grid(array.shape[1:]))


def stacked_mask(
    slices: Sequence[CaseFile], read: Callable[[CaseFile], LabelPicture]
) -> LabelPicture:
    """Return one mask [D, H, W] of masks [H, W].

    Raises:
        DataError: a mask cannot be read, or they differ in size.
    """
    masks = [read(part).array for part in slices]
    _check_alike(slices, masks)
    array = np.stack(masks)
    return LabelPicture(array, plain_grid(array.shape))


def stacked_grid(first: Geometry, count: int) -> Geometry:
    """Return the grid of `count` pictures on the grid of the first."""
    return plain_grid((count, *reversed(first.size[:2])))


def as_slice(label: LabelPicture, image: Picture) -> LabelPicture:
    """Return a mask with the axes of its image, where one of them has an axis of one slice more.

    Radiographs come as DICOM, a volume of one slice, and their masks as PNG.
    """
    shape, array = image.array.shape[1:], label.array
    if shape[0] == 1 and array.shape == shape[1:]:
        return LabelPicture(array[np.newaxis], image.geometry)
    if array.shape == (1, *shape):
        return LabelPicture(array[0], image.geometry)
    return label


def fitted_mask(label: LabelPicture, image: Geometry) -> LabelPicture:
    """Return a mask on an image's grid by nearest value, both showing the same field of view."""
    array, target = label.array, tuple(image.size[a] for a in reversed(image.axes))
    if array.ndim == len(target):
        for axis, count in enumerate(target):
            have = array.shape[axis]
            array = array.take((np.arange(count) * 2 + 1) * have // (2 * count), axis=axis)
    return LabelPicture(array, image)


def _check_alike(slices: Sequence[CaseFile], arrays: Sequence[np.ndarray]) -> None:
    for part, array in zip(slices, arrays, strict=True):
        if array.shape != arrays[0].shape or array.ndim > 3:
            raise DataError(
                f"{part.image} (or its mask) has the shape {array.shape}, but {slices[0].image}, a "
                f"slice of the same volume, has {arrays[0].shape}. They have to be equal."
            )
