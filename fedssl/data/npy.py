"""NumPy's .npy files: pictures, volumes, or pictures with their mask among the channels.

The header is checked against the file's length before anything is allocated, and a file that holds
Python objects (a pickle) is never opened as one.
"""

from __future__ import annotations

import tokenize
import warnings
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from fedssl.data.decoded import Decoded, plain_grid
from fedssl.errors import DataError

__all__ = ["npy_channels", "npy_shape", "read_npy"]

_MOST_CHANNELS = 4
"""A last axis of at most this length is one of channels, unless a key says what it is."""

_UNPARSABLE = (
    ValueError,
    TypeError,
    SyntaxError,
    RecursionError,
    MemoryError,
    EOFError,
    tokenize.TokenError,
)


def read_npy(path: Path, key: str = "") -> Decoded:
    """Read [H, W], [H, W, C] with at most four channels, or [D, H, W].

    Args:
        path: the file.
        key: of [H, W, C] one channel such as `3`, or a range such as `0:3`; empty: the whole.

    Raises:
        DataError: pickled, cut off, no numbers, or without the channels that the key names.
    """
    with path.open("rb") as file:
        shape, fortran, dtype = _header(path, file)
        count = prod(shape)
        values = np.fromfile(file, dtype, count=count)
    array = values.reshape(shape, order="F" if fortran else "C")
    if key:
        array = np.moveaxis(array[..., _channels(path, key, shape)], -1, 0)
    elif _is_colour(shape):
        array = np.moveaxis(array, -1, 0)
    else:
        array = array[np.newaxis]
    return Decoded(array, plain_grid(array.shape[1:]))


def npy_shape(path: Path, key: str = "") -> tuple[int, ...]:
    """Return the shape *S that `read_npy` would give, from the header."""
    with path.open("rb") as file:
        shape, _, _ = _header(path, file)
    if key:
        _channels(path, key, shape)
    return shape[:2] if key or _is_colour(shape) else shape


def npy_channels(path: Path) -> int:
    """Return the length of the last axis of [H, W, C], or 1 of [H, W]."""
    with path.open("rb") as file:
        shape, _, _ = _header(path, file)
    return shape[-1] if len(shape) == 3 else 1


def _is_colour(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[-1] <= _MOST_CHANNELS


def _channels(path: Path, key: str, shape: tuple[int, ...]) -> slice:
    first, _, end = key.partition(":")
    start = int(first)
    chosen = slice(start, int(end) if end else start + 1)
    if len(shape) != 3 or shape[-1] < chosen.stop:
        raise DataError(
            f"{path} has the shape {shape}; needed are [H, W, C] with at least {chosen.stop} "
            "channels. Look whether it is of the layout that the site names."
        )
    return chosen


def _header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            version = npy_format.read_magic(file)
            readers = {
                (1, 0): npy_format.read_array_header_1_0,
                (2, 0): npy_format.read_array_header_2_0,
            }
            if version not in readers:
                raise ValueError(f"version {version} of the format is unknown")
            shape, fortran, dtype = readers[version](file)
    except _UNPARSABLE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} has no readable header: {reason}. Save it again.") from None
    if dtype.hasobject:
        raise DataError(
            f"{path} holds pickled Python objects, which are not opened, because a pickle can run "
            "any program. Save a plain array of numbers."
        )
    _check(path, file, shape, dtype)
    return shape, fortran, dtype


def _check(path: Path, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DataError(f"{path} holds values of the type {dtype}; save integers or floats.")
    if len(shape) not in (2, 3) or any(n < 1 for n in shape):
        raise DataError(
            f"{path} has the shape {shape}; needed are [H, W], [H, W, C] or [D, H, W]. "
            "Save one picture or volume per file."
        )
    needed = file.tell() + prod(shape) * dtype.itemsize
    length = path.stat().st_size
    if length < needed:
        raise DataError(
            f"{path} is cut off: its header claims {needed} bytes, {length} are there. "
            "Copy the file again."
        )
