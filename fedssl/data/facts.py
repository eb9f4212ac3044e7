"""What is known of one case after it was read; it stays at the site."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from fedssl.data.histograms import Counts, intensity_bins
from fedssl.types import Case, Task

__all__ = ["CaseFacts", "Moments", "case_facts"]

_AIR = -500.0
"""Below it lies what only Hounsfield units have: air and lung."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Intensities of a set of voxels.

    Args:
        count: voxels, over all channels.
        total: sum of their values.
        squares: sum of their squares.
        bins: see `fedssl.data.histograms.intensity_bins`.
    """

    count: int
    total: float
    squares: float
    bins: Counts

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Measure an array of any shape."""
        wide = np.ravel(values).astype(np.float64)
        return cls(wide.size, float(wide.sum()), float(wide @ wide), intensity_bins(values))


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """Facts about one case.

    Args:
        name: case name.
        subject: whose image it is.
        shape: *S.
        spacing: per axis of `shape`, in `unit`.
        unit: `mm` or `pixel`.
        low: smallest intensity.
        high: largest intensity.
        image: of all voxels.
        inside: of the voxels in any foreground class; None without a mask.
        voxels: voxels of each class; None without a mask.
        pixels: digest of shape and intensities; equal pictures have equal digests.
    """

    name: str
    subject: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    low: float
    high: float
    image: Moments
    inside: Moments | None
    voxels: tuple[int, ...] | None
    pixels: str

    @property
    def hounsfield(self) -> bool:
        """Whether the intensities look like those of a CT."""
        return -5000 < self.low < _AIR and self.high > 0


def case_facts(case: Case, task: Task) -> CaseFacts:
    """Measure one case; `task` gives the number of classes."""
    inside = voxels = None
    if case.label is not None:
        voxels = tuple(np.bincount(case.label.ravel(), minlength=task.num_classes).tolist())
        inside = Moments.of(case.image[:, case.label > 0])
    digest = hashlib.blake2b(repr(case.image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(case.image, dtype="<f4").tobytes())
    return CaseFacts(
        name=case.name,
        subject=case.subject,
        shape=tuple(case.image.shape[1:]),
        spacing=tuple(float(s) for s in case.spacing),
        unit=case.distance_unit,
        low=float(case.image.min()),
        high=float(case.image.max()),
        image=Moments.of(case.image),
        inside=inside,
        voxels=voxels,
        pixels=digest.hexdigest(),
    )
