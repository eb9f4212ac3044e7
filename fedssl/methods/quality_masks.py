"""Masks of known quality for a labeled site's images: corrupted, or predicted by weak models."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedssl.functional.consistency import hard_label, probabilities
from fedssl.functional.corruption import Mask, corrupt_classes, dice, soften
from fedssl.functional.labels import foreground_targets
from fedssl.methods.base import LocalSetup
from fedssl.methods.quality_config import guide_config
from fedssl.types import Arrays, LabeledBatch

__all__ = ["SNAPSHOTS", "GradedMasks", "MaskSource", "WeakModels", "snapshot_file"]

SNAPSHOTS = 5
"""Segmenters that a labeled site keeps from the warm-up; the sixth is the one it is sent."""

_BANK = 64
"""Masks of other images to swap with: as many as were seen last."""


def snapshot_file(index: int) -> str:
    """Return the name of a snapshot in the site's memory."""
    return f"snapshot-{index}"


@dataclass(frozen=True, slots=True)
class GradedMasks:
    """Pictures, a mask for each, and how good it is.

    Args:
        image: [N, C, H, W].
        mask: [N, F, H, W] float in [0, 1].
        quality: [N, F] Dice against the true mask; 1 where both are empty.
    """

    image: Tensor
    mask: Tensor
    quality: Tensor


class WeakModels:
    """The received segmenter, and those that the site kept during the warm-up.

    Args:
        setup: the objective's surroundings; its model holds the received weights.
    """

    def __init__(self, setup: LocalSetup) -> None:
        self._output = setup.task.output
        self._network = copy.deepcopy(setup.model).eval()
        kept = (setup.memory.load(snapshot_file(i)) for i in range(SNAPSHOTS))
        received = {k: v.clone() for k, v in self._network.state_dict().items()}
        self._states: list[Arrays] = [s for s in kept if s is not None] + [received]

    def __len__(self) -> int:
        return len(self._states)

    @torch.no_grad()
    def predict(self, index: int, image: Tensor) -> Mask:
        """Return the hard masks [B, F, *S] of one of them for images [B, C, *S]."""
        self._network.load_state_dict(self._states[index], strict=False)
        logits = self._network(image).logits
        masks: Mask = hard_label(probabilities(logits, self._output), self._output).cpu().numpy()
        return masks


@dataclass(frozen=True, slots=True)
class _Planes:
    """Which picture of a batch each mask is for: [N] samples, and [N] slices of volumes."""

    owner: NDArray[np.int64]
    slice: NDArray[np.int64] | None

    def of(self, maps: Tensor) -> Tensor:
        """Return [N, M, H, W] of maps [B, M, *S]."""
        owner = torch.from_numpy(self.owner)
        return maps[owner] if self.slice is None else maps[owner, :, torch.from_numpy(self.slice)]


class MaskSource:
    """Draws masks of all qualities for the images of a batch.

    Args:
        setup: its numpy generator decides everything.
        weak_share: how often a weak model's prediction is used.
    """

    def __init__(self, setup: LocalSetup, weak_share: float) -> None:
        self._task, self._config = setup.task, guide_config(setup.run)
        self._rng = setup.rng.numpy
        self._share = weak_share
        self._weak = WeakModels(setup)
        self._bank: deque[tuple[int, Mask]] = deque(maxlen=_BANK)

    def draw(self, batch: LabeledBatch) -> GradedMasks:
        """Return `masks-per-step` masks for each image; for volumes, each of a random slice."""
        count = self._config.masks_per_step
        owner = np.repeat(np.arange(len(batch.image)), count)
        volumes = batch.image.ndim == 5
        depth = self._rng.integers(batch.image.shape[2], size=len(owner)) if volumes else None
        planes = _Planes(owner, depth)
        targets = foreground_targets(batch.label, self._task.num_classes - 1, self._task.output)
        truth = planes.of(targets.to(torch.uint8)).cpu().numpy()
        cases = batch.case.numpy()[owner].tolist()
        self._bank.extend(zip(cases[::count], truth[::count], strict=True))
        drawn = [self._corrupted(t, case) for t, case in zip(truth, cases, strict=True)]
        self._put_predictions(drawn, batch.image, planes)
        masks, quality = zip(
            *(self._graded(m, t) for m, t in zip(drawn, truth, strict=True)), strict=True
        )
        return GradedMasks(
            planes.of(batch.image),
            torch.from_numpy(np.stack(masks)).to(batch.image),
            torch.tensor(quality).to(batch.image),
        )

    def _corrupted(self, truth: Mask, case: int) -> Mask:
        others = [mask for owner, mask in self._bank if owner != case]
        return corrupt_classes(
            truth, self._rng, bank=others, probabilities=self._config.probabilities
        ).masks

    def _put_predictions(self, drawn: list[Mask], image: Tensor, planes: _Planes) -> None:
        """Replace a share of the masks by what weak models predict, one of them for each."""
        chosen = np.flatnonzero(self._rng.random(len(drawn)) < self._share)
        models = self._rng.integers(len(self._weak), size=len(chosen))
        for index in np.unique(models).tolist():
            which = chosen[models == index]
            samples, position = np.unique(planes.owner[which], return_inverse=True)
            predicted = self._weak.predict(index, image[torch.from_numpy(samples)])
            for n, sample in zip(which.tolist(), position.tolist(), strict=True):
                mask = predicted[sample]
                drawn[n] = mask if planes.slice is None else mask[:, planes.slice[n]]

    def _graded(self, mask: Mask, truth: Mask) -> tuple[NDArray[np.float32], tuple[float, ...]]:
        if self._rng.random() < self._config.p_soft:
            return soften(mask, truth, self._rng)
        scores = tuple(dice(m, t) for m, t in zip(mask, truth, strict=True))
        return mask.astype(np.float32), scores
