"""One image as it was read, made to fit the task and the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedssl.data.intensity import local, resize_image, robust, window, zscore
from fedssl.errors import DataError
from fedssl.types import Task

__all__ = ["base_channels", "fit_mode", "prepare_image", "resampled_size", "with_channels"]


def base_channels(task: Task) -> int:
    """Return the channels of one image or slice; 2.5D stacks three slices of them."""
    return task.channels // 3 if task.mode == "2.5d" else task.channels


def fit_mode(array: np.ndarray, task: Task, path: Path) -> np.ndarray:
    """Return [C, H, W] in mode 2d and [C, D, H, W] in the other modes.

    Raises:
        DataError: a picture where the mode needs volumes, or the other way round.
    """
    volume = array.ndim == 4
    if task.mode != "2d" and not volume:
        raise DataError(
            f'{path} is a 2D picture, but mode = {task.mode!r} needs volumes. Set mode = "2d".'
        )
    if task.mode == "2d" and volume:
        if array.shape[1] != 1:
            raise DataError(
                f'{path} is a volume of {array.shape[1]} slices, but mode = "2d" needs pictures. '
                'Set mode = "slices", "2.5d" or "3d".'
            )
        return array[:, 0]
    return array


def with_channels(array: np.ndarray, wanted: int, path: Path) -> np.ndarray:
    """Return [wanted, *S]: a grey picture is repeated, equal colours become one channel.

    Raises:
        DataError: the channels do not fit the task.
    """
    have = len(array)
    if have == wanted:
        return array
    if have == 1 and wanted == 3:
        return np.repeat(array, 3, axis=0)
    if have == 3 and wanted == 1 and (array == array[:1]).all():
        return array[:1]
    if have == 3 and wanted == 1:
        raise DataError(
            f"{path} is a colour picture, but the task has one channel. Set channels = 3 in "
            "[task], or convert the pictures to grey."
        )
    raise DataError(
        f"{path} has {have} channels, but the task has {wanted}. Set channels = {have} in [task], "
        "or export the channels that the task needs."
    )


def prepare_image(
    image: np.ndarray,
    size: Sequence[int] | None,
    normalise: str = "zscore",
    intensity_window: tuple[float, float] | None = None,
) -> np.ndarray:
    """Return an image [C, *S] as the network sees it.

    Args:
        image: raw intensities.
        size: new length of the last axes, or None to keep them.
        normalise: `zscore`, `robust`, `local`, `window` or `none`.
        intensity_window: what `window` keeps.
    """
    if size is not None and image.shape[-len(size) :] != tuple(size):
        image = resize_image(image, size)
    if normalise == "window" and intensity_window is not None:
        return window(image, *intensity_window)
    return {"zscore": zscore, "robust": robust, "local": local}.get(normalise, np.asarray)(image)


def resampled_size(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]
) -> tuple[int, ...]:
    """Return the new length of the last `len(target)` axes, so that their spacing is `target`.

    Args:
        shape: *S.
        spacing: per axis of `shape`.
        target: wished spacing of the last axes, in the same unit.
    """
    axes = len(target)
    old = zip(shape[-axes:], spacing[-axes:], target, strict=True)
    return tuple(max(1, round(n * s / t)) for n, s, t in old)
