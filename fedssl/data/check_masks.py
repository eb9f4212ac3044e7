"""Checks of one mask and of its place on the image; findings out."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from fedssl.data.check_findings import DataFinding, bad, warning
from fedssl.data.formats import format_of
from fedssl.data.geometry import Geometry
from fedssl.data.readers import read_geometry
from fedssl.errors import DataError
from fedssl.types import Output, Task

__all__ = [
    "TOLERANCE",
    "check_content",
    "check_grids",
    "check_headers",
    "check_nesting",
    "check_turned",
    "grid_distance",
]

TOLERANCE = 0.1
"""Voxels that the grids of an image and its mask may lie apart."""

_ALMOST_ALL = 0.9
_ORIENTATION = 0x0112
"""EXIF's tag: 1 as it is stored, 2 to 8 turned or mirrored."""
_OUTSIDE = (0.25, 0.5)
"""Share of a nested class's border that skips the class around it: of a warning, of an error."""


def grid_distance(ours: Geometry, theirs: Geometry) -> tuple[float, float]:
    """Return how far two grids of one size lie apart, in voxels of the first.

    Returns:
        The largest distance between corresponding corner voxels, and the largest difference of
        their lengths along an axis, which tells another spacing from a shift.
    """
    first, second = _corners(ours), _corners(theirs)
    apart = np.linalg.norm(first - second, axis=1).max() / min(ours.spacing)
    lengths = [
        abs(s - t) * (n - 1) / s
        for n, s, t in zip(
            _size(ours), ours.canonical_spacing, theirs.canonical_spacing, strict=True
        )
    ]
    return float(apart), float(max(lengths))


def check_grids(
    image: Geometry, mask: Geometry, file: Path, image_file: Path, tolerance: float
) -> list[DataFinding]:
    """Compare the grids in two headers; those of different size are left to who reads them.

    Args:
        image: the image's grid.
        mask: the mask's grid.
        file: the mask.
        image_file: the image.
        tolerance: in voxels; headers round their numbers.
    """
    if _size(image) != _size(mask):
        return []
    apart, longer = grid_distance(image, mask)
    if longer > tolerance:
        spacings = f"{_short(mask.canonical_spacing)} and {_short(image.canonical_spacing)}"
        return [
            bad(
                "geometry",
                file,
                f"Its spacing is not that of its image {image_file}: {spacings} mm (z, y, x).",
                "Find out which one is right and write it into both headers.",
            )
        ]
    if apart > tolerance:
        return [
            warning(
                "geometry",
                file,
                f"Its header places it {apart:.2f} voxels away from its image {image_file}; the "
                "two are matched voxel by voxel, whatever their headers say.",
                "Look whether mask and image lie on each other; copy the image's geometry into the "
                "mask if so, else resample it. A larger --tolerance accepts rounded headers.",
            )
        ]
    return []


def check_headers(image: Path, mask: Path, tolerance: float = TOLERANCE) -> list[DataFinding]:
    """Compare the grids of two files, where both have headers that say where their voxels lie.

    Args:
        image: an image that can be read.
        mask: its mask.
        tolerance: see `check_grids`.
    """
    if image == mask or not (_has_grid(image) and _has_grid(mask)):
        return []
    try:
        ours, theirs = read_geometry(image), read_geometry(mask)
    except DataError:  # who reads the voxels tells it
        return []
    return check_grids(ours, theirs, mask, image, tolerance)


def check_turned(image: Path | str) -> list[DataFinding]:
    """Look for a photograph that viewers turn, so that a mask drawn on it may not lie on it."""
    if not str(image).lower().endswith((".jpg", ".jpeg")):
        return []
    try:
        with Image.open(image) as picture:
            turned = picture.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError):  # told by its reader
        return []
    if turned in (0, 1):
        return []
    return [
        warning(
            "orientation",
            image,
            f"Its EXIF orientation is {turned}: viewers turn or mirror it, but its pixels are read "
            "as they are stored.",
            "Look whether its mask lies on it; if not, save the picture turned, without the tag.",
        )
    ]


def check_content(label: np.ndarray, task: Task, file: Path | str) -> list[DataFinding]:
    """Look for a mask that is empty or covers almost everything.

    Args:
        label: [*S] class indices.
        task: its classes.
        file: named in findings.
    """
    share = np.count_nonzero(label) / label.size
    if share == 0:
        return [
            warning(
                "empty-mask",
                file,
                "The mask is empty: every voxel is background.",
                "If nothing is to be seen there, all is well; if nobody drew it yet, remove the "
                "file, and the image counts as unlabeled.",
            )
        ]
    if share > _ALMOST_ALL:
        return [
            warning(
                "full-mask",
                file,
                f"The mask calls {share:.1%} of the image foreground.",
                "Look at it. If the masks of this site are inverted, and the task has two classes, "
                'the site option label-values = "255,0" reads them the other way round ("1,0" if '
                "their files hold 0 and 1).",
            )
        ]
    return check_nesting(label, task, file) if task.output == Output.NESTED else []


def check_nesting(label: np.ndarray, task: Task, file: Path | str) -> list[DataFinding]:
    """Look for a class that does not lie inside the one before it, such as a cup outside its disc.

    What counts is the border of the inner class: a voxel beyond it belongs to the class before, or
    else the inner class reaches out of it there.

    Args:
        label: [*S] class indices of a nested task.
        task: its classes, from outside to inside.
        file: named in findings.
    """
    found = []
    for index in range(2, task.num_classes):
        inner = label >= index
        border = ndimage.binary_dilation(inner) & ~inner
        around = np.count_nonzero(border)
        if around == 0:
            continue
        share = np.count_nonzero(border & (label < index - 1)) / around
        inside, outside = task.classes[index], task.classes[index - 1]
        if share > _OUTSIDE[0]:
            tell = bad if share > _OUTSIDE[1] else warning
            found.append(
                tell(
                    "nesting",
                    file,
                    f"{inside!r} does not lie inside {outside!r}: {share:.0%} of its border "
                    f"touches neither.",
                    f"Correct the mask; {inside!r} has to lie within {outside!r}. If the values "
                    "of the two are swapped, give the site option label-values.",
                )
            )
    return found


def _size(geometry: Geometry) -> tuple[int, ...]:
    return tuple(geometry.size[axis] for axis in reversed(geometry.axes))


def _corners(geometry: Geometry) -> np.ndarray:
    """Return the positions of the corner voxels of the canonical array."""
    dims = len(geometry.size)
    cosines = np.reshape(geometry.direction, (dims, dims))
    rows = []
    for ends in product((False, True), repeat=dims):
        index = np.zeros(dims)
        for axis, flip, end in zip(geometry.axes, geometry.flips, ends, strict=True):
            index[axis] = geometry.size[axis] - 1 if flip != end else 0
        rows.append(np.asarray(geometry.origin) + cosines @ (index * geometry.spacing))
    return np.array(rows)


def _has_grid(path: Path) -> bool:
    """Return whether a file's header says where its voxels lie."""
    file_format = format_of(path)
    return file_format is not None and not file_format.picture and file_format.keys == "none"


def _short(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
