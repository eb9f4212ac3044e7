"""Masks with soft borders, as a network's probabilities have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedssl.functional.corruption.masks import Mask, scale_of

__all__ = ["SoftMask", "soften"]

SoftMask = NDArray[np.float32]
"""[H, W] in [0, 1]."""


def soften(
    masks: Mask, truth: Mask, rng: np.random.Generator, *, largest_sigma: float = 3.0
) -> tuple[SoftMask, tuple[float, ...]]:
    """Blur masks with one Gaussian, and return them with their soft Dice scores; ours.

    A quality predictor that saw binary masks only has no reason to judge probabilities well.

    Args:
        masks: [F, H, W] binary.
        truth: [F, H, W] binary; what each mask is scored against, as `2 sum(s t) / sum(s + t)`.
        rng: draws sigma, uniform from 0.
        largest_sigma: in pixels of a 224 x 224 image.
    """
    sigma = rng.uniform(0.0, largest_sigma) * scale_of(masks[0])
    soft = np.stack([ndimage.gaussian_filter((m != 0).astype(np.float32), sigma) for m in masks])
    target = (truth != 0).astype(np.float32)
    total = (soft + target).sum((1, 2), dtype=np.float64)
    overlap = (soft * target).sum((1, 2), dtype=np.float64)
    dice = np.where(total > 0, 2 * overlap / np.maximum(total, 1e-12), 1.0)
    return soft.clip(0.0, 1.0), tuple(float(d) for d in dice)
