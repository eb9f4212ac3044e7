"""Files that SimpleITK reads: its silence, its errors, its headers and its pixels."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- its customary name

from fedssl.data.decoded import Decoded
from fedssl.data.formats import FileFormat, check_claimed_size
from fedssl.data.geometry import Geometry
from fedssl.errors import DataError

__all__ = ["itk_geometry", "itk_grid", "itk_header", "itk_pixels", "quiet", "read_itk"]

_LARGEST_SPACING = 1e6
"""In mm; a header with more is damaged."""
_SPACING_LINES = {
    "MetaImageIO": rb"(?m)^[ \t]*Element(?:Spacing|Size)[ \t]*=[^\r\n]*\d",
    "NrrdImageIO": rb"(?im)^(?:spacings|space directions):(?!=)[^\r\n]*\d",
}
"""By reader: the header's line with lengths, which may be missing; then ITK takes 1."""
_HEADER_BYTES = 1 << 16
_HEADER_END = rb"\r?\n\r?\n|ElementDataFile"
_SKEW = 0.02
"""Cosine of two axes that are no more at right angles; headers round."""


def read_itk(path: Path, file_format: FileFormat) -> Decoded:
    """Read one file [C, *S] in file order, dtype as stored.

    Raises:
        DataError: it cannot be read whole, or its header makes no grid.
    """
    with quiet(path):
        reader = itk_header(path, file_format.image_io)
        geometry = itk_geometry(reader, path)
        array = itk_pixels(reader, path)
    return Decoded(array, geometry, physical=_tells_lengths(path, file_format))


def _tells_lengths(path: Path, file_format: FileFormat) -> bool:
    """Return whether a header gives the spacing in mm."""
    line = _SPACING_LINES.get(file_format.image_io)
    if line is None:
        return not file_format.picture
    with path.open("rb") as file:
        header = re.split(_HEADER_END, file.read(_HEADER_BYTES), maxsplit=1)[0]
    return re.search(line, header) is not None


def itk_grid(path: Path, file_format: FileFormat) -> Geometry:
    """Read a file's grid only."""
    with quiet(path):
        return itk_geometry(itk_header(path, file_format.image_io), path)


def itk_header(path: Path, image_io: str) -> sitk.ImageFileReader:
    """Return a reader that has read the header, within `quiet`."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def itk_pixels(reader: sitk.ImageFileReader, path: Path) -> np.ndarray:
    """Return [C, *S] of a file whose header was read, within `quiet`."""
    pixels = prod(reader.GetSize()) * reader.GetNumberOfComponents()
    check_claimed_size(path, pixels * _bytes_per_value(reader.GetPixelID(), path))
    image = reader.Execute()
    return _channels_first(sitk.GetArrayFromImage(image), image, path)


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


def itk_geometry(reader: sitk.ImageFileReader, path: Path) -> Geometry:
    """Return the grid that a header describes.

    Raises:
        DataError: spacing, origin or direction make no grid.
    """
    size, dims = reader.GetSize(), min(len(reader.GetSize()), 3)
    cosines = np.reshape(reader.GetDirection(), (len(size), len(size)))[:dims, :dims]
    spacing, origin = reader.GetSpacing()[:dims], reader.GetOrigin()[:dims]
    numbers = [*spacing, *origin, *cosines.flat]
    proper = np.isfinite(numbers).all() and all(0 < s < _LARGEST_SPACING for s in spacing)
    if not proper or np.abs(cosines.T @ cosines - np.eye(dims)).max() > _SKEW:
        raise DataError(
            f"{path}: its header has the spacing {spacing}, origin {origin} and direction "
            f"{cosines.tolist()}, which make no grid. Correct the header; spacings are positive "
            "mm, axes at right angles."
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
def quiet(
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
