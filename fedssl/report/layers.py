"""Images and masks as pictures: gray or RGB below, indexed colours above. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from fedssl.report.png import Colour

__all__ = [
    "CLASS_COLOURS",
    "ERROR_COLOURS",
    "UNTRUSTED",
    "class_palette",
    "difference_layer",
    "difference_palette",
    "displayable",
    "mask_layer",
    "slices_to_show",
    "trust_layer",
    "trust_palette",
]

CLASS_COLOURS = (
    "#56b4e9",
    "#f0e442",
    "#cc79a7",
    "#00b187",
    "#e69f00",
    "#8da2ff",
    "#e2703a",
    "#ffffff",
)
"""Of Okabe and Ito, told apart with any colour vision; the dark ones lightened for gray images."""

ERROR_COLOURS = {"missed": "#e8388a", "extra": "#ffa51f", "wrong class": "#ffffff"}
UNTRUSTED = "#d81b60"

_FILL, _LINE = 84, 255
_SIDE = 256
_LARGEST = 1024
_WINDOW = (0.5, 99.5)


def displayable(image: np.ndarray, *, rgb: bool, largest: int) -> np.ndarray:
    """Return [D, H, W] or [1, H, W, 3] uint8 of a prepared image [C, D, H, W] or [C, H, W].

    One window for the whole case, so that slices keep their relative brightness. Without `rgb` the
    first channel is shown. Pictures with a side above `largest` are reduced by block means.
    """
    planes = image[:, None] if image.ndim == 3 else image
    shown = np.moveaxis(planes[:3], 0, -1) if rgb else planes[0]
    step = -(-max(shown.shape[1:3]) // largest)
    if step > 1:
        shown = _block_mean(shown, step)
    low, high = np.percentile(shown, _WINDOW)
    scaled = (shown - low) / max(high - low, 1e-6)
    return np.asarray(np.clip(scaled * 255, 0, 255).round(), dtype=np.uint8)


def _block_mean(planes: np.ndarray, step: int) -> np.ndarray:
    height, width = (size // step * step for size in planes.shape[1:3])
    cut = planes[:, :height, :width]
    blocks = cut.reshape(cut.shape[0], height // step, step, width // step, step, *cut.shape[3:])
    return np.asarray(blocks.mean((2, 4)))


def slices_to_show(foreground: np.ndarray, focus: np.ndarray, limit: int) -> tuple[list[int], int]:
    """Choose slices of a volume.

    Args:
        foreground: [D] voxels per slice of everything that is to be seen.
        focus: [D] voxels per slice of what matters most, e.g. of the true mask.
        limit: how many slices at most.

    Returns:
        Slices in order, spread over the foreground and a margin around it (over all slices where
        there is no foreground), and the position in that list of the one with most focus.
    """
    depth = len(foreground)
    found = np.flatnonzero(foreground)
    low, high = (int(found[0]), int(found[-1])) if found.size else (0, depth - 1)
    margin = 1 + (high - low) // 10
    low, high = max(0, low - margin), min(depth - 1, high + margin)
    spread = np.linspace(low, high, min(limit, high - low + 1)).round().astype(int)
    fullest = int(np.argmax(focus)) if focus.any() else (low + high) // 2
    # The fullest slice takes the place of its nearest neighbour, so the order stays.
    spread[np.abs(spread - fullest).argmin()] = fullest
    chosen = sorted({int(i) for i in spread})
    return chosen, chosen.index(fullest)


def class_palette(classes: Sequence[str]) -> list[Colour]:
    """Return the palette of `mask_layer`: transparent, then fill and outline of each class."""
    colours = [CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(len(classes))]
    pairs = [(_rgba(colour, _FILL), _rgba(colour, _LINE)) for colour in colours]
    return [(0, 0, 0, 0), *(colour for pair in pairs for colour in pair)]


def mask_layer(masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return indices [h, w] uint8 into `class_palette` for boolean masks [H, W], in class order.

    Small masks are drawn finer than they are, with the border where the interpolated mask is 1/2.
    """
    regions = [_resized(mask) for mask in masks.values()]
    layer = np.zeros(regions[0].shape, dtype=np.uint8)
    for index, region in enumerate(regions):
        layer[region] = 1 + 2 * index
    for index, region in enumerate(regions):
        layer[_outline(region)] = 2 + 2 * index
    return layer


def difference_palette() -> list[Colour]:
    """Return the palette of `difference_layer`."""
    return [(0, 0, 0, 0), *(_rgba(colour, 200) for colour in ERROR_COLOURS.values())]


def difference_layer(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return indices into `difference_palette` for two label maps [H, W]."""
    missed = (truth > 0) & (prediction == 0)
    extra = (truth == 0) & (prediction > 0)
    confused = (truth > 0) & (prediction > 0) & (truth != prediction)
    regions = [_resized(mask) for mask in (missed, extra, confused)]
    layer = np.zeros(regions[0].shape, dtype=np.uint8)
    for index, region in enumerate(regions, start=1):
        layer[region] = index
    return layer


def trust_palette(classes: Sequence[str]) -> list[Colour]:
    """Return the palette of `trust_layer`: that of the masks, then the shade of the rest."""
    return [*class_palette(classes), _rgba(UNTRUSTED, 150)]


def trust_layer(masks: Mapping[str, np.ndarray], trusted: np.ndarray) -> np.ndarray:
    """Return indices into `trust_palette`: pseudo-labels, shaded where a pixel is not trusted.

    Args:
        masks: pseudo-label [H, W] per class.
        trusted: [H, W] whether the pixel is trusted for every class.
    """
    layer = mask_layer(masks)
    outline = (layer > 0) & (layer % 2 == 0)
    layer[_resized(~trusted) & ~outline] = 1 + 2 * len(masks)
    return layer


def _resized(mask: np.ndarray) -> np.ndarray:
    side = max(mask.shape)
    if side > _LARGEST:
        step = -(-side // _LARGEST)
        return np.asarray(mask[::step, ::step], dtype=bool)
    factor = min(8, -(-_SIDE // side))
    if factor == 1:
        return np.asarray(mask, dtype=bool)
    fine = ndimage.zoom(mask.astype(np.float32), factor, order=1, mode="nearest", grid_mode=True)
    return np.asarray(fine > 0.5)


def _outline(region: np.ndarray) -> np.ndarray:
    width = max(1, round(max(region.shape) / 200))
    inner = ndimage.binary_erosion(region, iterations=width, border_value=1)
    return np.asarray(region & ~inner)


def _rgba(hex_: str, alpha: int) -> Colour:
    red, green, blue = (int(hex_[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue, alpha
