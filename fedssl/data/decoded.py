"""What a reader hands over: values in file order and the grid they lie on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedssl.data.geometry import Geometry
from fedssl.errors import DataError

__all__ = ["Decoded", "check_values", "plain_grid", "split_axes"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """One array of a file.

    Args:
        array: [C, *S] in file order, values as stored.
        geometry: the grid of *S.
        physical: whether the grid's lengths are mm.
    """

    array: np.ndarray
    geometry: Geometry
    physical: bool = False


def split_axes(key: str) -> tuple[str, str]:
    """Return name and axis order of a key such as `image@xyz`; without an order it is `zyx`.

    The order names the stored array's axes, the slowest first; `zyx` is [D, H, W].
    """
    name, _, axes = key.partition("@")
    return name, axes or "zyx"


def plain_grid(shape: Sequence[int], axes: str = "zyx") -> Geometry:
    """Return the grid of an array without a header: unit spacing, in the axis order given.

    Args:
        shape: the array's *S, 2 or 3 axes, slowest first.
        axes: which body axis each of three axes runs along, slowest first.
    """
    dims = len(shape)
    size = tuple(int(n) for n in reversed(shape))
    direction = np.eye(dims)
    if dims == 3:
        for axis, letter in enumerate(reversed(axes)):
            direction[:, axis] = np.eye(3)["xyz".index(letter)]
    cosines = tuple(float(c) for c in direction.flat)
    return Geometry.of(size, (1.0,) * dims, (0.0,) * dims, cosines)


def check_values(path: Path, what: str, shape: Sequence[int] | None, dtype: np.dtype) -> None:
    """Refuse what is no picture or volume of numbers.

    Args:
        path: file, for the message.
        what: the array's name in it, for the message.
        shape: as stored; None where there is no array at all.
        dtype: as stored.
    """
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DataError(
            f"{path}: {what} holds values of the type {dtype}, which are no numbers of an image. "
            "Store integers or floats of at most 64 bits."
        )
    if shape is None or len(shape) not in (2, 3) or any(n < 1 for n in shape):
        found = "no values" if shape is None else f"the shape {tuple(shape)}"
        raise DataError(
            f"{path}: {what} has {found}; needed is a picture with 2 or a volume with 3 axes."
        )
