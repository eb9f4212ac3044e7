"""The files of one case to one picture and one mask: channels joined, masks decoded and layered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import binary_erosion

from fedssl.data.dicom import series_files
from fedssl.data.formats import detached_files
from fedssl.data.geometry import Geometry
from fedssl.data.layouts.cases import CaseFile, MaskCode
from fedssl.data.readers import LabelPicture, Picture, read_geometry, read_image, read_label
from fedssl.data.stacks import stacked_grid, stacked_mask, stacked_picture
from fedssl.errors import DataError

__all__ = ["case_grid", "decode", "files_behind", "read_mask", "read_picture", "recipe"]

_LOSSY = (".jpg", ".jpeg")
_LOSS = 48
"""How far a lossy compression may move a value, and the channels of a grey picture apart."""
_WHITE = 255
_RELABEL = (
    "Correct the mask, or give the site "
    'options = { label-values = "..." } with one file value per class.'
)


def read_picture(case: CaseFile) -> Picture:
    """Read a case's image; further files become further channels.

    Raises:
        DataError: a file cannot be read, or they are not on one grid.
    """
    if case.slices:
        return stacked_picture(case.slices, read_picture)
    first = read_image(case.image, case.image_key)
    arrays = [first.array]
    for path in case.more_images:
        other = read_image(path, case.image_key)
        if other.array.shape[1:] != first.array.shape[1:]:
            raise DataError(
                f"{path} has the shape {other.array.shape[1:]}, but {case.image}, another channel "
                f"of the same case, has {first.array.shape[1:]}. Resample them onto one grid."
            )
        arrays.append(other.array)
    if len(arrays) == 1:
        return first
    joined = np.concatenate(arrays)
    return Picture(joined, first.spacing, first.has_physical_spacing, first.geometry)


def read_mask(case: CaseFile, code: MaskCode | None) -> LabelPicture:
    """Read a case's mask.

    Args:
        case: one that has a mask.
        code: how its values become class indices; None: they stay as the file has them.

    Raises:
        DataError: a file cannot be read, holds a value that the code does not know, or layers
            differ in size.
    """
    if case.label is None:
        raise DataError(f"Case {case.name!r} has no mask; add one or leave it unlabeled.")
    if case.slices:
        return stacked_mask(case.slices, lambda part: read_mask(part, code))
    if case.layers:
        return _layered(case)
    raw = _grey(case.label, case.label_key)
    return raw if code is None else LabelPicture(decode(raw.array, code, case.label), raw.geometry)


def decode(array: np.ndarray, code: MaskCode, path: Path) -> np.ndarray:
    """Return class indices [*S] int64 of a mask as stored [*S].

    Args:
        array: the file's values.
        code: what they stand for.
        path: named in errors.
    """
    classes = _classes(array, code, path)
    if code.inverted == "yes" or (code.inverted == "corners" and (_corners(classes) > 0).all()):
        classes = _classes(255 - array, code, path) if code.ranges else 1 - classes
    return classes


def _classes(array: np.ndarray, code: MaskCode, path: Path) -> np.ndarray:
    if not code.ranges:
        return _binary(array, path, _RELABEL).astype(np.int64)
    classes = np.full(array.shape, -1, dtype=np.int64)
    for low, high, index in code.ranges:
        classes[(array >= low) & (array <= high)] = index
    if (classes < 0).any():
        spans = ", ".join(f"{low}..{high} = class {i}" for low, high, i in code.ranges)
        raise DataError(
            f"{path} holds the value {array[classes < 0].flat[0]}, which this layout does not know "
            f"({spans}). Look whether it is the mask that belongs there."
        )
    return classes


def _binary(array: np.ndarray, path: Path, remedy: str) -> np.ndarray:
    """Return what is set [*S] bool in a mask of 0 and 1, of 0 and 255, or in a lossy copy of it.

    Values just below 255 tell a lossy copy from a mask of several classes: classes are counted up
    from 0, and 255 alone is their "unknown". Greys may lie along edges, where resizing leaves them.
    """
    highest = int(array.max())
    if highest in (0, 1, _WHITE) and ((array == 0) | (array == highest)).all():
        return np.asarray(array > 0)
    low, high = _LOSS, _WHITE - _LOSS
    grey = (array > low) & (array < high)
    lossy = array.min() >= 0 and highest <= _WHITE and ((array >= high) & (array < _WHITE)).any()
    resized = highest == _WHITE and (grey | (array == 0) | (array == _WHITE)).all()
    if (lossy or resized) and not binary_erosion(
        grey, np.ones((3,) * grey.ndim), iterations=2
    ).any():
        return np.asarray(array > _WHITE // 2)
    odd = grey if lossy else (array != 0) & (array != (_WHITE if highest == _WHITE else 1))
    raise DataError(
        f"{path} holds the value {array[odd].flat[0]}, but the masks of this layout are 0 and 1, "
        f"or 0 and 255 (lossy copies of that too). {remedy}"
    )


def recipe(case: CaseFile) -> list[object]:
    """Return what decides, besides the files' contents, what is read; JSON can hold it."""
    layers = [(case.label_files.index(layer.path), layer.index, layer.key) for layer in case.layers]
    code = None if case.code is None else [list(case.code.ranges), case.code.inverted]
    keys = [case.image_key, case.label_key, len(case.more_images), code, layers, case.split]
    return [*keys, case.scaled, [recipe(part) for part in case.slices]]


def case_grid(case: CaseFile) -> Geometry:
    """Return the grid of a case's image, from its headers."""
    if case.slices:
        return stacked_grid(read_geometry(case.image, case.image_key), len(case.slices))
    return read_geometry(case.image, case.image_key)


def files_behind(paths: tuple[Path, ...]) -> list[Path]:
    """Return files together with the pixel files that their headers point at.

    A folder stands for the files of one DICOM series.
    """
    return [
        file
        for path in paths
        for file in (series_files(path) if path.is_dir() else (path, *detached_files(path)))
    ]


def _layered(case: CaseFile) -> LabelPicture:
    first = _grey(case.layers[0].path, case.layers[0].key)
    classes = np.zeros(first.array.shape, dtype=np.int64)
    for number, layer in enumerate(case.layers):
        raw = _grey(layer.path, layer.key) if number else first
        if raw.array.shape != classes.shape:
            raise DataError(
                f"The mask {layer.path} has the shape {raw.array.shape}, but "
                f"{case.layers[0].path}, of the same image, has {classes.shape}."
            )
        remedy = "It marks one class only: save it as 0 (not set) and 255 (set)."
        classes[_binary(raw.array, layer.path, remedy)] = layer.index
    return LabelPicture(classes, first.geometry)


def _grey(path: Path, key: str) -> LabelPicture:
    """Read a mask; the three channels of a lossy file need not be equal."""
    if not path.name.lower().endswith(_LOSSY):
        return read_label(path, key)
    picture = read_image(path, key)
    apart = picture.array.max(axis=0) - picture.array.min(axis=0)
    if apart.max() > _LOSS:
        raise DataError(
            f"{path} is a mask in real colours; a mask has one value per pixel. Save it as a "
            "single-channel PNG of class indices."
        )
    return LabelPicture(np.rint(picture.array.mean(axis=0)).astype(np.int64), picture.geometry)


def _corners(array: np.ndarray) -> np.ndarray:
    return array[..., [0, 0, -1, -1], [0, -1, 0, -1]]
