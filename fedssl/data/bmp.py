"""BMP pictures of one bit per pixel, as masks are stored now and then; ITK reads none."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from fedssl.data.decoded import Decoded, plain_grid
from fedssl.errors import DataError

__all__ = ["bitmap_shape", "is_bitmap", "read_bitmap"]

_HEADER = struct.Struct("<IIiiHHI")
"""Start of the pixels, length of the second header, width, height, planes, bits, compression."""


def is_bitmap(path: Path) -> bool:
    """Return whether a BMP file (as `check_bmp` accepts it) has one bit per pixel."""
    return _header(path)[5] == 1


def bitmap_shape(path: Path) -> tuple[int, int]:
    """Return (H, W)."""
    _, _, width, height, *_ = _header(path)
    return abs(height), abs(width)


def read_bitmap(path: Path) -> Decoded:
    """Read a file that `is_bitmap`: one channel if its two colours are grey, else three.

    Raises:
        DataError: its table of colours is not where the header says.
    """
    start, length, _, stored_height, *_ = _header(path)
    if not 40 <= length <= start - 14 - 8:
        raise DataError(f"{path} is damaged: it has no table of its two colours. Export it again.")
    height, width = bitmap_shape(path)
    content = path.read_bytes()
    stride = (width + 31) // 32 * 4
    packed = np.frombuffer(content, np.uint8, stride * height, start).reshape(height, stride)
    bits = np.unpackbits(packed, axis=1)[:, :width]
    if stored_height > 0:  # the first row stored is the lowest
        bits = bits[::-1]
    entries = np.frombuffer(content, np.uint8, 8, 14 + length).reshape(2, 4)
    colours = entries[:, 2::-1][bits]
    array = np.moveaxis(colours, -1, 0)
    if (array == array[:1]).all():
        array = array[:1]
    return Decoded(np.ascontiguousarray(array), plain_grid(array.shape[1:]))


def _header(path: Path) -> tuple[int, ...]:
    with path.open("rb") as file:
        fields: tuple[int, ...] = _HEADER.unpack_from(file.read(64), 10)
    return fields
