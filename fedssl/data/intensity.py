"""Resampling and normalising one case; arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

__all__ = ["foreground", "local", "resize_image", "resize_label", "robust", "window", "zscore"]

_BACKGROUND_SHARE = 0.05
_DARK = 0.1
_CLIP = (0.5, 99.5)
_EVEN = 3.0**0.5
_QUARTILES = 1.349
_FAR = 5.0
_NEIGHBOURHOOD = 1 / 16
_FLOOR = 0.01

Statistics = Callable[[np.ndarray], tuple[float, float]]
"""From voxels to a centre and a scale."""


def zscore(image: np.ndarray) -> np.ndarray:
    """Return an image [C, *S] whose channels have mean 0 and standard deviation 1.

    The statistics come from the foreground. Values are clipped to its 0.5 and 99.5 percentiles, so
    that a few hot voxels do not set the scale. A constant channel becomes zeros.
    """
    return _scaled(image, _mean_and_deviation)


def robust(image: np.ndarray) -> np.ndarray:
    """Return an image [C, *S] by the median and the quartiles of its foreground.

    As `zscore`, but the scale is that of the tissue which most of the foreground is, whatever share
    of it is bright, such as fat around a brain: 1.349 is the distance of a normal distribution's
    quartiles. Where those are equal, it is `zscore`. Values end at +-5.
    """
    scaled = _scaled(image, _median_and_quartiles)
    return np.asarray(np.clip(scaled, -_FAR, _FAR))


def local(image: np.ndarray) -> np.ndarray:
    """Return an image [C, *S] by the mean and deviation of each voxel's neighbourhood.

    For what is thinner than the neighbourhood, as vessels are: light, colour and contrast that
    change slowly go, within an image and between cameras. Larger objects lose their inside; use
    `zscore` for them. Weights fall as a Gaussian of 1/16 of each side; only the foreground counts,
    its holes included, and what is outside becomes 0. Values end at +-5.
    """
    inside = ndimage.binary_fill_holes(foreground(image))
    sigma = [side * _NEIGHBOURHOOD for side in inside.shape]
    weight = np.maximum(ndimage.gaussian_filter(inside.astype(np.float64), sigma), 1e-6)

    def mean_around(values: np.ndarray) -> np.ndarray:
        around: np.ndarray = ndimage.gaussian_filter(values * inside, sigma) / weight
        return around

    channels = []
    for channel in image:
        low, high = (float(v) for v in np.percentile(channel[inside], _CLIP))
        voxels = np.clip(channel, low, high).astype(np.float64)
        centred = voxels - mean_around(voxels)
        # Where all is even, the floor keeps noise from becoming structure.
        floor = _FLOOR * float(voxels[inside].var()) or 1.0
        scaled = centred / np.sqrt(mean_around(centred**2) + floor)
        channels.append(np.where(inside, np.clip(scaled, -_FAR, _FAR), 0.0))
    return np.stack(channels).astype(np.float32)


def foreground(image: np.ndarray) -> np.ndarray:
    """Return the voxels [*S] bool of an image [C, *S] that are not background.

    Background is what is dark, be it exactly 0 or noise: channels are scaled from their 0.5 to
    their 99.5 percentile, and the mean of the channels is at most 0.1. If that holds for at most
    5 % of the voxels, or for all, there is no background.
    """
    total = np.zeros(image.shape[1:], dtype=np.float64)
    for channel in image:
        low, high = (float(v) for v in np.percentile(channel, _CLIP))
        if high == low:
            low, high = float(channel.min()), float(channel.max())
        if high > low:
            total += np.clip((channel.astype(np.float64) - low) / (high - low), 0.0, 1.0)
    inside: np.ndarray = total > _DARK * len(image)
    empty = 1.0 - np.count_nonzero(inside) / inside.size
    return inside if _BACKGROUND_SHARE < empty < 1.0 else np.ones_like(inside)


def _mean_and_deviation(voxels: np.ndarray) -> tuple[float, float]:
    # float64: sums over a volume of large intensities lose digits in float32
    return float(voxels.mean(dtype=np.float64)), float(voxels.std(dtype=np.float64))


def _median_and_quartiles(voxels: np.ndarray) -> tuple[float, float]:
    low, middle, high = (float(v) for v in np.percentile(voxels, (25, 50, 75)))
    return (middle, (high - low) / _QUARTILES) if high > low else _mean_and_deviation(voxels)


def _scaled(image: np.ndarray, statistics: Statistics) -> np.ndarray:
    inside = foreground(image)
    return np.stack([_scaled_channel(channel, inside, statistics) for channel in image])


def _scaled_channel(channel: np.ndarray, inside: np.ndarray, statistics: Statistics) -> np.ndarray:
    for voxels in (channel[inside], channel.ravel()):
        low, high = (float(v) for v in np.percentile(voxels, _CLIP))
        mean, deviation = statistics(np.clip(voxels, low, high))
        if deviation > 1e-6 * max(abs(low), abs(high)):
            result = np.subtract(np.clip(channel, low, high), mean, dtype=np.float64)
            result /= deviation
            return np.asarray(result, dtype=np.float32)
    return np.zeros_like(channel, dtype=np.float32)


def window(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return an image clipped to [low, high] and mapped linearly to [-sqrt(3), sqrt(3)].

    There an even histogram has mean 0 and standard deviation 1, which augmentation expects. The
    map is the same for every image, as intensities with a physical meaning (CT) need it.
    """
    scaled = (np.clip(image, low, high) - low) * (2 * _EVEN / (high - low)) - _EVEN
    return np.asarray(scaled, dtype=np.float32)


def resize_image(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize the last axes of [C, *S] linearly; what shrinks is low-pass filtered (antialias).

    Args:
        image: [C, H, W] or [C, D, H, W] float32.
        size: new length of the last `len(size)` axes.
    """
    if image.ndim == 3 or len(size) == 2:
        planes = _resize_planes(image.reshape(-1, *image.shape[-2:]), (size[-2], size[-1]))
        return planes.reshape(*image.shape[:-2], *planes.shape[-2:])
    channels, depth, height, width = image.shape
    planes = _resize_planes(image.reshape(-1, height, width), (size[1], size[2]))
    # the filter is separable: the depth axis is resized as the height of [D, H' * W'] planes
    stacked = planes.reshape(channels, depth, size[1] * size[2])
    return _resize_planes(stacked, (size[0], size[1] * size[2])).reshape(channels, *size)


def _resize_planes(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if planes.shape[-2:] == size:
        return planes
    source = torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32))[None]
    resized = F.interpolate(source, size, mode="bilinear", align_corners=False, antialias=True)
    result: np.ndarray = resized[0].numpy()
    return result


def resize_label(label: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize the last `len(size)` axes of a mask [*S] to the value of the nearest pixel."""
    lead = label.ndim - len(size)
    for axis, new in enumerate(size, start=lead):
        old = label.shape[axis]
        nearest = ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        label = label.take(nearest, axis=axis)
    return label
