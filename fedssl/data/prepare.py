"""From files to prepared arrays: cropped, resized, normalised; cached by what decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from fedssl.config import RunConfig
from fedssl.data.cache import (
    FORMAT_VERSION,
    CacheWriter,
    PreparedCase,
    PreparedSite,
    default_cache_dir,
    open_prepared,
)
from fedssl.data.cropping import Box, cut, foreground_box, whole
from fedssl.data.fitting import prepare_image, resampled_size
from fedssl.data.intensity import resize_label
from fedssl.data.sizes import parse_size, parse_spacing, parse_window
from fedssl.data.source import CaseSource
from fedssl.errors import ConfigError, DataError
from fedssl.types import Case, Task

__all__ = [
    "PreparePlan",
    "PreparedCase",
    "PreparedSite",
    "cropped",
    "prepare",
    "prepare_case",
    "prepare_site",
]

_MOST_VOXELS = 1 << 30
"""Of one resampled case; 4 GiB for a channel."""


@dataclass(frozen=True, slots=True)
class PreparePlan:
    """What is done to every case.

    Args:
        image_size: new (D,) H, W, or None to keep the size; slice modes resize H and W only.
        normalise: `zscore`, `robust`, `local`, `window` or `none`.
        mode: the task's mode.
        channels: the task's channels.
        target_spacing: new spacing in mm of the same axes, or None to keep it.
        intensity_window: what `window` keeps.
        crop: whether the dark surroundings of an image are cut off first.
    """

    image_size: tuple[int, ...] | None
    normalise: str
    mode: str
    channels: int
    target_spacing: tuple[float, ...] | None = None
    intensity_window: tuple[float, float] | None = None
    crop: bool = False

    @classmethod
    def from_run(cls, run: RunConfig, task: Task) -> PreparePlan:
        """Return the plan that a run configuration and a task ask for.

        Raises:
            ConfigError: two keys contradict each other, or one does not fit the task.
        """
        size = parse_size(run.image_size, task, "image-size")
        spacing = parse_spacing(run.target_spacing, task)
        if size is not None and spacing is not None:
            raise ConfigError(
                f"Keys 'image-size' = {run.image_size!r} and 'target-spacing' = "
                f"{run.target_spacing!r} both decide the size; set one of them to ''."
            )
        if run.normalise != "window" and run.intensity_window:
            raise ConfigError(
                f"Key 'intensity-window' = {run.intensity_window!r} needs normalise = 'window', "
                f"but normalise is {run.normalise!r}."
            )
        window = parse_window(run.intensity_window) if run.normalise == "window" else None
        return cls(size, run.normalise, task.mode, task.channels, spacing, window, run.crop)

    def box_of(self, case: Case) -> Box:
        """Return what of a case is kept."""
        return foreground_box(case.image) if self.crop else whole(case.image.shape[1:])

    def size_of(self, case: Case) -> tuple[int, ...] | None:
        """Return the new length of a case's last axes, or None to keep them.

        Raises:
            DataError: the plan names a spacing, but that of the case is unknown, or it would make
                the case too large for any memory.
        """
        if self.target_spacing is None:
            return self.image_size
        if case.distance_unit != "mm":
            raise DataError(
                f"Case {case.name!r} has no spacing in mm, so target-spacing = "
                f"{list(self.target_spacing)} cannot be reached. Give its site spacing = [x, y, z] "
                "in mm, or use image-size instead."
            )
        size = resampled_size(case.image.shape[1:], case.spacing, self.target_spacing)
        if prod(size) > _MOST_VOXELS:
            raise DataError(
                f"Case {case.name!r} has the spacing {list(case.spacing)} mm; target-spacing = "
                f"{list(self.target_spacing)} would make it {' x '.join(map(str, size))} voxels. "
                "Correct its header (or give its site spacing = [x, y, z]), or ask for a wider "
                "spacing."
            )
        return size


def prepare_site(
    source: CaseSource,
    plan: PreparePlan,
    run: RunConfig,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedSite:
    """Prepare into the run's `cache-dir`, or into the user's cache folder."""
    cache_dir = Path(run.cache_dir) if run.cache_dir else default_cache_dir()
    return prepare(source, plan, cache_dir, progress)


def prepare(
    source: CaseSource,
    plan: PreparePlan,
    cache_dir: Path,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedSite:
    """Return the prepared cases, from the cache if they are there.

    One case at a time is in memory. Several processes may prepare the same site at once: each
    succeeds, and one result is kept.

    Args:
        source: where the cases come from.
        plan: what is done to them.
        cache_dir: folder of prepared sites.
        progress: called with (cases done, cases) after every case.

    Raises:
        DataError: a case cannot be read, or the cache folder cannot be written.
    """
    key = _key(source, plan)
    found = open_prepared(cache_dir, key)
    if found is not None:
        return found
    with CacheWriter(cache_dir, key) as writer:
        for index, ref in enumerate(source.cases):
            case = source.read(index)
            box = plan.box_of(case)
            image, label, spacing = prepare_case(cropped(case, box), plan)
            writer.add(
                image,
                label,
                name=case.name,
                subject=case.subject,
                spacing=spacing,
                distance_unit=case.distance_unit,
                original_shape=case.image.shape[1:],
                box=box,
                split=ref.split,
            )
            if progress is not None:
                progress(index + 1, len(source.cases))
        writer.finish()
    found = open_prepared(cache_dir, key)
    if found is None:
        raise DataError(f"{cache_dir / key} vanished while it was prepared; run again.")
    return found


def _key(source: CaseSource, plan: PreparePlan) -> str:
    text = json.dumps([source.content_key(), asdict(plan), FORMAT_VERSION], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def cropped(case: Case, box: Box) -> Case:
    """Return a case that ends at a box of its image and mask.

    Raises:
        DataError: the mask has foreground outside the box, which nothing could be scored for.
    """
    label = case.label
    if label is not None:
        outside = np.count_nonzero(label) - np.count_nonzero(cut(label, box))
        if outside:
            raise DataError(
                f"Case {case.name!r} has {outside} voxels of its mask in the dark surroundings "
                "that crop = true cuts off. Check the mask, or set crop = false."
            )
        label = cut(label, box)
    return replace(case, image=cut(case.image, box), label=label)


def prepare_case(
    case: Case, plan: PreparePlan
) -> tuple[np.ndarray, np.ndarray | None, tuple[float, ...]]:
    """Return image, label and spacing (in units of the original) of one case."""
    label, spacing, size = case.label, case.spacing, plan.size_of(case)
    image = prepare_image(case.image, size, plan.normalise, plan.intensity_window)
    old, new = case.image.shape[1:], image.shape[1:]
    if size is not None and new != old:
        label = None if label is None else resize_label(label, size)
        spacing = tuple(s * o / n for s, o, n in zip(spacing, old, new, strict=True))
    return image, label, spacing
