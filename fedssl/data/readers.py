"""Image and mask files to arrays; every failure is a `DataError`.

A volume comes in the canonical orientation of `fedssl.data.geometry`, a picture as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- its customary name

from fedssl.data.bmp import bitmap_shape, read_bitmap
from fedssl.data.decoded import Decoded, plain_grid, split_axes
from fedssl.data.dicom import dicom_grid, read_dicom
from fedssl.data.formats import FileFormat, check_bytes
from fedssl.data.geometry import Geometry
from fedssl.data.gif import gif_shape, read_gif
from fedssl.data.hdf5 import hdf5_shape, read_hdf5
from fedssl.data.itk import itk_grid, quiet, read_itk
from fedssl.data.jsrt_raw import JSRT_SHAPE, read_jsrt
from fedssl.data.matlab import read_matlab
from fedssl.data.nifti import not_finite
from fedssl.data.npy import npy_shape, read_npy
from fedssl.data.pictures import png_classes
from fedssl.errors import DataError

__all__ = ["LabelPicture", "Picture", "read_geometry", "read_image", "read_label", "write_label"]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as it was stored.

    Args:
        array: [C, *S] float32; *S is (H, W) for pictures and (D, H, W) for volumes.
        spacing: distance of neighbours per axis of *S; all ones where it is not physical.
        has_physical_spacing: whether `spacing` is in mm.
        geometry: the file's grid, to write a result back onto it.
    """

    array: np.ndarray
    spacing: tuple[float, ...]
    has_physical_spacing: bool
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class LabelPicture:
    """A mask as it was stored.

    Args:
        array: [*S] int64, the values of the file.
        geometry: the file's grid.
    """

    array: np.ndarray
    geometry: Geometry


def read_image(path: Path, key: str = "") -> Picture:
    """Read an image; components and a fourth axis become channels, alpha is dropped.

    Args:
        path: image file.
        key: which array of a container file is meant.

    Raises:
        DataError: the file cannot be read whole, or holds a value that is not finite.
    """
    path = Path(path)
    decoded, file_format = _read(path, key, "image")
    array, geometry = decoded.array, decoded.geometry
    if file_format.picture and len(array) in (2, 4):
        array = array[:-1]
    with np.errstate(over="ignore", invalid="ignore"):
        image = np.ascontiguousarray(geometry.canonical(array), dtype=np.float32)
    broken = int(image.size - np.count_nonzero(np.isfinite(image)))
    if broken:
        raise not_finite(path, broken)
    physical = decoded.physical
    spacing = geometry.canonical_spacing if physical else (1.0,) * len(geometry.size)
    return Picture(image, spacing, physical, geometry)


def read_label(path: Path, key: str = "") -> LabelPicture:
    """Read a mask: one value per pixel, or a colour file that holds no more than that.

    Of a PNG with a colour palette the values are the numbers of the colours.

    Args:
        path: mask file.
        key: which array of a container file is meant.

    Raises:
        DataError: the file cannot be read whole, has real colours, or values that are no integers.
    """
    path = Path(path)
    decoded, file_format = _read(path, key, "label")
    array, geometry = decoded.array, decoded.geometry
    if file_format.name == "PNG":
        array = png_classes(path, array)
    if file_format.picture and len(array) in (2, 4) and (array[-1] == array[-1].flat[0]).all():
        array = array[:-1]
    plane = geometry.canonical(_one_channel(array, path))
    if plane.dtype.kind == "f":
        whole = np.isfinite(plane) & (np.round(plane) == plane) & (np.abs(plane) < 2**53)
        if not whole.all():
            raise DataError(
                f"{path} is a mask with the value {plane[~whole].flat[0]:g}; masks hold integers. "
                "Store class indices (a probability map has to be thresholded first)."
            )
    return LabelPicture(np.ascontiguousarray(plane, dtype=np.int64), geometry)


