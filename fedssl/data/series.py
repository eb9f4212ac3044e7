"""Slices of one DICOM series to the grid of one volume, or the reason why they make none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedssl.data.geometry import Geometry
from fedssl.errors import DataError

__all__ = ["Slice", "arranged"]

_COSINE_TOLERANCE = 1e-3
_GAP_TOLERANCE = 0.02
"""Of the usual gap; scanners round positions."""
_TILT_TOLERANCE = 0.02
"""Sideways per forward movement of the slices: about one degree."""
_MISSING_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Slice:
    """What one file's header says.

    Args:
        path: the file.
        series: UID of its series.
        description: the series in words.
        shape: (C, rows, columns).
        spacing: distance of rows and of columns in mm.
        position: of the first pixel's centre in mm; () where the header has none.
        orientation: direction of the rows, then of the columns; () where the header has none.
    """

    path: Path
    series: str
    description: str
    shape: tuple[int, int, int]
    spacing: tuple[float, ...]
    position: tuple[float, ...]
    orientation: tuple[float, ...]


def arranged(slices: Sequence[Slice], folder: Path) -> tuple[list[Slice], Geometry]:
    """Return the slices in the order of their positions, and the grid that they form.

    Args:
        slices: at least one.
        folder: where they lie, for messages.

    Raises:
        DataError: several series, or no evenly spaced stack of parallel slices.
    """
    _check_one_series(slices, folder)
    if len(slices) == 1:
        return list(slices), _grid(slices, 1.0)
    _check_alike(slices, folder)
    along = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    depths = np.array([np.dot(s.position, along) for s in slices])
    order = np.argsort(depths, kind="stable")
    stack = [slices[i] for i in order]
    gaps = np.diff(depths[order])
    _check_gaps(stack, gaps, folder)
    _check_tilt(stack, folder)
    return stack, _grid(stack, float(np.mean(gaps)))


def _grid(stack: Sequence[Slice], gap: float) -> Geometry:
    first = stack[0]
    orientation = first.orientation or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    rows, columns = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    direction = np.stack([rows, columns, np.cross(rows, columns)], axis=1)
    spacing = (first.spacing[1], first.spacing[0], gap)
    if not all(0 < s < 1e6 for s in spacing):
        raise DataError(
            f"{first.path}: its header has the pixel spacing {first.spacing}; expected are two "
            "positive lengths in mm. Export it again."
        )
    return Geometry.of(
        (first.shape[2], first.shape[1], len(stack)),
        spacing,
        first.position or (0.0, 0.0, 0.0),
        tuple(float(c) for c in direction.flat),
    )


def _check_one_series(slices: Sequence[Slice], folder: Path) -> None:
    counts: dict[str, int] = {}
    named: dict[str, str] = {}
    for part in slices:
        counts[part.series] = counts.get(part.series, 0) + 1
        named.setdefault(part.series, part.description)
    if len(counts) > 1:
        shown = "; ".join(
            f"{uid or 'no UID'} ({named[uid] or 'no description'}, {count} files)"
            for uid, count in sorted(counts.items(), key=lambda item: -item[1])[:4]
        )
        raise DataError(
            f"{folder} holds {len(counts)} series: {shown}. Move all but one of them into folders "
            "of their own."
        )


def _check_alike(slices: Sequence[Slice], folder: Path) -> None:
    first = slices[0]
    for part in slices:
        if not part.position or not part.orientation:
            raise DataError(
                f"{part.path} has no position or orientation in its header, so the slices in "
                f"{folder} cannot be put in order. Export the series again, e.g. as NIfTI."
            )
        if part.shape != first.shape or not np.allclose(part.spacing, first.spacing, rtol=1e-3):
            raise DataError(
                f"{folder} holds slices of different sizes: {first.path.name} has {first.shape} "
                f"at {first.spacing} mm, {part.path.name} has {part.shape} at {part.spacing} mm. "
                "Move those that do not belong to the volume (a scout?) out of the folder."
            )
        if np.abs(np.subtract(part.orientation, first.orientation)).max() > _COSINE_TOLERANCE:
            raise DataError(
                f"{folder} holds slices of different orientations ({first.path.name}, "
                f"{part.path.name}). Move those that do not belong to the volume out of the folder."
            )
    rows, columns = np.reshape(first.orientation, (2, 3))
    lengths = [rows @ rows, columns @ columns, 1 + rows @ columns]
    if np.abs(np.subtract(lengths, 1)).max() > _COSINE_TOLERANCE:
        raise DataError(
            f"{first.path}: its orientation {first.orientation} is not that of a rectangular "
            "picture. Export the series again."
        )


def _check_gaps(stack: Sequence[Slice], gaps: np.ndarray, folder: Path) -> None:
    usual = float(np.median(gaps))
    at = int(np.argmin(gaps))
    if usual <= 0 or gaps[at] < _MISSING_TOLERANCE * usual:
        raise DataError(
            f"{folder} shows one place twice: {_below(stack[at].path, folder)} and "
            f"{_below(stack[at + 1].path, folder)} have the same position (copies, or several "
            "phases or echoes?). Keep one volume per folder."
        )
    if np.abs(gaps - usual).max() <= _GAP_TOLERANCE * usual:
        return
    steps = gaps / usual
    missing = np.rint(steps).astype(int) - 1
    at = int(np.argmax(gaps))
    if np.abs(steps - np.rint(steps)).max() <= _MISSING_TOLERANCE and missing.min() >= 0:
        raise DataError(
            f"{folder} lacks {int(missing.sum())} of {len(stack) + int(missing.sum())} slices: "
            f"between {stack[at].path.name} and {stack[at + 1].path.name} are {gaps[at]:.4g} mm, "
            f"elsewhere {usual:.4g} mm. Copy the whole series again."
        )
    raise DataError(
        f"{folder} has unevenly spaced slices: the gaps are {gaps.min():.4g} to {gaps.max():.4g} "
        f"mm, the widest behind {stack[at].path.name}. Resample the series to even spacing, e.g. "
        "when converting it to NIfTI."
    )


def _below(path: Path, folder: Path) -> str:
    """Return a file's name; folders in a folder may hold files of the same names."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name


def _check_tilt(stack: Sequence[Slice], folder: Path) -> None:
    rows, columns = np.reshape(stack[0].orientation, (2, 3))
    way = np.subtract(stack[-1].position, stack[0].position)
    forward = abs(way @ np.cross(rows, columns))
    sideways = float(np.hypot(way @ rows, way @ columns))
    if sideways > max(_TILT_TOLERANCE * forward, 0.1):
        angle = np.degrees(np.arctan2(sideways, forward))
        raise DataError(
            f"{folder} was taken with a tilted gantry: its slices shift sideways by {angle:.1f} "
            "degrees, so they form no rectangular volume. Resample it, e.g. when converting it to "
            "NIfTI."
        )
