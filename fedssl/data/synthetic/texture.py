"""Smooth random fields and camera effects that the synthetic federations share.

Everything is a function of its arguments and of a numpy generator.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Rng", "grid", "logistic", "smooth_noise"]

Array = NDArray[np.float32]
Rng = np.random.Generator


@cache
def grid(shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Return one coordinate map per axis, from -1 to 1 between the outer borders of the pixels."""
    axes = [((np.arange(n) + 0.5) * 2 / n - 1).astype(np.float32) for n in shape]
    return tuple(np.meshgrid(*axes, indexing="ij"))


def logistic(signed: Array, width: float) -> Array:
    """Return a soft step from 0 to 1 over about `width`; `signed` is positive inside."""
    return np.asarray(0.5 * (1 + np.tanh(signed * (2 / width))), np.float32)


@cache
def _weights(size: int, knots: int) -> Array:
    """Return [size, knots] weights that interpolate between knots with a cosine."""
    position = np.linspace(0, knots - 1, size, dtype=np.float32)
    distance = np.abs(position[:, None] - np.arange(knots, dtype=np.float32))
    return np.where(distance < 1, 0.5 + 0.5 * np.cos(np.pi * distance), 0).astype(np.float32)


def smooth_noise(rng: Rng, shape: tuple[int, ...], knots: tuple[int, ...]) -> Array:
    """Return normal noise that varies over `knots` points per axis, about unit variance."""
    field = rng.standard_normal(knots, dtype=np.float32)
    for size, count in zip(shape, knots, strict=True):
        field = np.tensordot(field, _weights(size, count), axes=([0], [1]))
    return np.asarray(field, np.float32)
