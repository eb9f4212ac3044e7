"""Contours between pixels, polygons from them, and back to pixels.

Corners of pixels are integer points (row, column): pixel (r, c) covers [r, r+1] x [c, c+1]. A
contour on corners encloses exactly the pixels it was traced from, so nothing shrinks on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from fedssl.functional.corruption.masks import Mask, as_mask

__all__ = ["fill_polygon", "hull_corners", "simplify", "trace"]

Points = NDArray[np.float64]

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Right, down, left, up: clockwise, with the object on the right-hand side."""


def trace(component: Mask) -> Points:
    """Return the corners [n, 2] at which the outer contour of a component turns, clockwise.

    Args:
        component: one 8-connected component that is not empty.
    """
    height, width = component.shape
    inside = np.pad(component, 1).astype(bool)
    core = inside[1:-1, 1:-1]
    edges = np.zeros((height + 1, width + 1), dtype=np.uint8)
    # One bit per direction in which a boundary edge leaves a corner.
    edges[:-1, :-1] |= (core & ~inside[:-2, 1:-1]).astype(np.uint8)
    edges[:-1, 1:] |= (core & ~inside[1:-1, 2:]).astype(np.uint8) << 1
    edges[1:, 1:] |= (core & ~inside[2:, 1:-1]).astype(np.uint8) << 2
    edges[1:, :-1] |= (core & ~inside[1:-1, :-2]).astype(np.uint8) << 3
    start = int(np.flatnonzero(edges.ravel() & 1)[0])
    turns = _follow(edges.tobytes(), start, width + 1)
    return np.stack(np.divmod(np.array(turns), width + 1), axis=1).astype(np.float64)


def _follow(edges: bytes, start: int, stride: int) -> list[int]:
    steps = [row * stride + column for row, column in _STEPS]
    corner, heading, turns = start, 0, [start]
    while True:
        corner += steps[heading]
        if corner == start:
            return turns
        # Left first: where two pixels touch at a corner, the contour goes around both.
        for turn in (3, 0, 1):
            if edges[corner] >> ((heading + turn) % 4) & 1:
                break
        if turn:
            heading = (heading + turn) % 4
            turns.append(corner)


def simplify(contour: Points, sides: int, rng: np.random.Generator) -> Points:
    """Return a polygon of `sides` corners of a closed contour.

    Splits as Douglas and Peucker (Cartographica 1973) do, at the corner farthest from the chord,
    largest deviation first; that is their polygon at the tolerance which leaves this many sides. A
    closed contour has no ends to start from: three corners a third of the perimeter apart, from a
    random one on, keep the polygon from collapsing into a line. At last each corner moves once to
    where it is farthest from the chord of its neighbors, so that the first three fit too.

    Args:
        contour: [n, 2] closed, without repetition.
        sides: 3 or more.
        rng: draws the first corner.

    Returns:
        [min(n, sides), 2].
    """
    if len(contour) <= sides:
        return contour
    contour = np.roll(contour, -int(rng.integers(len(contour))), axis=0)
    length = np.linalg.norm(np.diff(contour, axis=0, append=contour[:1]), axis=1)
    along = np.concatenate(([0.0], np.cumsum(length)[:-1]))
    thirds = np.searchsorted(along, [length.sum() / 3, 2 * length.sum() / 3])
    kept = sorted({0, int(thirds[0]), min(int(thirds[1]), len(contour) - 1)})
    while len(kept) < sides:
        splits = [_farthest(contour, i, j) for i, j in _arcs(kept, len(contour))]
        deviation, where = max(splits)
        if deviation <= 0:
            break
        kept = sorted([*kept, where])
    return contour[_refine(contour, kept)]


def _arcs(kept: Sequence[int], size: int) -> list[tuple[int, int]]:
    return list(zip(kept, [*kept[1:], kept[0] + size], strict=True))


def _farthest(contour: Points, start: int, end: int) -> tuple[float, int]:
    """Largest distance from the chord between two corners, and the corner strictly between."""
    index = np.arange(start + 1, end) % len(contour)
    if len(index) == 0:
        return 0.0, start
    a, b = contour[start % len(contour)], contour[end % len(contour)]
    offset, chord = contour[index] - a, b - a
    length = float(np.hypot(*chord))
    if length > 0:
        deviation = np.abs(offset[:, 0] * chord[1] - offset[:, 1] * chord[0]) / length
    else:
        deviation = np.hypot(offset[:, 0], offset[:, 1])
    best = int(deviation.argmax())
    return float(deviation[best]), int(index[best])


def _refine(contour: Points, kept: list[int]) -> list[int]:
    for i in range(len(kept)):
        before, after = kept[i - 1], kept[(i + 1) % len(kept)]
        kept[i] = _farthest(contour, before, after if after > before else after + len(contour))[1]
    return kept


def fill_polygon(corners: Points, shape: tuple[int, int]) -> Mask:
    """Return the pixels whose centre lies inside a polygon (even-odd rule).

    Args:
        corners: [n, 2] integer-valued, so that no centre lies level with a corner.
        shape: height and width of the result.
    """
    height, width = shape
    centre = np.arange(height)[:, None] + 0.5
    (y0, x0), (y1, x1) = corners.T, np.roll(corners, -1, axis=0).T
    crosses = (y0 <= centre) != (y1 <= centre)
    rise = np.where(y1 == y0, 1.0, y1 - y0)
    at = x0 + (centre - y0) * (x1 - x0) / rise
    first = np.clip(np.ceil(at - 0.5), 0, width).astype(np.intp)
    toggles = np.zeros((height, width + 1), dtype=np.int64)
    rows = np.broadcast_to(np.arange(height)[:, None], crosses.shape)
    np.add.at(toggles, (rows[crosses], first[crosses]), 1)
    return as_mask(np.cumsum(toggles, axis=1)[:, :width] % 2)


def hull_corners(mask: Mask) -> Points:
    """Return the corners of the convex hull of all pixels of a mask that is not empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    points = np.concatenate(
        [np.stack([row, column], axis=1) for row in (rows, rows + 1) for column in (left, right)]
    ).astype(np.float64)
    hull: Points = points[ConvexHull(points).vertices]
    return hull
