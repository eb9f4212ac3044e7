"""Names, parameters and weights of all operations.

Sizes in pixels are those for 224 x 224 images and grow with the image. Weights and parameters are
those that Abhishek and Hamarneh (arXiv 2606.01753) released with their quality predictor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedssl.functional.corruption import morphology, shapes, structure, warps
from fedssl.functional.corruption.masks import Mask, as_mask

__all__ = [
    "BLOBS",
    "CATASTROPHIC",
    "CHAINED",
    "HEAVY",
    "OPERATIONS",
    "SINGLE",
    "Operation",
]

Operation = Callable[[Mask, np.random.Generator], Mask]
"""Takes a mask [H, W] and a generator, returns a new mask of the same shape."""


def _invert(mask: Mask, rng: np.random.Generator) -> Mask:
    return as_mask(mask == 0)


def _constant(mask: Mask, rng: np.random.Generator, *, value: int) -> Mask:
    return np.full_like(mask, value)


def _random(mask: Mask, rng: np.random.Generator, *, density: float) -> Mask:
    return as_mask(rng.random(mask.shape) < density)


def _operation(function: Callable[..., Mask], **options: Any) -> Operation:
    def apply(mask: Mask, rng: np.random.Generator) -> Mask:
        return function(as_mask(np.asarray(mask)), rng, **options)

    apply.__name__ = function.__name__
    apply.__doc__ = function.__doc__
    return apply


_SINGLE: dict[str, tuple[float, Operation]] = {
    "erosion_5": (1.0, _operation(morphology.erosion, size=5)),
    "erosion_7": (1.0, _operation(morphology.erosion, size=7)),
    "erosion_9": (0.8, _operation(morphology.erosion, size=9)),
    "dilation_5": (1.0, _operation(morphology.dilation, size=5)),
    "dilation_7": (1.0, _operation(morphology.dilation, size=7)),
    "dilation_9": (0.8, _operation(morphology.dilation, size=9)),
    "opening_5": (0.5, _operation(morphology.opening, size=5)),
    "closing_5": (0.5, _operation(morphology.closing, size=5)),
    "ellipse_fit": (1.0, _operation(shapes.ellipse_fit)),
    "polygon_3": (0.5, _operation(shapes.polygon, sides=3)),
    "polygon_5": (0.8, _operation(shapes.polygon, sides=5)),
    "polygon_8": (0.8, _operation(shapes.polygon, sides=8)),
    "convex_hull": (1.0, _operation(shapes.convex_hull)),
    "bounding_box": (0.5, _operation(shapes.bounding_box)),
    "jagged_3": (1.0, _operation(morphology.jagged_boundary, size=3)),
    "jagged_5": (1.0, _operation(morphology.jagged_boundary, size=5)),
    "smooth_11": (0.8, _operation(morphology.smooth_boundary, size=11)),
    "smooth_15": (0.8, _operation(morphology.smooth_boundary, size=15)),
    "elastic_low": (1.0, _operation(warps.elastic, alpha=30.0, sigma=4.0)),
    "elastic_high": (0.8, _operation(warps.elastic, alpha=60.0, sigma=5.0)),
    "grid_low": (1.0, _operation(warps.grid_distortion, steps=5, limit=0.2)),
    "grid_high": (0.7, _operation(warps.grid_distortion, steps=8, limit=0.4)),
    "holes_small": (1.0, _operation(structure.holes, count=2, radius=(3, 8))),
    "holes_large": (0.8, _operation(structure.holes, count=3, radius=(8, 15))),
    "islands_small": (1.0, _operation(structure.islands, count=2, radius=(3, 8))),
    "holes_islands": (1.0, _operation(structure.holes_and_islands, count=2, radius=(5, 15))),
    "largest_component": (0.8, _operation(structure.keep_largest)),
    "drop_component": (0.5, _operation(structure.drop_component)),
    "rectangle_dropout": (0.8, _operation(structure.rectangle_dropout, side=(0.1, 0.3))),
    "shift_10": (1.0, _operation(warps.shift, limit=0.1)),
    "shift_20": (0.8, _operation(warps.shift, limit=0.2)),
    "shift_30": (0.5, _operation(warps.shift, limit=0.3)),
    "scale_down": (1.0, _operation(warps.scale, factor=(0.75, 0.9))),
    "scale_up": (1.0, _operation(warps.scale, factor=(1.1, 1.25))),
    "rotate_15": (1.0, _operation(warps.rotate, degrees=15.0)),
    "rotate_30": (0.7, _operation(warps.rotate, degrees=30.0)),
    "affine": (0.8, _operation(warps.affine, factor=(0.9, 1.1), limit=0.1, degrees=15.0)),
    "gaussian_blob": (1.0, _operation(shapes.gaussian_blob, factor=1.0)),
    "gaussian_blob_large": (0.7, _operation(shapes.gaussian_blob, factor=1.2)),
    "circular_blob": (0.8, _operation(shapes.circular_blob)),
}

_HEAVY: dict[str, tuple[float, Operation]] = {
    "erosion_11": (1.0, _operation(morphology.erosion, size=11)),
    "dilation_11": (1.0, _operation(morphology.dilation, size=11)),
    "shift_40": (1.0, _operation(warps.shift, limit=0.4)),
    "scale_very_small": (1.0, _operation(warps.scale, factor=(0.5, 0.7))),
    "scale_very_large": (1.0, _operation(warps.scale, factor=(1.4, 1.6))),
    "grid_very_high": (1.0, _operation(warps.grid_distortion, steps=12, limit=0.6)),
    "holes_many": (1.0, _operation(structure.holes, count=5, radius=(10, 20))),
}

_CATASTROPHIC: dict[str, tuple[float, Operation]] = {
    "invert": (1.0, _operation(_invert)),
    "empty": (0.5, _operation(_constant, value=0)),
    "full": (0.5, _operation(_constant, value=1)),
    "random": (0.3, _operation(_random, density=0.5)),
}

_ALL = _SINGLE | _HEAVY | _CATASTROPHIC
_REPLACING = ("gaussian_blob", "gaussian_blob_large", "circular_blob")

OPERATIONS: Mapping[str, Operation] = {name: op for name, (_, op) in _ALL.items()}
"""Every operation by name."""

SINGLE: Mapping[str, float] = {name: weight for name, (weight, _) in _SINGLE.items()}
"""Weights of the 40 operations that are applied alone."""

CHAINED: Mapping[str, float] = {n: w for n, w in SINGLE.items() if n not in _REPLACING}
"""Those that may follow each other; a blob would hide what came before it."""

HEAVY: Mapping[str, float] = {name: weight for name, (weight, _) in _HEAVY.items()}
"""Weights of the strong ones."""

CATASTROPHIC: Mapping[str, float] = {name: weight for name, (weight, _) in _CATASTROPHIC.items()}
"""Weights of those that leave nothing of the object."""

BLOBS: Mapping[str, float] = dict.fromkeys((*_REPLACING, "convex_hull", "bounding_box"), 1.0)
"""Weights of the shapes that early predictions resemble."""
