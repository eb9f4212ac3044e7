"""Square-kernel morphology and disturbances of the boundary."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from fedssl.functional.corruption.masks import Mask, as_mask, odd

__all__ = ["closing", "dilation", "erosion", "jagged_boundary", "opening", "smooth_boundary"]


def erosion(mask: Mask, rng: np.random.Generator, *, size: int) -> Mask:
    """Erode with a square; the image border does not erode."""
    return _erode(mask, odd(mask, size))


def dilation(mask: Mask, rng: np.random.Generator, *, size: int) -> Mask:
    """Dilate with a square."""
    return _dilate(mask, odd(mask, size))


def opening(mask: Mask, rng: np.random.Generator, *, size: int) -> Mask:
    """Erode, then dilate: removes what is thinner than the square."""
    side = odd(mask, size)
    return _dilate(_erode(mask, side), side)


def closing(mask: Mask, rng: np.random.Generator, *, size: int) -> Mask:
    """Dilate, then erode: fills what is narrower than the square."""
    side = odd(mask, size)
    return _erode(_dilate(mask, side), side)


def jagged_boundary(mask: Mask, rng: np.random.Generator, *, size: int) -> Mask:
    """Draw each pixel of the band between erosion and dilation anew, by a fair coin."""
    side = odd(mask, size)
    band = _dilate(mask, side) != _erode(mask, side)
    coin = rng.random(mask.shape) < 0.5
    return as_mask(np.where(band, coin, mask))


def smooth_boundary(mask: Mask, rng: np.random.Generator, *, size: int) -> Mask:
    """Blur with a Gaussian that fits a square kernel of this size, and threshold at one half."""
    sigma = 0.3 * ((odd(mask, size) - 1) * 0.5 - 1) + 0.8
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="nearest")
    return as_mask(blurred > 0.5)


def _erode(mask: Mask, side: int) -> Mask:
    for axis in (0, 1):
        mask = ndimage.minimum_filter1d(mask, side, axis=axis, mode="constant", cval=1)
    return mask


def _dilate(mask: Mask, side: int) -> Mask:
    for axis in (0, 1):
        mask = ndimage.maximum_filter1d(mask, side, axis=axis, mode="constant", cval=0)
    return mask
