"""One picture per case: image, pseudo-label, uncertainty and trust mask, side by side."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure

from fedssl.pseudo import PseudoCase
from fedssl.types import Task

__all__ = ["pseudo_picture"]

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#f0e442")
"""A palette that people who are colour-blind can tell apart."""


def pseudo_picture(case: PseudoCase, task: Task) -> bytes:
    """Return a PNG file.

    Of a volume the slice with most of the pseudo-label is shown.

    Args:
        case: image and maps.
        task: names the classes.
    """
    image, label, uncertainty, trust, where = _plane(case)
    figure = Figure(figsize=(12, 3.6), layout="constrained", dpi=110)
    axes = figure.subplots(1, 4)
    for axis, title in zip(axes, ("image", "pseudo-label", "uncertainty", "trust"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    for axis in axes[:2]:
        axis.imshow(image, cmap="gray", interpolation="nearest")
    axes[1].imshow(_coloured(label, len(task.classes)), interpolation="nearest")
    shown = axes[2].imshow(uncertainty, cmap="magma", vmin=0, interpolation="nearest")
    figure.colorbar(shown, ax=axes[2], fraction=0.046)
    axes[3].imshow(trust, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    numbers = f"predicted Dice {case.predicted_dice:.3f}, trusted {case.trusted:.1%}"
    figure.suptitle(f"{case.name}{where}: {numbers}", fontsize=10)
    legend = [
        axes[1].plot([], [], "s", color=COLOURS[i % len(COLOURS)], label=name)[0]
        for i, name in enumerate(task.foreground)
    ]
    axes[1].legend(handles=legend, loc="lower right", fontsize=7)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _plane(
    case: PseudoCase,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    """Return displayable image, label, uncertainty and trust [H, W], and which slice it is."""
    maps = [case.label, case.uncertainty, case.trust]
    image, where = case.image, ""
    if case.label.ndim == 3:
        index = int((case.label > 0).sum((1, 2)).argmax())
        image, maps = image[:, index], [m[index] for m in maps]
        where = f", slice {index + 1} of {case.label.shape[0]}"
    shown = np.moveaxis(image, 0, -1) if len(image) == 3 else image[0]
    low, high = np.percentile(shown, (1, 99))
    scaled = np.clip((shown - low) / max(float(high - low), 1e-6), 0, 1)
    return scaled, maps[0], maps[1], maps[2], where


def _coloured(label: np.ndarray, classes: int) -> np.ndarray:
    """Return [H, W, 4]: nothing where there is background."""
    picture = np.zeros((*label.shape, 4))
    for index in range(1, classes):
        colour = COLOURS[(index - 1) % len(COLOURS)].lstrip("#")
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        picture[label == index] = [*rgb, 0.55]
    return picture
