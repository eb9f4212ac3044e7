"""What ITK's NIfTI reader does not check.

It returns a truncated file as if it were whole, turns NaN and infinity into 0, and corrupts memory
when the scale factors of a header apply to vectors.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from fedssl.errors import DataError

__all__ = ["check_nifti", "not_finite"]

_CHUNK = 1 << 20
_VECTORS = {32, 128, 1792, 2048, 2304}
"""NIfTI codes of complex and colour voxels."""


def check_nifti(path: Path, *, compressed: bool) -> None:
    """Read the stream once: its header, length, checksum, and values that ITK would hide.

    Raises:
        DataError: what was found, and how to repair it.
    """
    opener = gzip.open if compressed else open
    broken = 0
    try:
        with opener(path, "rb") as file:
            header = _nifti_header(path, file.read(544))
            file.seek(header.start)
            length, rest = header.start, header.size
            while chunk := file.read(min(_CHUNK, rest) if rest else _CHUNK):
                broken += _not_finite(chunk, header.dtype) if rest else 0
                length += len(chunk)
                rest = max(rest - len(chunk), 0)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be unpacked: {error or 'the gzip stream is damaged'}. "
            "Copy the file again."
        ) from None
    if rest:
        raise DataError(
            f"{path} is cut off: its header claims {header.start + header.size} bytes, {length} "
            "are there. Copy the file again."
        )
    if broken:
        raise not_finite(path, broken)


def not_finite(path: Path, count: int) -> DataError:
    """Return the error for an image with values that are no numbers."""
    return DataError(
        f"{path} holds {count} values that are NaN, infinite or beyond float32; replace them, "
        "e.g. by the smallest valid intensity."
    )


def _not_finite(chunk: bytes, dtype: np.dtype | None) -> int:
    """Count what ITK's NIfTI reader would silently turn into 0."""
    if dtype is None:
        return 0
    values = np.frombuffer(chunk, dtype, count=len(chunk) // dtype.itemsize)
    return int(values.size - np.count_nonzero(np.isfinite(values)))


@dataclass(frozen=True, slots=True)
class _NiftiHeader:
    """Where the voxels start, how many bytes they take, and their type if it is a float."""

    start: int
    size: int
    dtype: np.dtype | None


def _nifti_header(path: Path, head: bytes) -> _NiftiHeader:
    """Read the fields that decide the file's length.

    Offsets of `dim`, `datatype`, `bitpix` and `vox_offset`: nifti1.h and nifti2.h of the NIfTI
    working group.
    """
    layouts = {348: ("8h", 40, 70, "f", 108), 540: ("8q", 16, 12, "q", 168)}
    for order in "<>":
        size = struct.unpack_from(order + "i", head)[0] if len(head) >= 4 else 0
        if size in layouts:
            break
    else:
        raise DataError(f"{path} is no NIfTI file: it has no NIfTI header. Export it again.")
    if len(head) < size:
        raise DataError(f"{path} is cut off inside its header. Copy the file again.")
    dims, at, type_at, offset, offset_at = layouts[size]
    dim = struct.unpack_from(order + dims, head, at)
    datatype, bits = struct.unpack_from(order + "hh", head, type_at)
    start = struct.unpack_from(order + offset, head, offset_at)[0]
    rank = dim[0]
    if not 1 <= rank <= 7 or any(d < 1 for d in dim[1 : rank + 1]) or bits < 1:
        raise DataError(
            f"{path}: its header has the dimensions {list(dim)} with {bits} bits per voxel, which "
            "is no image. Export it again."
        )
    _check_scaling(path, head, size, order, dim, datatype)
    # voxels of a single file start at 352 at the earliest; NaN compares as False
    start = int(start) if 352 <= start < 2**40 else 352
    count = prod(int(d) for d in dim[1 : rank + 1])
    floats = {16: np.dtype(order + "f4"), 64: np.dtype(order + "f8")}
    return _NiftiHeader(start, (count * int(bits) + 7) // 8, floats.get(datatype))


def _check_scaling(
    path: Path, head: bytes, size: int, order: str, dim: Sequence[int], datatype: int
) -> None:
    vector = datatype in _VECTORS or (dim[0] >= 5 and dim[5] > 1)
    at, kind = (112, "ff") if size == 348 else (176, "dd")
    slope, intercept = struct.unpack_from(order + kind, head, at)
    if np.isinf(slope) or np.isinf(intercept):
        raise DataError(f"{path} has infinite scale factors in its header. Export it again.")
    # 0 and NaN mean that nothing is scaled
    if vector and slope != 0 and not np.isnan(slope) and (slope, intercept) != (1, 0):
        raise DataError(
            f"{path} is a vector image with the scale factors {slope:g} and {intercept:g} in its "
            "header, which cannot be read safely. Store the scaled values."
        )
