"""Image and mask files to arrays, through SimpleITK; every failure is a `DataError`.

A volume comes in the canonical orientation of `fedssl.data.geometry`, a picture as it is stored.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- its customary name

from fedssl.data.formats import FileFormat, check_bytes, check_claimed_size
from fedssl.data.geometry import Geometry
from fedssl.data.nifti import not_finite
from fedssl.errors import DataError

__all__ = ["LabelPicture", "Picture", "read_geometry", "read_image", "read_label", "write_label"]

_LARGEST_SPACING = 1e6
"""In mm; a header with more is damaged."""


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
    array, geometry, file_format = _read(path, key)
    if file_format.picture and len(array) in (2, 4):
        array = array[:-1]
    with np.errstate(over="ignore", invalid="ignore"):
        image = np.ascontiguousarray(geometry.canonical(array), dtype=np.float32)
    broken = int(image.size - np.count_nonzero(np.isfinite(image)))
    if broken:
        raise not_finite(path, broken)
    physical = not file_format.picture
    spacing = geometry.canonical_spacing if physical else (1.0,) * len(geometry.size)
    return Picture(image, spacing, physical, geometry)


def read_label(path: Path, key: str = "") -> LabelPicture:
    """Read a mask: one value per pixel, or a colour file that holds no more than that.

    Args:
        path: mask file.
        key: which array of a container file is meant.

    Raises:
        DataError: the file cannot be read whole, has real colours, or values that are no integers.
    """
    path = Path(path)
    array, geometry, file_format = _read(path, key)
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
    _check_key(path, key)
    file_format = check_bytes(path)
    with _quiet(path):
        return _geometry(_header(path, file_format), path)


def write_label(path: Path, label: np.ndarray, geometry: Geometry) -> None:
    """Write a canonical mask [*S] onto a file's own grid.

    Raises:
        DataError: the format cannot hold it or the folder cannot be written.
    """
    path = Path(path)
    stored = np.ascontiguousarray(geometry.restore(label))
    if stored.shape != tuple(reversed(geometry.size)):
        raise DataError(f"{path}: a mask {stored.shape} does not fit the grid {geometry.size}.")
    image = sitk.GetImageFromArray(stored)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    with _quiet(path, "written", "Choose a folder and a format that can hold a mask."):
        sitk.WriteImage(image, str(path), useCompression=True)


def _one_channel(array: np.ndarray, path: Path) -> np.ndarray:
    """Return [*S] from [C, *S] if the channels say no more than one mask."""
    if len(array) == 1 or (array == array[:1]).all():
        first: np.ndarray = array[0]
        return first
    lit = (array != 0).any(axis=0)
    colours = array[:, lit]
    if lit.any() and not lit.all() and (colours == colours[:, :1]).all():
        return np.asarray(lit, dtype=np.uint8)
    raise DataError(
        f"{path} is a mask with {len(array)} channels that differ (a colour picture?); a mask has "
        "one value per pixel. Save it as a single-channel file of class indices."
    )


def _check_key(path: Path, key: str) -> None:
    if key:
        raise DataError(f"{path} holds one image, no array {key!r}; give the file without it.")


def _read(path: Path, key: str) -> tuple[np.ndarray, Geometry, FileFormat]:
    """Return [C, *S] in file order, dtype as stored."""
    _check_key(path, key)
    file_format = check_bytes(path)
    with _quiet(path):
        reader = _header(path, file_format)
        geometry = _geometry(reader, path)
        pixels = prod(reader.GetSize()) * reader.GetNumberOfComponents()
        check_claimed_size(path, pixels * _bytes_per_value(reader.GetPixelID(), path))
        image = reader.Execute()
        array = sitk.GetArrayFromImage(image)
    return _channels_first(array, image, path), geometry, file_format


def _channels_first(array: np.ndarray, image: sitk.Image, path: Path) -> np.ndarray:
    components, dims = image.GetNumberOfComponentsPerPixel(), image.GetDimension()
    vector = array.ndim > dims
    if dims not in (2, 3, 4) or (dims == 4 and vector and array.shape[0] > 1):
        raise DataError(
            f"{path} has {dims} axes and {components} components; supported are pictures, volumes "
            "and volumes with channels. Export one volume per file."
        )
    if vector:
        array = np.moveaxis(array, -1, 0)
        return np.asarray(array[:, 0] if dims == 4 else array)
    return array if dims == 4 else np.asarray(array[np.newaxis])


def _header(path: Path, file_format: FileFormat) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(file_format.image_io)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _geometry(reader: sitk.ImageFileReader, path: Path) -> Geometry:
    size, dims = reader.GetSize(), min(len(reader.GetSize()), 3)
    cosines = np.reshape(reader.GetDirection(), (len(size), len(size)))[:dims, :dims]
    spacing, origin = reader.GetSpacing()[:dims], reader.GetOrigin()[:dims]
    numbers = [*spacing, *origin, *cosines.flat]
    if not np.isfinite(numbers).all() or not all(0 < s < _LARGEST_SPACING for s in spacing):
        raise DataError(
            f"{path}: its header has the spacing {spacing}, origin {origin} and direction "
            f"{cosines.tolist()}, which make no grid. Correct the header; spacings are positive mm."
        )
    return Geometry.of(
        tuple(size[:dims]), tuple(spacing), tuple(origin), tuple(float(c) for c in cosines.flat)
    )


def _bytes_per_value(pixel_id: int, path: Path) -> int:
    name = sitk.GetPixelIDValueAsString(pixel_id)
    bits = re.search(r"(\d+)-bit", name)
    if "complex" in name or bits is None:
        raise DataError(f"{path} holds {name} values; store integers or real numbers.")
    return int(bits[1]) // 8


_LOCK = threading.Lock()


@contextmanager
def _quiet(
    path: Path, doing: str = "read", remedy: str = "Copy or export it again."
) -> Iterator[None]:
    """Keep C libraries off stdout and stderr, and turn what they raise into a `DataError`."""
    with _LOCK, tempfile.TemporaryFile() as spool:
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        saved = _redirect(spool.fileno())
        try:
            yield
        except (RuntimeError, ValueError, MemoryError, OverflowError) as error:
            spool.seek(0)
            reason = _reason(error, spool.read(1 << 16).decode("utf-8", "replace"))
            raise DataError(f"{path} cannot be {doing}: {reason}. {remedy}") from None
        finally:
            for fd, copy in saved.items():
                os.dup2(copy, fd)
                os.close(copy)


def _redirect(target: int) -> dict[int, int]:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.flush()
    saved = {}
    for fd in (1, 2):
        with suppress(OSError):  # a service may run with these closed
            saved[fd] = os.dup(fd)
            os.dup2(target, fd)
    return saved


def _reason(error: Exception, spoken: str) -> str:
    """Return one line of what ITK and the libraries below it said."""
    raised = [
        re.sub(r"^.*?\(0x[0-9a-f]+\):\s*|^sitk::ERROR:\s*", "", x) for x in _lines(str(error))
    ]
    nrrd = [x for x in raised if x.startswith("[nrrd]")]
    if nrrd:  # the last line is the innermost cause
        told = [re.sub(r"^\[nrrd\]\s*\w+:\s*", "", nrrd[-1])]
    else:
        told = _lines(spoken)[:2] or [x for x in raised if not x.startswith("Exception thrown")][:1]
    text = "; ".join(told) or type(error).__name__
    return "".join(c for c in text if c.isprintable()).rstrip(". !")[:300]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
