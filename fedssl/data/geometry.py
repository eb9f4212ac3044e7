"""Where a volume's voxels lie, and the way to the canonical orientation and back.

Canonical is ITK's LPS: the array's axes [D, H, W] run to superior, posterior and left. Oblique
volumes go to the nearest axes; nothing is interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

__all__ = ["Geometry"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A file's grid in ITK's order (x first); lengths are those of the file's header.

    Args:
        size: voxels per axis.
        spacing: distance of neighbours per axis.
        origin: position of the first voxel.
        direction: row-major direction cosines.
        axes: for each canonical axis (x, y, z) the file axis that it is taken from.
        flips: whether that axis is reversed.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @classmethod
    def of(
        cls,
        size: tuple[int, ...],
        spacing: tuple[float, ...],
        origin: tuple[float, ...],
        direction: tuple[float, ...],
    ) -> Geometry:
        """Choose the axes; pictures and single slices stay as they are stored."""
        dims = len(size)
        axes, flips = tuple(range(dims)), (False,) * dims
        if dims == 3 and size[2] > 1:
            axes, flips = _nearest_axes(np.reshape(np.asarray(direction, dtype=float), (3, 3)))
        return cls(tuple(size), tuple(spacing), tuple(origin), tuple(direction), axes, flips)

    def canonical(self, array: np.ndarray) -> np.ndarray:
        """Turn [..., *S] in file order (z, y, x) into the canonical orientation (a view)."""
        lead = array.ndim - len(self.size)
        order = [lead + self._numpy_axis(a) for a in reversed(self.axes)]
        turned = array.transpose(*range(lead), *order)
        return np.flip(turned, self._flipped(lead))

    def restore(self, array: np.ndarray) -> np.ndarray:
        """Undo `canonical` (a view)."""
        lead = array.ndim - len(self.size)
        turned = np.flip(array, self._flipped(lead))
        order = [lead + self._numpy_axis(a) for a in reversed(self.axes)]
        return turned.transpose(*range(lead), *(lead + int(i) for i in _inverse(order, lead)))

    @property
    def canonical_spacing(self) -> tuple[float, ...]:
        """Spacing in the order of the canonical array's axes (z, y, x)."""
        return tuple(self.spacing[a] for a in reversed(self.axes))

    @property
    def canonical_origin(self) -> np.ndarray:
        """Position of the canonical array's first voxel."""
        index = np.zeros(len(self.size))
        for axis, flip in zip(self.axes, self.flips, strict=True):
            index[axis] = self.size[axis] - 1 if flip else 0
        cosines = np.reshape(self.direction, (len(self.size), -1))
        position: np.ndarray = np.asarray(self.origin) + cosines @ (index * self.spacing)
        return position

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {name: list(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Geometry:
        """Undo `to_dict`."""
        return cls(**{name: tuple(table[name]) for name in cls.__slots__})

    def _numpy_axis(self, axis: int) -> int:
        return len(self.size) - 1 - axis

    def _flipped(self, lead: int) -> tuple[int, ...]:
        return tuple(lead + self._numpy_axis(i) for i, flip in enumerate(self.flips) if flip)


def _nearest_axes(cosines: np.ndarray) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Match physical axes (rows) with file axes (columns) by the largest total |cosine|."""
    choices = [tuple(p) for p in permutations(range(3))]
    axes = max(choices, key=lambda p: round(sum(abs(cosines[i, a]) for i, a in enumerate(p)), 9))
    return axes, tuple(bool(cosines[i, a] < 0) for i, a in enumerate(axes))


def _inverse(order: list[int], lead: int) -> np.ndarray:
    inverse: np.ndarray = np.argsort([axis - lead for axis in order])
    return inverse
