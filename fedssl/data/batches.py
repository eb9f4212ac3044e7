"""Batches for the training loop: drawn, cut, put on the device, augmented."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import numpy as np
import torch
from torch import Tensor

from fedssl.config import RunConfig
from fedssl.data.sampling import SamplePool, center_near, crop_or_pad, cut_start, take_slice
from fedssl.data.site_data import SiteTrainingData
from fedssl.data.sizes import padded_size
from fedssl.errors import DataError, TrainingError
from fedssl.types import LabeledBatch, Task, UnlabeledBatch

__all__ = ["Batches", "SiteTrainingData"]


class Batches:
    """The one place where training samples are drawn.

    A sample is an image (2d), a slice (slices), a slice with its neighbours as channels (2.5d) or a
    volume (3d), cropped to `patch-size` if that is set, else whole and padded at its end to what
    the network can halve. Nothing but the two generators decides what comes.

    Args:
        data: the site's training cases.
        run: batch size, patch size, share of foreground samples, augmentation.
        task: its mode decides what a sample is.
        rng: draws samples and crops.
        generator: draws augmentations; on the CPU.

    Raises:
        DataError: whole images of different sizes would have to go into one batch.
    """

    def __init__(
        self,
        data: SiteTrainingData,
        run: RunConfig,
        task: Task,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> None:
        self._data, self._run, self._task = data, run, task
        self._rng, self._generator = rng, generator
        self._size = data.patch or self._whole_size()
        self._all: SamplePool | None = None
        self._foreground: SamplePool | None = None
        self._unlabeled: tuple[tuple[int, ...], SamplePool] | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """Spatial size *S of every batch."""
        return self._size

    def next_labeled(self) -> LabeledBatch:
        """Return the next samples with masks.

        Raises:
            TrainingError: the site has no labeled training case.
        """
        from fedssl.data.augment import augment_labeled

        samples, wants_foreground = self._draw_labeled()
        images, labels = [], []
        for (case, position), wanted in zip(samples.tolist(), wants_foreground, strict=True):
            label = self._data.label_array(case)
            label = label[position] if self._sliced else label
            start = self._start(case, label, wanted and self._data.patch is not None)
            images.append(self._cut_image(case, position, start))
            labels.append(crop_or_pad(label, start, self._size, edge=False))
        image = self._on_device(images)
        label_map = self._on_device(labels).long()
        image, label_map = augment_labeled(image, label_map, self._run.augment, self._generator)
        return LabeledBatch(image, label_map, torch.from_numpy(samples[:, 0].copy()))

    def next_unlabeled(self) -> UnlabeledBatch:
        """Return the next samples without masks, with the maps stored for them.

        Raises:
            TrainingError: no case to draw from, or a drawn case lacks a map that others have.
        """
        from fedssl.data.augment import augment_unlabeled

        samples = self._draw_unlabeled()
        images: list[np.ndarray] = []
        maps: list[dict[str, np.ndarray]] = []
        for case, position in samples.tolist():
            start = cut_start(self._plane_shape(case), self._size, self._rng)
            images.append(self._cut_image(case, position, start))
            stored = self._data.stored_maps(case)
            maps.append({n: self._cut_map(m, position, start) for n, m in stored.items()})
        _check_same_names(maps, samples[:, 0])
        stacked = {name: self._on_device([m[name] for m in maps]) for name in maps[0]}
        views, stored_maps = augment_unlabeled(
            self._on_device(images), stacked, self._run.augment, self._generator
        )
        return UnlabeledBatch(views, stored_maps, torch.from_numpy(samples[:, 0].copy()))

    @property
    def _sliced(self) -> bool:
        return self._task.mode in ("slices", "2.5d")

    def _plane_shape(self, case: int) -> tuple[int, ...]:
        return self._data.prepared.cases[case].shape[-self._task.spatial_dims :]

    def _whole_size(self) -> tuple[int, ...]:
        """Return the one padded size of all training images."""
        depth = self._run.model.depth
        sizes: dict[tuple[int, ...], int] = {}
        for case in (*self._data.labeled, *self._data.unlabeled):
            sizes.setdefault(padded_size(self._plane_shape(case), depth), case)
        if len(sizes) > 1:
            first, second = list(sizes.values())[:2]
            cases = self._data.prepared.cases
            raise DataError(
                f"The images of this site differ in size: {cases[first].name!r} has "
                f"{self._plane_shape(first)}, {cases[second].name!r} has "
                f"{self._plane_shape(second)}. Set image-size to resize all of them, or patch-size "
                "to train on crops."
            )
        return next(iter(sizes), (2**depth,) * self._task.spatial_dims)

    def _pool(self, cases: Sequence[int], *, foreground: bool = False) -> SamplePool:
        rows: list[tuple[int, int]] = []
        for case in cases:
            counts = self._data.foreground_counts(case) if foreground else None
            if counts is not None and not self._sliced:
                counts = counts.sum(keepdims=True)
            rows += [
                (case, position)
                for position in range(self._data.samples_in(case))
                if counts is None or counts[position] > 0
            ]
        return SamplePool(np.array(rows, dtype=np.int64).reshape(-1, 2), self._rng)

    def _draw_labeled(self) -> tuple[np.ndarray, list[bool]]:
        """Return the rows and, for each, whether it is to show foreground."""
        if not self._data.labeled:
            raise TrainingError("This site has no labeled training case to draw from.")
        if self._all is None:
            self._all = self._pool(self._data.labeled)
        share, total = self._run.foreground_fraction, self._run.batch_size
        if self._foreground is None and share > 0:
            self._foreground = self._pool(self._data.labeled, foreground=True)
        # the share holds on average even where share * batch size is no integer
        count = floor(share * total + self._rng.random())
        if not self._foreground:
            count = 0
        rows = [self._foreground.draw(count)] if self._foreground and count else []
        if count < total:
            rows.append(self._all.draw(total - count))
        return np.concatenate(rows), [i < count for i in range(total)]

    def _draw_unlabeled(self) -> np.ndarray:
        kept = self._data.kept
        if not kept:
            raise TrainingError(
                "No unlabeled case is left to draw from: the site has none, or the method's trust "
                "threshold keeps none in this stage."
            )
        if self._unlabeled is None or self._unlabeled[0] != kept:
            self._unlabeled = (kept, self._pool(kept))
        return self._unlabeled[1].draw(self._run.batch_size)

    def _start(self, case: int, label: np.ndarray, near_foreground: bool) -> tuple[int, ...]:
        if not near_foreground:
            return cut_start(label.shape, self._size, self._rng)
        if self._sliced:
            counts = np.count_nonzero(label, axis=1)
        else:
            counts = self._data.foreground_counts(case)
        center = center_near(label, counts, self._size, self._rng)
        return cut_start(label.shape, self._size, self._rng, center)

    def _cut_image(self, case: int, position: int, start: Sequence[int]) -> np.ndarray:
        image = self._data.prepared.image(case)
        if self._sliced:
            image = take_slice(image, position, self._task.mode)
        return crop_or_pad(image, start, self._size, edge=True)

    def _cut_map(self, stored: np.ndarray, position: int, start: Sequence[int]) -> np.ndarray:
        plane = stored[:, position] if self._sliced else stored
        return crop_or_pad(plane, start, self._size, edge=False)

    def _on_device(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(self._data.device)


def _check_same_names(maps: Sequence[dict[str, np.ndarray]], cases: np.ndarray) -> None:
    for case, named in zip(cases.tolist(), maps, strict=True):
        if named.keys() != maps[0].keys():
            raise TrainingError(
                f"Case {case} has the stored maps {sorted(named)}, others have {sorted(maps[0])}; "
                "store the same maps for every case, or keep_only those that have them."
            )
