"""Geometric changes: shifts, scaling, rotation, elastic and grid distortion."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from fedssl.functional.corruption.masks import FloatMap, Mask, centroid, sample, scale_of

__all__ = ["affine", "elastic", "grid_distortion", "rotate", "scale", "shift"]


def shift(mask: Mask, rng: np.random.Generator, *, limit: float) -> Mask:
    """Shift by whole pixels, uniform up to `limit` of the image per axis."""
    rows, columns = _shifts(mask, rng, limit)
    return _move(mask, np.eye(2), (0.0, 0.0), (float(rows), float(columns)))


def scale(mask: Mask, rng: np.random.Generator, *, factor: tuple[float, float]) -> Mask:
    """Scale about the centroid by a factor from a range."""
    if not mask.any():
        return mask.copy()
    return _move(mask, np.eye(2) * rng.uniform(*factor), centroid(mask))


def rotate(mask: Mask, rng: np.random.Generator, *, degrees: float) -> Mask:
    """Rotate about the centroid by up to this angle in either direction."""
    if not mask.any():
        return mask.copy()
    return _move(mask, _rotation(rng.uniform(-degrees, degrees)), centroid(mask))


def affine(
    mask: Mask,
    rng: np.random.Generator,
    *,
    factor: tuple[float, float],
    limit: float,
    degrees: float,
) -> Mask:
    """Scale and rotate about the middle of the image, then shift."""
    height, width = mask.shape
    matrix = rng.uniform(*factor) * _rotation(rng.uniform(-degrees, degrees))
    rows, columns = _shifts(mask, rng, limit)
    middle = ((height - 1) / 2, (width - 1) / 2)
    return _move(mask, matrix, middle, (float(rows), float(columns)))


def elastic(mask: Mask, rng: np.random.Generator, *, alpha: float, sigma: float) -> Mask:
    """Displace pixels by smoothed white noise.

    Args:
        mask: [H, W].
        rng: draws the noise.
        alpha: standard deviation of the noise in pixels, before smoothing.
        sigma: standard deviation of the Gaussian that smooths it, in pixels.
    """
    height, width = mask.shape
    # Smoothing divides the noise by about 3.5 sigma: alpha takes the square of the scale.
    noise = rng.standard_normal((2, height, width), dtype=np.float32)
    noise *= alpha * scale_of(mask) ** 2
    rows, columns = (ndimage.gaussian_filter(n, sigma * scale_of(mask)) for n in noise)
    return sample(mask, np.arange(height)[:, None] + rows, np.arange(width) + columns)


def grid_distortion(mask: Mask, rng: np.random.Generator, *, steps: int, limit: float) -> Mask:
    """Stretch each of `steps` columns and rows by its own factor from 1 - limit to 1 + limit.

    The factors are scaled together so that the borders of the image stay in place.
    """
    rows, columns = (_stretched(length, rng, steps, limit) for length in mask.shape)
    return sample(mask, rows[:, None], columns)


def _stretched(length: int, rng: np.random.Generator, steps: int, limit: float) -> FloatMap:
    """Source position of every pixel along one axis."""
    widths = 1.0 + rng.uniform(-limit, limit, steps)
    source = np.concatenate(([0.0], np.cumsum(widths))) * (length / widths.sum())
    positions: FloatMap = np.interp(np.arange(length), np.linspace(0.0, length, steps + 1), source)
    return positions


def _shifts(mask: Mask, rng: np.random.Generator, limit: float) -> tuple[int, int]:
    rows, columns = (int(length * rng.uniform(-limit, limit)) for length in mask.shape)
    return rows, columns


def _rotation(degrees: float) -> FloatMap:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix: FloatMap = np.array([[cos, -sin], [sin, cos]])
    return matrix


def _move(
    mask: Mask,
    matrix: FloatMap,
    centre: tuple[float, float],
    offset: tuple[float, float] = (0.0, 0.0),
) -> Mask:
    """Map each point p of the object to `matrix (p - centre) + centre + offset`."""
    inverse = np.linalg.inv(matrix)
    height, width = mask.shape
    row = np.arange(height)[:, None] - centre[0] - offset[0]
    column = np.arange(width) - centre[1] - offset[1]
    return sample(
        mask,
        inverse[0, 0] * row + inverse[0, 1] * column + centre[0],
        inverse[1, 0] * row + inverse[1, 1] * column + centre[1],
    )
