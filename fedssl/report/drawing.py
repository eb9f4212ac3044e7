"""One case as panels: the image below, one transparent layer of indexed colours per panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedssl.evaluate import class_masks
from fedssl.report.layers import (
    CLASS_COLOURS,
    ERROR_COLOURS,
    UNTRUSTED,
    class_palette,
    difference_layer,
    difference_palette,
    displayable,
    mask_layer,
    slices_to_show,
    trust_layer,
    trust_palette,
)
from fedssl.report.png import Colour
from fedssl.types import Task

__all__ = ["Drawing", "Panel", "draw_evaluated", "draw_pseudo"]

_SLICES = 16
_PLANE, _VOLUME = 640, 256
"""Largest side in pixels of a stored picture, and of a stored slice."""


@dataclass(frozen=True, slots=True)
class Panel:
    """What lies over the image in one panel.

    Args:
        layer: [N, h, w] uint8 indices into `palette`, for the N chosen slices.
        palette: colours with alpha.
        legend: meaning -> colour as `#rrggbb`.
    """

    layer: np.ndarray
    palette: Sequence[Colour]
    legend: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Drawing:
    """One case, ready to be painted.

    Args:
        image: [N, H, W] or [N, H, W, 3] uint8, the chosen slices; N = 1 for a picture.
        panels: by name, in order: truth, prediction, differences, or
            pseudo, trust, hidden (the truth, for diagnostics).
        slices: positions of the N slices in the volume.
        start: which of the N has most foreground, of the true mask where there is one.
        depth: slices of the volume, 1 for a picture.
        aspect: width over height of a slice, in physical units.
    """

    image: np.ndarray
    panels: Mapping[str, Panel]
    slices: Sequence[int]
    start: int
    depth: int
    aspect: float


def draw_evaluated(
    image: np.ndarray,
    spacing: Sequence[float],
    task: Task,
    prediction: np.ndarray,
    truth: np.ndarray | None,
) -> Drawing:
    """Draw truth, prediction and where they differ.

    Args:
        image: [C, *S] prepared image.
        spacing: per axis of S.
        task: names the classes.
        prediction: label map [*S].
        truth: label map [*S], or None where no mask exists.
    """
    predicted = _planes(prediction)
    true = None if truth is None else _planes(truth)

    def panels(i: int) -> dict[str, Panel]:
        ours = {"prediction": _labels(predicted[i], task)}
        if true is None:
            return ours
        layer = difference_layer(true[i], predicted[i])
        kinds = list(ERROR_COLOURS.items())[: 3 if len(task.foreground) > 1 else 2]
        differences = Panel(layer, difference_palette(), dict(kinds))
        return {"truth": _labels(true[i], task), **ours, "differences": differences}

    if true is None:
        return _drawing(image, spacing, predicted > 0, predicted > 0, panels)
    focus = true if true.any() else predicted
    return _drawing(image, spacing, (true > 0) | (predicted > 0), focus > 0, panels)


def draw_pseudo(
    image: np.ndarray,
    spacing: Sequence[float],
    task: Task,
    pseudo: np.ndarray,
    trust: np.ndarray,
    truth: np.ndarray | None,
) -> Drawing:
    """Draw a pseudo-label, where it is trusted, and the hidden truth where it is on disk.

    Args:
        image: [C, *S] prepared image.
        spacing: per axis of S.
        task: names the classes.
        pseudo: [F, *S] binary pseudo-label.
        trust: [F, *S] binary trust mask; a pixel is shaded if any class distrusts it.
        truth: label map [*S], for the diagnostic panel, or None.
    """
    labels = pseudo.astype(bool).reshape(len(task.foreground), -1, *pseudo.shape[-2:])
    trusted: np.ndarray = np.all(trust.astype(bool).reshape(labels.shape), axis=0)

    def panels(i: int) -> dict[str, Panel]:
        masks = dict(zip(task.foreground, labels[:, i], strict=True))
        shades = {**_legend(task), "not trusted": UNTRUSTED}
        found = {
            "pseudo": Panel(mask_layer(masks), class_palette(task.foreground), _legend(task)),
            "trust": Panel(trust_layer(masks, trusted[i]), trust_palette(task.foreground), shades),
        }
        if truth is not None:
            found["hidden"] = _labels(_planes(truth)[i], task)
        return found

    anything: np.ndarray = np.any(labels, axis=0)
    return _drawing(image, spacing, anything, anything, panels)


def _drawing(
    image: np.ndarray,
    spacing: Sequence[float],
    foreground: np.ndarray,
    focus: np.ndarray,
    panels: Callable[[int], Mapping[str, Panel]],
) -> Drawing:
    flat = image.ndim == 3
    shown_voxels, focus_voxels = (np.count_nonzero(m, axis=(1, 2)) for m in (foreground, focus))
    slices, start = slices_to_show(shown_voxels, focus_voxels, _SLICES)
    per_slice = [panels(i) for i in slices]
    stacked = {
        name: Panel(np.stack([p[name].layer for p in per_slice]), first.palette, first.legend)
        for name, first in per_slice[0].items()
    }
    rgb = flat and image.shape[0] == 3
    shown = displayable(image, rgb=rgb, largest=_PLANE if flat else _VOLUME)[slices]
    aspect = (image.shape[-1] * spacing[-1]) / (image.shape[-2] * spacing[-2])
    return Drawing(shown, stacked, slices, start, 1 if flat else image.shape[1], float(aspect))


def _planes(label: np.ndarray) -> np.ndarray:
    array = np.asarray(label)
    return array[None] if array.ndim == 2 else array


def _labels(label: np.ndarray, task: Task) -> Panel:
    layer = mask_layer(class_masks(label, task))
    return Panel(layer, class_palette(task.foreground), _legend(task))


def _legend(task: Task) -> dict[str, str]:
    return {name: CLASS_COLOURS[i % len(CLASS_COLOURS)] for i, name in enumerate(task.foreground)}