def read_geometry(path: Path, key: str = "") -> Geometry:
    """Read the grid of a file, or of an array in it, only."""
    path = Path(path)
    file_format = check_bytes(path)
    key = _checked_key(path, key, file_format, "image")
    if file_format.image_io:
        return itk_grid(path, file_format)
    return _GRIDS[file_format.name](path, key)


def write_label(path: Path, label: np.ndarray, geometry: Geometry) -> None:
    """Write a canonical mask [*S] onto a file's own grid.

    Raises:
        DataError: the format cannot hold it, or the folder cannot be written or is full.
    """
    path = Path(path)
    stored = np.ascontiguousarray(geometry.restore(label))
    if stored.shape != tuple(reversed(geometry.size)):
        raise DataError(f"{path}: a mask {stored.shape} does not fit the grid {geometry.size}.")
    image = sitk.GetImageFromArray(stored)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    with quiet(path, "written", "Choose a folder and a format that can hold a mask."):
        sitk.WriteImage(image, str(path), useCompression=True)
    _require_written(path, label)


def _require_written(path: Path, label: np.ndarray) -> None:
    """Read a mask back; some writers say nothing when the disk is full."""
    try:
        same = np.array_equal(read_label(path).array, label)
    except DataError:
        same = False
    if not same:
        path.unlink(missing_ok=True)
        raise DataError(
            f"{path} cannot be written in full; the disk may be full. Free some room, then try "
            "again."
        )


def _one_channel(array: np.ndarray, path: Path) -> np.ndarray:
    """Return [*S] from [C, *S] if the channels say no more than one mask."""
    if len(array) == 1 or (array == array[:1]).all():
        first: np.ndarray = array[0]
        return first
    lit = (array != 0).any(axis=0)
    colours = array[:, lit]
    if lit.any() and not lit.all() and (colours == colours[:, :1]).all():
        return np.asarray(lit, dtype=np.uint8) * np.uint8(255)  # set; which class, nobody knows
    raise DataError(
        f"{path} is a mask with {len(array)} channels that differ (a colour picture?); a mask has "
        "one value per pixel. Save it as a single-channel file of class indices."
    )


def _read(path: Path, key: str, role: str) -> tuple[Decoded, FileFormat]:
    """Return [C, *S] in file order, dtype as stored; `role` is the key where none is given."""
    file_format = check_bytes(path)
    key = _checked_key(path, key, file_format, role)
    if file_format.image_io:
        return read_itk(path, file_format), file_format
    return _READERS[file_format.name](path, key), file_format


def _checked_key(path: Path, key: str, file_format: FileFormat, role: str) -> str:
    if file_format.keys == "none" and key:
        raise DataError(f"{path} holds one image, no array {key!r}; give the file without it.")
    return key or (role if file_format.keys == "named" else "")


_READERS: dict[str, Callable[[Path, str], Decoded]] = {
    "DICOM": lambda path, _: read_dicom(path),
    "one-bit BMP": lambda path, _: read_bitmap(path),
    "GIF": lambda path, _: read_gif(path),
    "JSRT image": lambda path, _: read_jsrt(path),
    "HDF5": read_hdf5,
    "NumPy array": read_npy,
    "MATLAB": read_matlab,
}
"""Readers of what SimpleITK does not read as one file, by the name of the format."""


def _hdf5_grid(path: Path, key: str) -> Geometry:
    name, axes = split_axes(key)
    return plain_grid(hdf5_shape(path, name), axes)


_GRIDS: dict[str, Callable[[Path, str], Geometry]] = {
    "DICOM": lambda path, _: dicom_grid(path),
    "one-bit BMP": lambda path, _: plain_grid(bitmap_shape(path)),
    "GIF": lambda path, _: plain_grid(gif_shape(path)),
    "JSRT image": lambda path, _: plain_grid(JSRT_SHAPE),
    "HDF5": _hdf5_grid,
    "NumPy array": lambda path, key: plain_grid(npy_shape(path, key)),
    "MATLAB": lambda path, key: read_matlab(path, key).geometry,
}
